"""An ASGI application under a server that other people wrote, as a process group of its own, watched from outside."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.postgres import free_port
from tests.support.process import END_SECONDS, clean_environment, wait_until

START_SECONDS = 60.0
"""Several interpreters start at once, and a busy machine has two cores."""


class Application:
    """A server process and its workers. `log()` is what all of them have written so far."""

    def __init__(self, arguments: tuple[str, ...], settings: dict[str, str], directory: Path, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = directory / "log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=clean_environment(settings) | {"PYTHONPATH": str(Path.cwd())},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body of one GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def health(self) -> Any:
        """What ``/health`` says; None while nobody answers."""
        try:
            status, body = self.get("/health")
        except OSError:
            return None
        return json.loads(body) if status == 200 else None

    def wait_for(self, mode: str) -> None:
        """Wait until whichever worker answers hears events in this way."""
        wait_until(
            lambda: (self.health() or {}).get("mode") == mode,
            lambda: f"{self.health()}, and not in mode {mode}:\n{self.log()[-4000:]}",
            START_SECONDS,
        )

    def workers(self) -> list[int]:
        """The processes that take connections."""
        return [pid for pid in _group(self.process.pid) if _listens(pid, self.port) and pid != self.process.pid]

    def wait_for_workers(self, count: int) -> list[int]:
        """Wait until so many workers have begun to serve, beside those that have ended; their pids."""
        said = "Application startup complete"
        before = self.log().count(said)
        wait_until(
            lambda: len(self.workers()) == count and self.log().count(said) >= max(count, before),
            lambda: f"{len(self.workers())} workers:\n{self.log()[-4000:]}",
            START_SECONDS,
        )
        return self.workers()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal to the server, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(END_SECONDS)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @contextmanager
    def only(self, worker: int) -> Iterator[None]:
        """While inside, nobody but this worker takes connections."""
        others = [pid for pid in self.workers() if pid != worker]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@contextmanager
def uvicorn(settings: dict[str, str], app: str, *arguments: str) -> Iterator[Application]:
    """An application under uvicorn; all its processes are killed at the end."""
    port = free_port()
    with _running(("uvicorn", app, "--port", str(port), *arguments), settings, port) as application:
        yield application


@contextmanager
def hypercorn(settings: dict[str, str], app: str, *arguments: str) -> Iterator[Application]:
    """The same under hypercorn."""
    port = free_port()
    with _running(("hypercorn", app, "--bind", f"127.0.0.1:{port}", *arguments), settings, port) as application:
        yield application


@contextmanager
def _running(arguments: tuple[str, ...], settings: dict[str, str], port: int) -> Iterator[Application]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        application = Application(arguments, settings, directory, port)
        stack.callback(application.kill)
        yield application


class Blocks:
    """A stream of server-sent events, read until it ends."""

    def __init__(self, application: Application, path: str = "/sse", **headers: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", application.port), timeout=30)
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{application.port}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.text = ""

    def until(self, part: str) -> str:
        """Read until this has come."""
        while part not in self.text:
            assert self._more(), f"the stream ended:\n{self.text}"
        return self.text

    def rest(self) -> str:
        """Read to the end of the response."""
        while not self.text.endswith("0\r\n\r\n") and self._more():
            pass
        return self.text

    def close(self) -> None:
        self._socket.close()

    def _more(self) -> bool:
        data = self._socket.recv(65536)
        self.text += data.decode()
        return bool(data)


def _group(leader: int) -> list[int]:
    """The processes of this one's group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == leader and fields[0] != "Z":
                    found.append(int(entry.name))
    return sorted(found)


def _listens(pid: int, port: int) -> bool:
    """Whether a process has the listening socket of this port open, and has begun to use an event loop."""
    inode = _listening_inode(port)
    if inode is None:
        return False
    links = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                links.add(os.readlink(link))
    return f"socket:[{inode}]" in links and "anon_inode:[eventpoll]" in links


def _listening_inode(port: int) -> str | None:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
            return fields[9]
    return None
