"""Traffic to measure failures with: a writer that commits at a steady pace, and WebSocket clients that note arrivals.

Every notification carries a number. Numbers increase in commit order, so what a client got can be judged without
looking into the bridge. All times are `time.time()`, to be compared with the bridge's log.
"""

import base64
import json
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg

from tests.support.oracle import Committed, View
from tests.support.process import wait_until

CHANNELS = ("match_change", "scoreboard_change", "playclock_change")
PER_SECOND = 300.0
LARGEST_TRANSACTION = 9
ROLLED_BACK = 0.1
"""The share of transactions that are rolled back."""
CATCH_UP_SECONDS = 1.0
"""A writer that was held up writes faster until it is on schedule again, but never makes up for more than this."""


@dataclass
class Writer:
    """Commits numbers from a thread, each transaction with a row, so that every outcome is known in the end."""

    conninfo: str
    per_second: float = PER_SECOND
    """Committed notifications; those that are rolled back come on top."""
    seed: int = 0
    after: int = 0
    """The first number is the one after this."""
    committed: dict[int, float] = field(default_factory=dict)
    """Number to the time at which its commit was sent, in commit order."""
    confirmed: dict[int, float] = field(default_factory=dict)
    """Number to the time at which its commit was answered."""
    channel_of: dict[int, str] = field(default_factory=dict)
    _unanswered: list[tuple[float, range]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> Self:
        """Begin, and wait for the first commit."""
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()
        wait_until(lambda: self.committed, lambda: "the writer has committed nothing")
        return self

    def stop(self, seconds: float = 60.0) -> None:
        """Let the transaction that is running end, and no other begin; then find out what was committed unanswered."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(seconds)
            assert not self._thread.is_alive(), "the writer hangs in a commit"
        if self._unanswered:
            with psycopg.connect(self.conninfo, autocommit=True) as connection:
                for sent, numbers in self._unanswered:
                    if connection.execute("SELECT FROM written WHERE first = %s", (numbers[0],)).fetchone() is not None:
                        self.committed |= dict.fromkeys(numbers, sent)
                        self.confirmed |= dict.fromkeys(numbers, time.time())
            self._unanswered.clear()
            self.committed = dict(sorted(self.committed.items()))

    @property
    def last(self) -> int:
        """The newest committed number; 0 before the first."""
        return next(reversed(self.committed), 0)

    def __post_init__(self) -> None:
        self._number = self.after

    def _run(self) -> None:
        chance = random.Random(self.seed)
        while not self._stop.is_set():
            try:
                with psycopg.connect(self.conninfo, autocommit=True, application_name="writer") as connection:
                    connection.execute("CREATE TABLE IF NOT EXISTS written (first bigint)")
                    self._write(connection, chance)
            except psycopg.OperationalError:
                self._stop.wait(0.05)

    def _write(self, connection: psycopg.Connection[Any], chance: random.Random) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            count = chance.randint(1, LARGEST_TRANSACTION)
            rolled_back = chance.random() < ROLLED_BACK
            if not rolled_back:
                due = max(due + count / self.per_second, time.monotonic() - CATCH_UP_SECONDS)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
            first, self._number = self._number + 1, self._number + count
            numbers = range(first, first + count)
            if rolled_back:
                self._send(connection, numbers, chance, "ROLLBACK")
                continue
            sent = time.time()
            try:
                self._send(connection, numbers, chance, "COMMIT")
            except psycopg.OperationalError:
                self._unanswered.append((sent, numbers))
                raise
            answered = time.time()
            self.committed.update(dict.fromkeys(numbers, sent))
            self.confirmed.update(dict.fromkeys(numbers, answered))

    def _send(self, connection: psycopg.Connection[Any], numbers: range, chance: random.Random, end: str) -> None:
        sends = []
        for number in numbers:
            channel = self.channel_of[number] = chance.choice(CHANNELS)
            sends.append(f"SELECT pg_notify('{channel}', '{{\"n\": {number}, \"match_id\": {number % 10}}}');")
        row = f"INSERT INTO written VALUES ({numbers[0]});"
        connection.execute(f"BEGIN; {row} {''.join(sends)} {end}".encode())


@dataclass(frozen=True)
class Arrival:
    """A message, and when it came."""

    at: float
    message: dict[str, Any]

    @property
    def number(self) -> int | None:
        return int(self.message["payload"]["n"]) if self.message["type"] == "notification" else None


class Reader:
    """Whoever has subscribed, and what came."""

    began: float
    """When it asked."""
    subscribed: float
    """When `subscribed` came; 0 before that."""
    ended: float | None = None
    """When the connection ended, if it did."""

    @property
    def arrivals(self) -> list[Arrival]:
        """Everything so far, `subscribed` first."""
        raise NotImplementedError

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [arrival.message for arrival in self.arrivals]

    def of_type(self, kind: str) -> list[Arrival]:
        return [arrival for arrival in self.arrivals if arrival.message["type"] == kind]

    @property
    def final_gaps(self) -> list[Arrival]:
        return [gap for gap in self.of_type("gap") if not gap.message.get("pending")]

    def has(self, number: int) -> bool:
        """Whether this number came; looks at the newest only, so ask while the traffic rests."""
        return any(arrival.number == number for arrival in reversed(self.arrivals))


class Client(Reader):
    """A WebSocket client on a bare socket, read by a thread of its own."""

    def __init__(self, url: str, path: str = "/ws") -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.began = time.time()
        self.subscribed = 0.0
        self.close_code: int | None = None
        self._raw: list[tuple[float, bytes]] = []
        self._parsed: list[Arrival] = []
        self._socket = socket.create_connection((parts.hostname, parts.port or 80), timeout=30)
        try:
            self._data = self._shake_hands(path, parts.netloc)
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(None)
        self._greeted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)
        self._thread.start()

    def _shake_hands(self, path: str, host: str) -> bytearray:
        """What has come after the answer's head."""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        data = b""
        while b"\r\n\r\n" not in data:
            more = self._socket.recv(4096)
            assert more, "the bridge closed the connection in the handshake"
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return bytearray(rest)

    def wait_until_subscribed(self, seconds: float = 60.0) -> Self:
        assert self._greeted.wait(seconds), "never subscribed"
        assert self.arrivals[0].message["type"] == "subscribed"
        return self

    @property
    def arrivals(self) -> list[Arrival]:
        while len(self._parsed) < len(self._raw):
            at, text = self._raw[len(self._parsed)]
            self._parsed.append(Arrival(at, json.loads(text)))
        return self._parsed

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _run(self) -> None:
        with suppress(OSError):
            self._take_frames()
            while data := self._socket.recv(262_144):
                self._data += data
                self._take_frames()
        self.ended = time.time()

    def _take_frames(self) -> None:
        now, at, data = time.time(), 0, self._data
        while len(data) - at >= 2:
            head, length = 2, data[at + 1]
            if length == 126:
                head, length = 4, int.from_bytes(data[at + 2 : at + 4])
            elif length == 127:
                head, length = 10, int.from_bytes(data[at + 2 : at + 10])
            if len(data) - at < head + length:
                break
            self._take(now, data[at] & 15, bytes(data[at + head : at + head + length]))
            at += head + length
        del data[:at]

    def _take(self, now: float, opcode: int, body: bytes) -> None:
        if opcode == 1:
            self._raw.append((now, body))
            if not self._greeted.is_set():
                self.subscribed = now
                self._greeted.set()
        elif opcode == 8:
            self.close_code = struct.unpack("!H", body[:2])[0] if body else None
        elif opcode == 9:
            self._socket.sendall(bytes((0x8A, 0x80 | len(body))) + bytes(4) + body)


@contextmanager
def clients(*urls: str) -> Iterator[list[Client]]:
    """One subscribed client for each URL."""
    made: list[Client] = []
    try:
        made.extend(map(Client, urls))
        yield [client.wait_until_subscribed() for client in made]
    finally:
        for client in made:
            client.close()


def view_of(name: str, client: Reader, writer: Writer, *, complete: bool = True) -> View:
    """What the oracle judges. The writer must have stopped."""
    return View(
        name=name,
        channels=frozenset(CHANNELS),
        asked=sum(at < client.began for at in writer.confirmed.values()),
        subscribed=sum(at <= client.subscribed for at in writer.committed.values()) if client.subscribed else None,
        messages=client.messages,
        complete=complete,
    )


def all_committed(writer: Writer) -> list[Committed]:
    """What the oracle judges by. The writer must have stopped."""
    return [(writer.channel_of[number], number) for number in writer.committed]


def first_after(client: Reader, writer: Writer, moment: float) -> float:
    """Seconds from this moment to the first arrival of something committed after it."""
    for arrival in client.arrivals:
        if arrival.at > moment and arrival.number is not None and writer.committed.get(arrival.number, 0) > moment:
            return arrival.at - moment
    raise AssertionError("nothing that was committed after the fault has arrived")


def longest_stall(client: Reader, since: float, until: float) -> float:
    """The longest time without an event in this span; all of it where nothing came."""
    arrived = [a.at for a in client.of_type("notification") if since <= a.at <= until]
    return max(later - earlier for earlier, later in pairwise([since, *arrived, until]))


def longest_delay(client: Reader, writer: Writer, since: float, until: float) -> float:
    """The longest that an event committed in this span took from its commit to the client."""
    delays = [
        arrival.at - sent
        for arrival in client.of_type("notification")
        if (sent := writer.committed.get(arrival.number or 0)) is not None and since <= sent <= until
    ]
    return max(delays)
