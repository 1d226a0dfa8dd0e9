"""A PostgreSQL in memory: one queue of notifications in commit order, and sessions that hear it.

A session is the bridge's own `ListenSession` on a `Connection` that stands where libpq would: it has a real socket,
on which one byte says that something has arrived.
"""

import math
import re
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import anyio
import msgspec
import psycopg
from psycopg import pq

from bridge.core.events import Marker
from bridge.errors import PostgresLost
from bridge.links.postgres import ListenSession
from bridge.links.postgres_start import DatabaseIdentity, SessionOptions
from tests.sim.wire import Path

EPOCH_SECONDS = 1_700_000_000
_PROBE = re.compile(rb"pg_notify\('bridge_probe', '(.*)'\)")


@dataclass(frozen=True)
class Notify:
    """A notification as psycopg gives it."""

    relname: bytes
    be_pid: int
    extra: bytes


class Answer:
    """The result of a probe's query."""

    status = pq.ExecStatus.TUPLES_OK


Arrival = Notify | Answer | None
"""None is the end of the connection."""


class Connection:
    """What `ListenSession` uses of a `pq.PGconn`, and the server's end of the same connection."""

    ssl_in_use = used_gssapi = False
    server_version = 150000

    def __init__(self, server: "PostgresServer", path: Path, pid: int, names: frozenset[bytes]) -> None:
        self.backend_pid = pid
        self.names = names
        """The channels it listens to."""
        self.silent = False
        self.ended = False
        """Whether the server's end is gone."""
        self.status = pq.ConnStatus.OK
        self.notice_handler: Callable[[Any], None] | None = None
        self.path = path
        self.life = server.life
        self._server = server
        self._mine, self._theirs = socket.socketpair()
        self._mine.setblocking(False)
        self._on_wire: deque[Arrival] = deque()
        self._read: deque[Arrival] = deque()
        self._result_open = False
        self._here_at = -math.inf

    @property
    def socket(self) -> int:
        return self._mine.fileno()

    def send_query(self, sql: bytes) -> None:
        if self.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError("no connection to the server")
        self._result_open = True
        if not (self.silent or self.ended):
            probe = _PROBE.search(sql)
            assert probe is not None, sql
            self.path.carry(0, self._server.probe, self, probe[1])

    def flush(self) -> int:
        return 0

    def consume_input(self) -> None:
        try:
            self._mine.recv(4096)
        except BlockingIOError:
            return
        self._read += self._on_wire
        self._on_wire.clear()
        if self._read and self._read[-1] is None:
            self.status = pq.ConnStatus.BAD

    def notifies(self) -> Notify | None:
        """The next notification; one behind an answer stays until the answer is taken."""
        if self._read and isinstance(self._read[0], Notify):
            return cast(Notify, self._read.popleft())
        return None

    def is_busy(self) -> bool:
        return self._result_open and not (self._read and isinstance(self._read[0], Answer))

    def get_result(self) -> Answer | None:
        if self._read and isinstance(self._read[0], Answer):
            self._read.popleft()
            self._result_open = False
        return None

    def get_error_message(self) -> str:
        return "server closed the connection unexpectedly"

    def finish(self) -> None:
        """The client closes it."""
        self.status = pq.ConnStatus.BAD
        self._mine.close()
        self._theirs.close()
        self._server.forget(self)

    def abandon(self) -> None:
        """The client's process is killed: its kernel closes the connection."""
        self.ended = True
        self.status = pq.ConnStatus.BAD
        self._server.forget(self)

    def arrive(self, arrival: Arrival) -> None:
        """The server sends; it takes its time."""
        if not (self.silent or self.ended):
            self._here_at = self.path.carry(self._here_at, self._arrived, arrival)

    def cut(self) -> None:
        """Somebody resets the connection; what is under way is lost."""
        self._on_wire.clear()
        self._arrived(None)
        self.ended = True
        self._server.forget(self)

    def _arrived(self, arrival: Arrival) -> None:
        if not self.silent and self._mine.fileno() >= 0 and not self.ended:
            if not self._on_wire:
                self._theirs.send(b"!")
            self._on_wire.append(arrival)
            self.ended = arrival is None


@dataclass
class _Pending:
    act: Callable[..., None]
    arguments: tuple[Any, ...] = field(default=())


class PostgresServer:
    """One database on one server. Commits that notify, LISTENs and probes are one row: a stall holds up all of them."""

    database = DatabaseIdentity("7483647483647", "16384")

    def __init__(self, choices: Random) -> None:
        self.connections: dict[Connection, None] = {}
        self.down = False
        self.stalled = False
        self.refusing = False
        """Whether it has no connection left for us."""
        self.skew_seconds = 0.0
        self.life = 0
        """How often it was stopped: connections of an earlier life are gone."""
        self._choices = choices
        self._recent: deque[Notify] = deque(maxlen=3)
        self._pending: list[_Pending] = []
        self._pid = 100

    def commit(self, notifications: Sequence[tuple[str, bytes]], done: Callable[[], None]) -> bool:
        """One transaction of some application. `done` is called where it commits. False: the server is down."""
        if self.down:
            return False
        self._in_order(self._commit, notifications, done)
        return True

    async def open(self, options: SessionOptions, path: Path, floor: int, nonce: str) -> ListenSession:
        """What `bridge.links.postgres.open_session` does. The caller calls `finish` of its `connection_of`."""
        connection: Connection | None = None
        try:
            with anyio.fail_after(options.connect_timeout_seconds):
                await path.travel(4)
                if self.down or self.refusing:
                    raise PostgresLost("cannot connect to PostgreSQL: refused")
                self._pid += self._choices.randrange(1, 3)
                names = [channel.encode() for channel in options.channels]
                connection = Connection(self, path, self._pid, frozenset([*names, b"bridge_sync", b"bridge_probe"]))
                path.carry(0, self._in_order, self._listen, connection, options, floor, nonce)
                marker = await self._own_marker(connection, nonce)
            pgconn = cast(pq.abc.PGconn, connection)
            return ListenSession(pgconn, options, self.database, marker, connection.backend_pid)
        except BaseException as error:
            if connection is not None:
                connection.finish()
            if isinstance(error, TimeoutError):
                raise PostgresLost("PostgreSQL did not answer while starting to LISTEN") from None
            raise

    def probe(self, connection: Connection, payload: bytes) -> None:
        """The session notifies itself; the answer comes behind the notification."""
        self._in_order(self._probe, connection, payload)

    def terminate(self, connection: Connection) -> None:
        """pg_terminate_backend: what it has sent arrives, then the end."""
        connection.arrive(None)
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        self.connections.pop(connection, None)

    def stop(self) -> None:
        """All sessions end, and the queue is lost with them; what waited to commit never does."""
        self.down = True
        self.life += 1
        self._pending.clear()
        self.stalled = False
        for connection in list(self.connections):
            self.terminate(connection)

    def start(self) -> None:
        self.down = False
        self._recent.clear()

    def stall(self) -> None:
        """Every commit that notifies or listens waits for a standby that is away."""
        self.stalled = True

    def resume(self) -> None:
        self.stalled = False
        pending, self._pending = self._pending, []
        for one in pending:
            one.act(*one.arguments)

    def _in_order(self, act: Callable[..., None], *arguments: Any) -> None:
        if self.stalled:
            self._pending.append(_Pending(act, arguments))
        else:
            act(*arguments)

    def _commit(self, notifications: Sequence[tuple[str, bytes]], done: Callable[[], None]) -> None:
        done()
        for channel, payload in notifications:
            self._notify(Notify(channel.encode(), 7, payload))

    def _listen(self, connection: Connection, options: SessionOptions, floor: int, nonce: str) -> None:
        if connection.life != self.life:
            connection.arrive(None)
        if connection.life != self.life or connection.status == pq.ConnStatus.BAD:
            return
        clock = int((EPOCH_SECONDS + anyio.current_time() + self.skew_seconds) * 100)
        term = max(clock, floor) * 2**22 + connection.backend_pid
        marker = {"term": term, "nonce": nonce, "digest": options.digest, "role": options.role}
        marker["prefix"] = options.prefix
        for earlier in list(self._recent)[self._choices.randrange(4) :]:  # a new session may hear the last few
            connection.arrive(earlier)
        self.connections[connection] = None
        self._notify(Notify(b"bridge_sync", connection.backend_pid, msgspec.json.encode(marker)))

    def _probe(self, connection: Connection, payload: bytes) -> None:
        if connection in self.connections:
            self._notify(Notify(b"bridge_probe", connection.backend_pid, payload))
            connection.arrive(Answer())

    def _notify(self, notification: Notify) -> None:
        self._recent.append(notification)
        for connection in self.connections:
            if notification.relname in connection.names:
                connection.arrive(notification)

    async def _own_marker(self, connection: Connection, nonce: str) -> Marker:
        while True:
            await anyio.wait_readable(connection.socket)
            connection.consume_input()
            while (notification := connection.notifies()) is not None:
                if notification.relname == b"bridge_sync" and nonce.encode() in notification.extra:
                    return msgspec.json.decode(notification.extra, type=Marker)
            if connection.status == pq.ConnStatus.BAD:
                raise PostgresLost("lost PostgreSQL while starting to LISTEN")
