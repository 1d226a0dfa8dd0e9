"""Processes of the bridge that the suite starts itself: `python -m bridge …`, as a user does."""

import importlib.util
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from conformance.lib.wait import wait_for
from conformance.lib.web import Answer, request

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
END_SECONDS = 30.0
COMMAND_SECONDS = 60.0

_SETTINGS = re.compile(r"BRIDGE_|CONFORMANCE_|DB_|DATABASE_URL$|REDIS_URL$|USE_REDIS_NOTIFIER$|PG|XDG_RUNTIME_DIR$")


def environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these settings of the bridge and no others; what it leaves goes below `home`."""
    if importlib.util.find_spec("bridge") is None:
        pytest.skip("the bridge is not installed here: only a deployment elsewhere can be checked")
    kept = {name: value for name, value in os.environ.items() if not _SETTINGS.match(name)}
    paths = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": paths, "XDG_RUNTIME_DIR": str(home), "TMPDIR": str(home), **settings}


def run(
    home: Path, arguments: Sequence[str], *, given: str | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in the directory `home`."""
    return subprocess.run(
        [sys.executable, "-m", "bridge", *arguments],
        cwd=home,
        env=environment(home, settings),
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


class Process:
    """A command that runs in a directory of its own. `log()` is what it has written to standard error so far."""

    def __init__(self, arguments: Sequence[str], settings: Mapping[str, str], home: Path) -> None:
        self.home = home
        self.url = ""
        with (home / "stderr").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bridge", *arguments],
                cwd=home,
                env=environment(home, settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, seconds: float = START_SECONDS) -> str:
        """The next line of standard output, without its end; empty where standard output has ended."""
        return self._take(seconds).rstrip("\n")

    def rest(self) -> str:
        """What is left of standard output, when the process has ended."""
        return "".join(iter(self._take, ""))

    def listening(self) -> Self:
        """Wait for the line that is promised."""
        line = self.line()
        match = re.fullmatch(r"Listening on (https?://\S+:\d+)", line)
        assert match, f"{line!r} is on standard output; the log:\n{self.log()}"
        self.url = match[1]
        return self

    def healthy(self, status: str = "ok", seconds: float = 60.0) -> Self:
        """Wait until /health says this status."""
        wait_for(lambda: self.get("/health").json()["status"] == status, f"{status}; the log:\n{self.log()}", seconds)
        return self

    def get(self, path: str) -> Answer:
        return request(self.url, path)

    def log(self) -> str:
        return (self.home / "stderr").read_text(encoding="utf-8", errors="replace")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait for the end, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(END_SECONDS)

    def wait(self, seconds: float = END_SECONDS) -> int:
        return self.process.wait(seconds)

    def bury(self) -> None:
        """Kill it if it still runs."""
        self.process.kill()
        self.process.wait()
        self._reader.join(END_SECONDS)

    def _take(self, seconds: float = START_SECONDS) -> str:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"nothing on standard output; the log:\n{self.log()}") from None
        if not line:
            self._lines.put("")
        return line

    def _read(self) -> None:
        """Into a queue, so that it can be waited for whole lines, however they come."""
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._lines.put(line)
        self._lines.put("")


class Nursery:
    """Where processes are started, and ended in the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def start(self, *arguments: str, **settings: str) -> Process:
        """Begin to start a command; what it prints has still to be waited for."""
        home = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="conformance-"))
        process = Process(arguments, settings, Path(home))
        self._stack.callback(process.bury)
        return process

    def home(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="conformance-")))


@contextmanager
def nursery() -> Iterator[Nursery]:
    with ExitStack() as stack:
        yield Nursery(stack)
