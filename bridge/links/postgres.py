"""A LISTEN session: what PostgreSQL notifies, each with its position, and the proof that the session still hears.

An open connection proves nothing, so a session sends itself a probe through PostgreSQL every few seconds, with a query
that again begins with LISTEN. It does so inside `receive`: there is no task to own, and nobody reads without probing.
A session never holds a transaction open.
"""

import random
import secrets
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice

import anyio
import anyio.lowlevel
import psycopg
from psycopg import pq

from bridge.core.events import Body, Heard, Marker, Notification, payload_json, read_marker
from bridge.core.position import Position, positions_from
from bridge.errors import PostgresLost, PostgresUnusable
from bridge.links.postgres_connect import (
    QueryFailed,
    one_line,
    open_connection,
    query,
    server_message,
    server_sqlstate,
    waiting_for_at_most,
)
from bridge.links.postgres_notify import notify
from bridge.links.postgres_probe import Probes
from bridge.links.postgres_start import (
    POOLER_ADVICE,
    PROBE,
    SYNC,
    DatabaseIdentity,
    SessionOptions,
    identify,
    listen_and_mark,
)

__all__ = ["MAX_BATCH", "DatabaseIdentity", "ListenSession", "SessionOptions", "notify", "open_session"]

MAX_BATCH = 2000
"""Notifications that one `receive` takes at most. libpq reads no more from the socket until they are all taken."""

_APPLICATION_NAMES = {"listener": "bridge listener", "fallback": "bridge fallback"}
_PROOF_TIMEOUT_SECONDS = 3.0  # for a notification that comes while the session is idle
_PROOF_MANY = 100_000  # so many that came while the session was idle are as good a proof


@asynccontextmanager
async def open_session(options: SessionOptions, *, floor: int = 0) -> "AsyncIterator[ListenSession]":
    """A session that hears its channels: when the body starts, its own marker has arrived.

    Every term known before must be below ``floor * 2**22`` (`floor` is in units of 10 ms), so that the session's own is
    above them. Raises PostgresUnusable where a person must change something (password, standby, transaction pooler),
    PostgresLost for all else. The connection is closed at the end, at once, also when cancelled.
    """
    timeout_seconds = options.connect_timeout_seconds
    async with open_connection(options.conninfo, _APPLICATION_NAMES[options.role], timeout_seconds) as pgconn:
        try:
            with waiting_for_at_most(timeout_seconds, "asking which database it is"):
                database = await identify(pgconn)
            marker, backend_pid = await listen_and_mark(pgconn, options, secrets.token_hex(8), floor)
            session = ListenSession(pgconn, options, database, marker, backend_pid)
            if backend_pid != pgconn.backend_pid:
                await session._prove_no_transaction_pooler(options)
        except QueryFailed as error:
            raise error.as_link_error("starting to LISTEN") from error
        yield session


class ListenSession:
    """One session, made by `open_session`. One task receives; anybody may read the attributes."""

    def __init__(
        self,
        pgconn: pq.abc.PGconn,
        options: SessionOptions,
        database: DatabaseIdentity,
        marker: Marker,
        backend_pid: int,
    ) -> None:
        self.database = database
        self.server_version: int = pgconn.server_version
        """As libpq gives it: 180006 is 18.6."""
        self.marker = marker
        """What the session said of itself; its position is ``(term, 0)``."""
        self.term = marker.term
        self.nonce = marker.nonce
        self.backend_pid = backend_pid
        """The server process, as `pg_stat_activity` names it."""
        self._pgconn = pgconn
        self._names = {channel.encode(): channel for channel in options.channels}
        self._probes = Probes(
            marker.term, marker.nonce, marker.digest, backend_pid, options.probe_seconds, anyio.current_time()
        )
        self._seq = 0
        self._ahead: list[Heard] = []
        self._more = True
        self._encrypted = pgconn.ssl_in_use or pgconn.used_gssapi
        self.suspect = False
        """Whether a probe is overdue: the session may be dead, or PostgreSQL waits. Any byte clears it."""
        self._probe_seconds = options.probe_seconds
        self._farewell = ""
        self._ended = ""
        pgconn.notice_handler = self._hear_notice

    @property
    def last_proof(self) -> float:
        """When the last bytes arrived, on the clock of `anyio.current_time`."""
        return self._probes.byte_at

    @property
    def round_trip_seconds(self) -> float | None:
        """How long the last own probe took that came back."""
        return self._probes.round_trip_seconds

    @property
    def probe_error(self) -> str | None:
        """Why the server refused the last probe, if it did."""
        return self._probes.error

    @property
    def proven(self) -> bool:
        """Whether the session hears: its own probe, or any counted notification, came within two probe intervals."""
        return not self._ended and self._probes.proven(anyio.current_time())

    def learned(self) -> list[tuple[Position, Position]]:
        """Pairs of equal positions, of other sessions and of this one, that probes have shown since the last call."""
        learned, self._probes.learned = self._probes.learned, []
        return learned

    async def receive(self) -> list[Heard]:
        """The next notifications, in order and without a hole since the marker. None when only `suspect` has changed,
        or when probes have shown something that `learned` gives.

        Raises PostgresLost when the session has ended. Cancellation loses nothing: what has arrived is returned by the
        next call.
        """
        while True:
            was_suspect = self.suspect
            await self._more_or_wait()
            if self._ahead:
                heard, self._ahead = self._ahead, []
                return heard
            heard = self._take()
            if heard or self.suspect != was_suspect or self._probes.learned:
                return heard
            if self._ended and not self._more:
                raise self._lost()

    async def _prove_no_transaction_pooler(self, options: SessionOptions) -> None:
        """Somebody else's notification must arrive while this session is idle. A transaction pooler swallows it."""
        ahead: list[Heard] = []
        async with open_connection(options.conninfo, "bridge check", options.connect_timeout_seconds) as other:
            with waiting_for_at_most(_PROOF_TIMEOUT_SECONDS, "notifying the session (a pool needs two connections)"):
                await query(other, b"SELECT pg_notify($1, $2)", [PROBE, self._probes.outsider()])
            with anyio.move_on_after(_PROOF_TIMEOUT_SECONDS):
                while not self._probes.outsider_heard and len(ahead) < _PROOF_MANY:
                    await self._more_or_wait()
                    ahead += self._take()
                    if self._ended and not self._more:
                        raise self._lost()
                self._ahead = ahead
                return
        raise PostgresUnusable(f"PostgreSQL's notifications do not reach an idle session; {POOLER_ADVICE}")

    async def _more_or_wait(self) -> None:
        """A checkpoint, after which libpq may hold something to take."""
        if self._ahead or self._more or self._ended:
            await anyio.lowlevel.checkpoint()
            if self._encrypted and not self._ended:
                self._read()  # the TLS library may hold bytes that the socket no longer shows
        else:
            await self._wait()

    async def _wait(self) -> None:
        """Wait until bytes arrive or something is due; read or probe.

        Silence makes the session suspect, but only after a last look at the socket: a process that was paused finds
        there what came meanwhile. Any byte clears it.
        """
        probes, socket = self._probes, self._pgconn.socket
        now = anyio.current_time()
        if probes.due(now):
            self._send(probes.query(now))
            if self._ended:
                return
        readable = False
        wake_at = probes.wake_at()
        with anyio.CancelScope(deadline=max(wake_at, now + self._probe_seconds) if self.suspect else wake_at):
            await anyio.wait_readable(socket)
            readable = True
        if readable or _is_readable(socket):
            self._read()
        elif probes.overdue(anyio.current_time()):
            self.suspect = True

    def _send(self, sql: bytes) -> None:
        try:
            self._pgconn.send_query(sql)
            self._pgconn.flush()  # the rest, if any, goes with the next read; a probe is far smaller than any buffer
        except psycopg.Error as error:
            self._end(str(error))

    def _read(self) -> None:
        """Read what the socket holds into libpq, at most a buffer."""
        pgconn = self._pgconn
        try:
            pgconn.consume_input()
            if self._probes.running:
                pgconn.flush()
        except psycopg.Error as error:
            self._end(str(error))
            return
        if pgconn.status == pq.ConnStatus.BAD:  # the first read after the end may succeed, with nothing
            self._end(pgconn.get_error_message())
            return
        self._probes.byte_at = anyio.current_time()
        self.suspect = False

    def _take(self) -> list[Heard]:
        """What libpq has read, counted, at most `MAX_BATCH`. Never waits; `_more` says whether to call it again."""
        bodies: list[Body] = []
        append, names = bodies.append, self._names
        taken = 0
        for taken, arrived in enumerate(islice(iter(self._pgconn.notifies, None), MAX_BATCH), 1):  # noqa: B007
            name = arrived.relname
            channel = names.get(name)
            if channel is not None:
                append(Notification(channel, payload_json(arrived.extra)))
            elif name == SYNC:
                append(read_marker(arrived.extra))
                self._probes.soon(anyio.current_time(), random.random())
            elif name == PROBE:
                self._probes.hear(arrived.extra, arrived.be_pid, self._seq + len(bodies), anyio.current_time())
        heard = list(map(Heard, positions_from(Position(self.term, self._seq + 1), len(bodies)), bodies))
        self._seq += len(bodies)
        if heard:
            self._probes.hear_notifications(anyio.current_time())
        answered = self._take_results()
        self._more = answered or taken == MAX_BATCH or (self._encrypted and taken > 0)
        return heard

    def _take_results(self) -> bool:
        """Take the answers to probes; whether there were any: libpq parses what is behind one only when it is taken."""
        taken = False
        while self._probes.running and not self._pgconn.is_busy():
            taken = True
            result = self._pgconn.get_result()
            if result is None:
                self._probes.running = False
            elif result.status == pq.ExecStatus.FATAL_ERROR:
                self._probes.refuse(server_message(result))
                self._hear_notice(result)
        return taken

    def _hear_notice(self, result: pq.abc.PGresult) -> None:
        if server_sqlstate(result).startswith("57P"):  # the server is shutting down, or was told to end this session
            self._farewell = server_message(result)

    def _end(self, error: str) -> None:
        self._ended = f"lost the connection to PostgreSQL: {one_line(error)}"

    def _lost(self) -> PostgresLost:
        return PostgresLost(f"PostgreSQL ended the session: {self._farewell}" if self._farewell else self._ended)


def _is_readable(socket: int) -> bool:
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))
