"""How `notify` and `tail` find the embedded bridge of this machine without settings.

A running embedded bridge leaves one small file, readable by its user alone, in a directory that only this user may
enter. Nothing in it is believed unless the directory and the file belong to the user, and the process that it names
still runs (a pid alone is not enough: pids are used again, so the file holds the process's start too).
"""

import contextlib
import dataclasses
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bridge.embedded import Servers
from bridge.errors import BridgeError

_LONGEST_FILE_BYTES = 65_536


@dataclasses.dataclass(frozen=True)
class Announcement:
    """A running embedded bridge. `url` is None where it serves no clients; `announced` orders them."""

    pid: int
    process_start: str
    announced: float
    database_url: str
    redis_url: str
    url: str | None


@contextlib.contextmanager
def announced(servers: Servers, url: str | None) -> Iterator[None]:
    """Let others of the same user find these servers during the block.

    Raises BridgeError where no directory is safe to write to.
    """
    pid = os.getpid()
    said = Announcement(pid, _process_start(pid), time.time(), servers.database_url, servers.redis_url, url)
    path = _writable_directory() / f"{pid}.json"
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        json.dump(dataclasses.asdict(said), file)
    fresh.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def newest(*, serving: bool = False) -> Announcement | None:
    """The embedded bridge that was announced last and still runs; `serving` asks for one with a URL for clients.

    Removes what processes that are gone have left behind.
    """
    found: list[Announcement] = []
    for directory in _directories():
        if not _private(directory, stat.S_ISDIR):
            continue
        for path in directory.glob("*.json"):
            announcement = _read(path)
            if announcement is None:
                path.unlink(missing_ok=True)
            elif announcement.url is not None or not serving:
                found.append(announcement)
    return max(found, key=lambda each: each.announced, default=None)


def _directories() -> list[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = [Path(runtime) / "notify-bridge"] if runtime and os.path.isdir(runtime) else []
    return [*own, Path(tempfile.gettempdir()) / f"notify-bridge-{os.geteuid()}"]


def _writable_directory() -> Path:
    for directory in _directories():
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
        if _private(directory, stat.S_ISDIR) and os.access(directory, os.W_OK):
            return directory
    names = " or ".join(map(str, _directories()))
    raise BridgeError(f"{names} is no directory of mode 0700 that belongs to this user")


def _private(path: Path, kind: Callable[[int], bool]) -> bool:
    """Whether it is of this kind, no symlink, and belongs to this user alone."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return kind(status.st_mode) and status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077


def _read(path: Path) -> Announcement | None:
    if not _private(path, stat.S_ISREG):
        return None
    try:
        text = path.read_bytes()[:_LONGEST_FILE_BYTES]
        announcement = Announcement(**json.loads(text))
        runs = _process_start(announcement.pid) == announcement.process_start
    except (OSError, ValueError, TypeError):
        return None
    return announcement if runs else None


def _process_start(pid: int) -> str:
    """What tells this process from a later one with the same pid. Raises OSError where no such process runs."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        os.kill(pid, 0)  # a system without /proc: the pid has to do
        return ""
    fields = line.rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(f"process {pid} has ended")
    return fields[19]
