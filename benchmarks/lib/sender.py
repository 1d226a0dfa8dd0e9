"""Notifications whose exact time of sending is known, from a small program in C: `sender.c`.

It writes into sessions of PostgreSQL that psycopg opened, so that nothing but PostgreSQL decides how fast it goes.
"""

import array
import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import psycopg

from benchmarks.lib.compiled import compiled
from benchmarks.lib.failure import BenchmarkFailed

CHANNEL = "match_change"
SUBJECTS = 1000
"""Other values of `match_id` there are not, unless somebody asks for more."""
REST = '"clock":"11:42","quarter":3,"home":24'
"""Makes payloads of some 60 bytes: `{"n":0,"match_id":0,REST}`."""
SEND_SECONDS = 120.0

Session: TypeAlias = "psycopg.Connection[tuple[object, ...]]"
Times: TypeAlias = "array.array[int]"
"""Nanoseconds of CLOCK_MONOTONIC by the number of the event; 0: none."""


def session(database_url: str) -> Session:
    """A session whose socket the programs in C can use: without encryption, in autocommit."""
    return psycopg.connect(database_url, autocommit=True, sslmode="disable", gssencmode="disable", connect_timeout=10)


@contextlib.contextmanager
def sessions(database_url: str, count: int) -> Iterator[list[Session]]:
    """So many of them."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(session(database_url)) for _ in range(count)]


class Sending:
    """A sender at work, in a process of its own."""

    def __init__(self, how: str, opened: Sequence[Session], count: int, subjects: int, rest: str, last: float) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._path = Path(self._directory.name) / "times"
        numbers = [each.fileno() for each in opened]
        arguments = [how, ",".join(map(str, numbers)), CHANNEL, count, subjects, rest, self._path, last]
        self._process = subprocess.Popen([compiled("sender"), *map(str, arguments)], pass_fds=numbers)

    def wait(self, seconds: float = SEND_SECONDS) -> Times:
        """Until all are committed; when each left, as nanoseconds of CLOCK_MONOTONIC."""
        with self._directory:
            try:
                failed = self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                failed = self._process.wait()
            if failed:
                raise BenchmarkFailed("the notifications could not be sent")
            return read_times(self._path)


def paced(database_url: str, count: int, per_second: float, *, subjects: int = SUBJECTS, rest: str = REST) -> Times:
    """Send on an absolute schedule, each its own transaction; when each left."""
    with session(database_url) as opened:
        return Sending("paced", [opened], count, subjects, rest, per_second).wait()


def flood(database_url: str, count: int, connections: int, depth: int) -> Times:
    """Send as fast as PostgreSQL takes them, each its own transaction, `depth` unanswered on each connection."""
    with sessions(database_url, connections) as opened:
        return Sending("flood", opened, count, SUBJECTS, REST, depth).wait()


def transaction(opened: Session, count: int, *, subjects: int = SUBJECTS, rest: str = REST) -> None:
    """All of one transaction, up to its COMMIT, which is left to the caller."""
    payload = """'{"n":' || n || ',"match_id":' || n %% %s || ',' || %s || '}'"""
    query = f"SELECT count(pg_notify(%s, {payload})) FROM generate_series(0, %s) AS n"
    opened.execute(b"BEGIN")
    opened.execute(query.encode(), (CHANNEL, subjects, rest, count - 1))


def read_times(path: Path) -> Times:
    """What the programs in C write."""
    values: Times = array.array("q")
    with path.open("rb") as file:
        values.fromfile(file, path.stat().st_size // values.itemsize)
    return values
