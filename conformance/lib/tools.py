"""psql and redis-cli: the only ways in which the suite touches PostgreSQL and Redis."""

import csv
import io
import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from conformance.lib.wait import wait_for
from tests.support.programs import found

SECONDS = 60.0


def quoted(text: str) -> str:
    """An SQL literal."""
    return "'" + text.replace("'", "''") + "'"


class Psql:
    """psql, by a command that connects to the database."""

    def __init__(self, command: Sequence[str]) -> None:
        found(command[0])
        self.command = [*command, "-X", "-q", "-t", "-v", "ON_ERROR_STOP=1"]

    def rows(self, sql: str) -> list[list[str]]:
        """Run statements and return the rows of all of them. Each is a transaction of its own but between BEGIN and
        COMMIT."""
        done = subprocess.run(
            [*self.command, "--csv", "-f", "-"],
            input=f"\\encoding UTF8\n{sql};\n",
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"psql: {done.stderr}"
        return list(csv.reader(io.StringIO(done.stdout)))

    def notify(self, *sent: tuple[str, str]) -> None:
        """Channels and payloads, in one transaction."""
        calls = "".join(f"SELECT pg_notify({quoted(channel)}, {quoted(payload)});" for channel, payload in sent)
        self.rows(f"BEGIN; {calls} COMMIT")


class RedisCli:
    """redis-cli, by a command that connects to the server."""

    def __init__(self, command: Sequence[str]) -> None:
        found(command[0])
        self.command = list(command)

    def run(self, *arguments: str) -> list[str]:
        """The lines of one answer."""
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, f"redis-cli: {done.stderr or done.stdout}"
        return done.stdout.splitlines()

    @contextmanager
    def subscribed(self, channel: str) -> Iterator["Subscriber"]:
        """`redis-cli SUBSCRIBE channel` while inside, from when Redis has said that it is subscribed."""
        process = subprocess.Popen(
            [*self.command, "SUBSCRIBE", channel],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        subscriber = Subscriber(process)
        try:
            assert subscriber.line() == "subscribe"
            assert subscriber.line() == channel
            subscriber.line()
            yield subscriber
        finally:
            subscriber.end()


class Subscriber:
    """What redis-cli prints: three lines for a message."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def line(self, seconds: float = SECONDS) -> str:
        return self._lines.get(timeout=seconds)

    def message(self, seconds: float = SECONDS) -> Any:
        """The JSON of the next message."""
        assert self.line(seconds) == "message"
        self.line()
        return json.loads(self.line())

    def end(self) -> None:
        self._process.kill()
        self._process.wait(SECONDS)
        self._thread.join(SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))


class Writer:
    """Commits numbered payloads through one psql at a steady pace, in a thread; some are rolled back.

    Payloads are ``{"run": RUN, "n": NUMBER}``. A number counts as committed when psql has said so at the end.
    """

    def __init__(
        self, psql: Psql, run: str, channels: Sequence[str], per_second: float = 100.0, after: int = 0
    ) -> None:
        self.run = run
        self.last = after
        """The newest number that has been handed to psql for good."""
        self._channels = channels
        self._pause_seconds = 1 / per_second
        self._ending = threading.Event()
        self._process = subprocess.Popen(
            [*psql.command, "-f", "-", "-o", os.devnull],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def successor(self, psql: Psql) -> "Writer":
        """A writer that goes on after this one, which has stopped."""
        return Writer(psql, self.run, self._channels, 1 / self._pause_seconds, self.stop())

    def stop(self) -> int:
        """End, and return how many numbers were committed: all from 1 on."""
        if not self._ending.is_set():
            self._ending.set()
            self._thread.join(SECONDS)
            _, errors = self._process.communicate(timeout=SECONDS)
            assert self._process.returncode == 0, f"the writer's psql ended: {errors}"
        return self.last

    def reaches(self, more: int) -> None:
        """Wait until so many more have been written."""
        goal = self.last + more
        wait_for(lambda: self.last >= goal, f"the writer writes; its psql says {self._process.poll()}")

    def _write(self) -> None:
        assert self._process.stdin is not None
        while not self._ending.wait(self._pause_seconds):
            number = self.last + 1
            if number % 10 == 0:
                self._process.stdin.write(f"BEGIN; {self._call(-number)}; ROLLBACK;\n")
            self._process.stdin.write(f"{self._call(number)};\n")
            self._process.stdin.flush()
            self.last = number

    def _call(self, number: int) -> str:
        payload = json.dumps({"run": self.run, "n": number})
        return f"SELECT pg_notify('{self._channels[number % len(self._channels)]}', '{payload}')"


@contextmanager
def writing(psql: Psql, channels: Sequence[str], run: str, per_second: float = 100.0) -> Iterator[Writer]:
    """A writer that has stopped at the end of the block at the latest."""
    writer = Writer(psql, run, channels, per_second)
    try:
        yield writer
    finally:
        writer.stop()
