"""`python -m bridge …` as a process of its own, and a WebSocket client that other people wrote."""

import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import websockets.sync.client
from websockets.sync.connection import Connection

START_SECONDS = 60.0
END_SECONDS = 60.0


def clean_environment(settings: dict[str, str]) -> dict[str, str]:
    """This process's environment without any setting of the bridge, and with these."""
    ours = re.compile(r"BRIDGE_(?!TEST)|DB_|DATABASE_URL$|REDIS_URL$|USE_REDIS_NOTIFIER$|PG")
    return {key: value for key, value in os.environ.items() if not ours.match(key)} | settings


class BridgeProcess:
    """A running command of the bridge, or another module, that listens.

    `url` is where; `log()` is what it has written to standard error so far.
    """

    def __init__(self, arguments: tuple[str, ...], settings: dict[str, str], directory: Path) -> None:
        self._log = directory / "stderr"
        self._directory = directory
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *([] if "." in arguments[0] else ["bridge"]), *arguments],
                env=clean_environment(settings) | {"PYTHONPATH": str(Path.cwd())},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.url = ""

    def wait_until_listening(self) -> Self:
        assert self.process.stdout is not None
        if select.select([self.process.stdout], [], [], START_SECONDS)[0]:
            line = self.process.stdout.readline()
            if found := re.fullmatch(r"Listening on (https?://\S+)\n", line):
                self.url = found[1]
                return self
        raise AssertionError(f"the bridge does not listen; it says:\n{self.log()}")

    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of one GET."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def status(self) -> Any:
        return json.loads(self.get("/status")[1])

    def wait_until_ready(self) -> Self:
        wait_until(lambda: self.get("/ready")[0] == 200, what=lambda: f"not ready; it says:\n{self.log()}")
        return self

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(END_SECONDS)

    @contextmanager
    def client(self, path: str = "/ws") -> Iterator["JsonClient"]:
        """A WebSocket client that has been told `subscribed`."""
        with websockets.sync.client.connect(
            self.url.replace("http", "ws", 1) + path, max_size=None, max_queue=None, proxy=None
        ) as connection:
            client = JsonClient(connection)
            assert client.next()["type"] == "subscribed"
            yield client


class JsonClient:
    """Messages as values."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @property
    def close_code(self) -> int | None:
        """Of the close frame that has come; None where none has."""
        received = self.connection.protocol.close_rcvd
        return None if received is None else received.code

    def next(self, seconds: float = 60.0) -> Any:
        return json.loads(self.connection.recv(seconds))

    def take(self, count: int, seconds: float = 60.0) -> list[Any]:
        """The next `count` messages, all within so many seconds."""
        deadline = time.monotonic() + seconds
        return [self.next(deadline - time.monotonic()) for _ in range(count)]


@contextmanager
def bridge(settings: dict[str, str], *arguments: str) -> Iterator[BridgeProcess]:
    """A bridge that listens, in a directory of its own; killed at the end if it has not ended by itself."""
    with tempfile.TemporaryDirectory() as directory:
        running = BridgeProcess(arguments, settings, Path(directory))
        try:
            yield running.wait_until_listening()
        finally:
            running.process.kill()
            running.process.wait()
            assert running.process.stdout is not None
            running.process.stdout.close()


def wait_until(condition: Callable[[], object], what: Callable[[], str], seconds: float = 60.0) -> None:
    """Poll what has no event to wait for: another process."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(what())
        time.sleep(0.02)
