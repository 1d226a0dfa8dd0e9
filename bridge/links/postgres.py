"""A LISTEN session: what PostgreSQL notifies, each with its position, and the proof that the session still hears.

An open connection proves nothing, so a session sends itself a probe through PostgreSQL every few seconds, with a query
that again begins with LISTEN. It does so inside `receive`: there is no task to own, and nobody reads without probing.
A session never holds a transaction open.
"""

import secrets
import select
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import islice

import anyio
import anyio.lowlevel
import msgspec
import psycopg
from psycopg import pq

from bridge.core.events import Heard, Marker, Notification, payload_json, read_marker
from bridge.core.position import Position
from bridge.errors import BridgeError, PostgresLost, PostgresUnusable
from bridge.links.postgres_connect import (
    QueryFailed,
    one_line,
    open_connection,
    query,
    server_message,
    server_sqlstate,
    waiting_for_at_most,
)
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
_PROOF_TIMEOUT_SECONDS = 5.0  # for a notification that comes while the session is idle
_PROOF_MANY = 100_000  # so many that came while the session was idle are as good a proof
_NOTIFY_TIMEOUT_SECONDS = 30.0


class _Probe(msgspec.Struct, frozen=True):
    """What a session sends itself: for the n-th time, and at which seq it heard the one before."""

    term: int
    nonce: str
    n: int
    heard: int | None


_read_probe = msgspec.json.Decoder(_Probe)


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
                await session._prove_no_transaction_pooler()
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
        now = anyio.current_time()
        self.database = database
        self.server_version: int = pgconn.server_version
        """As libpq gives it: 180006 is 18.6."""
        self.marker = marker
        """What the session said of itself; its position is ``(term, 0)``."""
        self.term = marker.term
        self.nonce = marker.nonce
        self.backend_pid = backend_pid
        """The server process, as `pg_stat_activity` names it."""
        self.last_proof = now
        """When the last bytes arrived, on the clock of `anyio.current_time`."""
        self.round_trip_seconds: float | None = None
        """How long the last own probe took."""
        self.probe_error: str | None = None
        """Why the server refused the last probe, if it did."""
        self._pgconn = pgconn
        self._options = options
        self._names = {channel.encode(): channel for channel in options.channels}
        self._nonce_bytes = marker.nonce.encode()
        self._seq = 0
        self._ahead: list[Heard] = []
        self._heard_at = now
        self._probes = 0
        self._probe_sent_at: float | None = None
        self._probe_heard_seq: int | None = None
        self._probe_due_at = now + options.probe_seconds
        self._querying = False
        self._outsider_heard = False
        self._farewell = ""
        self._ended: PostgresLost | None = None
        pgconn.notice_handler = self._hear_notice

    @property
    def proven(self) -> bool:
        """Whether the session hears: its own probe, or any counted notification, came within two probe intervals."""
        return self._ended is None and anyio.current_time() - self._heard_at <= 2 * self._options.probe_seconds

    async def receive(self) -> list[Heard]:
        """The next notifications, at least one, in order and without a hole since the marker.

        Raises PostgresLost when the session has ended, or when nothing came for `probe_seconds` after a probe was due
        back. Cancellation loses nothing: what has arrived is returned by the next call.
        """
        more = True
        while True:
            if more or self._ended is not None:
                await anyio.lowlevel.checkpoint()
            else:
                await self._wait()
            if self._ahead:
                heard, self._ahead = self._ahead, []
                return heard
            heard, more = self._take()
            if heard:
                return heard
            if self._ended is not None and not more:
                raise self._ended

    async def _prove_no_transaction_pooler(self) -> None:
        """Somebody else's notification must arrive while this session is idle. A transaction pooler swallows it."""
        sent = msgspec.json.encode(_Probe(self.term, self.nonce, 0, None))
        options = self._options
        async with open_connection(options.conninfo, "bridge check", options.connect_timeout_seconds) as other:
            with waiting_for_at_most(_PROOF_TIMEOUT_SECONDS, "notifying the session from outside"):
                await query(other, b"SELECT pg_notify($1, $2)", [PROBE, sent])
            with anyio.move_on_after(_PROOF_TIMEOUT_SECONDS):
                while not self._outsider_heard and len(self._ahead) < _PROOF_MANY:
                    heard, more = self._take()
                    self._ahead += heard
                    if self._ended is not None:
                        raise self._ended
                    if not more and not self._outsider_heard:
                        await self._wait()
                return
        raise PostgresUnusable(
            f"notifications of PostgreSQL do not reach the session while it is idle; {POOLER_ADVICE}"
        )

    async def _wait(self) -> None:
        """Wait until bytes arrive or something is due, and read them; probe when due.

        Raises PostgresLost on silence, but only after a last look at the socket: a process that was paused finds there
        what came meanwhile.
        """
        now = anyio.current_time()
        if self._probe_sent_at is None and not self._querying and now >= self._probe_due_at:
            self._send_probe(now)
        if self._ended is not None:
            return
        socket, readable = self._pgconn.socket, False
        with anyio.CancelScope(deadline=self._silent_at()):
            await anyio.wait_readable(socket)
            readable = True
        if readable or _is_readable(socket):
            self._read()
        elif self._probe_sent_at is not None and anyio.current_time() >= self._silent_at():
            seconds = anyio.current_time() - self.last_proof
            self._ended = PostgresLost(f"PostgreSQL did not answer a probe, and was silent for {seconds:.1f} s")

    def _silent_at(self) -> float:
        """When to look again: the next probe is due, or the last one is overdue."""
        if self._probe_sent_at is None:
            return self._probe_due_at
        # While the query runs, any byte is life. Once it is answered, only notifications show that we still hear.
        alive_at = self.last_proof if self._querying else self._heard_at
        return max(self._probe_sent_at, alive_at) + self._options.probe_seconds

    def _send_probe(self, now: float) -> None:
        self._probes += 1
        payload = msgspec.json.encode(_Probe(self.term, self.nonce, self._probes, self._probe_heard_seq))
        self._probe_sent_at = now
        self._probe_due_at = now + self._options.probe_seconds
        try:
            self._pgconn.send_query(b"LISTEN %b; SELECT pg_notify('%b', '%b')" % (PROBE, PROBE, payload))
            self._querying = True
            self._pgconn.flush()  # the rest, if any, goes with the next read; a probe is far smaller than any buffer
        except psycopg.Error as error:
            self._end(str(error))

    def _read(self) -> None:
        """Read what the socket holds into libpq, at most a buffer."""
        pgconn = self._pgconn
        try:
            pgconn.consume_input()
            if self._querying:
                pgconn.flush()
        except psycopg.Error as error:
            self._end(str(error))
            return
        if pgconn.status == pq.ConnStatus.BAD:  # the first read after the end may succeed, with nothing
            self._end(pgconn.get_error_message())
            return
        self.last_proof = anyio.current_time()

    def _take(self) -> tuple[list[Heard], bool]:
        """What libpq has read, counted, at most `MAX_BATCH`, and whether there may be more. Never waits."""
        heard: list[Heard] = []
        append, names, term, seq = heard.append, self._names, self.term, self._seq
        taken = 0
        for taken, notify in enumerate(islice(iter(self._pgconn.notifies, None), MAX_BATCH), 1):  # noqa: B007
            name = notify.relname
            channel = names.get(name)
            if channel is not None:
                seq += 1
                append(Heard(Position(term, seq), Notification(channel, payload_json(notify.extra))))
            elif name == SYNC:
                seq += 1
                append(Heard(Position(term, seq), read_marker(notify.extra)))
            elif name == PROBE and self._nonce_bytes in notify.extra:
                self._hear_probe(notify, seq)
        self._seq = seq
        if heard:
            self._heard_at = anyio.current_time()
        return heard, self._take_results() or taken == MAX_BATCH

    def _hear_probe(self, notify: pq.PGnotify, seq: int) -> None:
        try:
            probe = _read_probe.decode(notify.extra)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if probe.nonce != self.nonce:
            return
        if notify.be_pid != self.backend_pid:
            self._outsider_heard = True
        elif self._probe_sent_at is not None and probe.n == self._probes:
            now = self._heard_at = anyio.current_time()
            self.round_trip_seconds = now - self._probe_sent_at
            self.probe_error = None
            self._probe_sent_at = None
            self._probe_heard_seq = seq

    def _take_results(self) -> bool:
        """Take the answers to probes; whether there were any: libpq parses what is behind one only when it is taken."""
        taken = False
        while self._querying and not self._pgconn.is_busy():
            taken = True
            result = self._pgconn.get_result()
            if result is None:
                self._querying = False
            elif result.status == pq.ExecStatus.FATAL_ERROR:
                self._probe_sent_at = None
                self.probe_error = server_message(result)
                self._hear_notice(result)
        return taken

    def _hear_notice(self, result: pq.abc.PGresult) -> None:
        if server_sqlstate(result).startswith("57P"):  # the server is shutting down, or was told to end this session
            self._farewell = server_message(result)

    def _end(self, error: str) -> None:
        if self._farewell:
            self._ended = PostgresLost(f"PostgreSQL ended the session: {self._farewell}")
        else:
            self._ended = PostgresLost(f"lost the connection to PostgreSQL: {one_line(error)}")


async def notify(conninfo: str, channel: str, payloads: Iterable[str]) -> None:
    """Send each payload as a NOTIFY of its own, in order, each committed before the next.

    Raises BridgeError, in a line that a person understands, for what PostgreSQL does not take; the payloads before it
    have been sent. Raises PostgresLost or PostgresUnusable where the connection is the trouble.
    """
    async with open_connection(conninfo, "bridge notify") as pgconn:
        for sent, payload in enumerate(payloads):
            where = f"payload {sent + 1} for channel {channel!r}"
            if "\0" in payload or "\0" in channel:
                raise BridgeError(f"cannot send {where}: PostgreSQL takes no NUL byte")
            arguments = [channel.encode(errors="surrogateescape"), payload.encode(errors="surrogateescape")]
            try:
                with waiting_for_at_most(_NOTIFY_TIMEOUT_SECONDS, f"sending {where}"):
                    await query(pgconn, b"SELECT pg_notify($1, $2)", arguments)
            except QueryFailed as error:
                if not error.sqlstate.startswith("22"):
                    raise error.as_link_error(f"sending {where}") from error
                sizes = f"{len(arguments[1]):,} bytes of 7,999 allowed, channel {len(arguments[0])} of 63"
                raise BridgeError(f"cannot send {where}: {error} ({sizes})") from error


def _is_readable(socket: int) -> bool:
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))
