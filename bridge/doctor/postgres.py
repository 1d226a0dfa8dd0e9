"""PostgreSQL: whether it is reached, is one that LISTEN works on, and has room for what the bridge needs of it."""

import secrets
import time

import anyio
import msgspec
from psycopg import pq

from bridge.doctor.clocks import Reading, read
from bridge.doctor.report import Finding, milliseconds
from bridge.errors import BridgeError, PostgresLost, PostgresUnusable
from bridge.links.postgres_connect import open_connection, query, translated, waiting_for_at_most
from bridge.links.postgres_start import POOLER_ADVICE, PROBE, identify
from bridge.settings import Settings
from bridge.telemetry import error_text

SUBJECT = "PostgreSQL"
LOOK_SECONDS = 12.0
"""For everything, however many hosts the URL names."""
CONNECT_SECONDS = 5.0
HEAR_SECONDS = 3.0
OLDEST, OLDEST_TRIED = 100_000, 150_000
"""What psycopg connects to, and what the bridge is tested with."""
FULL_SHARE = 0.8
QUEUE_WARNING_SHARE, QUEUE_BAD_SHARE = 0.05, 0.5
"""PostgreSQL itself warns in its log from one half on. A queue that is read is empty."""

_FACTS = b"""
SELECT json_build_object(
  'version', current_setting('server_version'),
  'standby', pg_is_in_recovery(),
  'process', pg_backend_pid(),
  'queue_share', pg_notification_queue_usage(),
  'waits_for', current_setting('synchronous_standby_names'),
  'rooms', (SELECT json_agg(room) FROM (
    SELECT 'max_connections' AS name, (
        SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' OR (backend_type IS NULL AND datid IS NOT NULL)
      ) AS used, current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true), '0')::int AS places
    UNION ALL SELECT 'the limit of database ' || datname, (
        SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid
      ), datconnlimit FROM pg_database d WHERE datname = current_database() AND datconnlimit >= 0
    UNION ALL SELECT 'the limit of role ' || rolname, (
        SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid
      ), rolconnlimit FROM pg_roles r WHERE rolname = current_user AND rolconnlimit >= 0
  ) room),
  'sessions', (
    SELECT coalesce(json_agg(json_build_object('process', pid, 'name', application_name, 'address', client_addr)), '[]')
    FROM pg_stat_activity
    WHERE application_name IN ('bridge listener', 'bridge fallback') AND datname = current_database()
  )
)::text"""


class Room(msgspec.Struct, frozen=True):
    """How many connections there may be, and how many of them are taken. The doctor's own is one of them."""

    name: str
    used: int
    places: int


class ListenSession(msgspec.Struct, frozen=True):
    """A LISTEN session of a bridge; `name` is ``bridge listener`` or ``bridge fallback``."""

    process: int
    name: str
    address: str | None


class Facts(msgspec.Struct, frozen=True):
    """What the server says of itself."""

    version: str
    standby: bool
    process: int
    queue_share: float
    waits_for: str
    rooms: tuple[Room, ...]
    sessions: tuple[ListenSession, ...]


class Seen(msgspec.Struct):
    """What was observed, as far as it went. `doing`: what went on when `error` came."""

    doing: str = "connecting"
    error: PostgresLost | None = None
    where: str = ""
    connect_seconds: float = 0.0
    version: int = 0
    """As libpq gives it: 180006 is 18.6."""
    process: int = 0
    """The server process, as libpq was told; `Facts.process` is who really answers."""
    facts: Facts | None = None
    clock: Reading | None = None
    now: float | None = None
    """By its own clock, in seconds since 1970."""
    database: str | None = None
    """Which database it is, as the log in Redis names its owner."""
    own_seconds: float | None = None
    """How long the session's own NOTIFY took; None where it did not come."""
    other_seconds: float | None = None
    """The same for one that another session sent while this one was idle."""
    other_error: BridgeError | None = None
    """Why there was no other session."""


_facts = msgspec.json.Decoder(Facts)


async def look(settings: Settings) -> Seen:
    """Observe, for at most `LOOK_SECONDS`. Never raises but for cancellation."""
    seen = Seen()
    conninfo = settings.conninfo()
    with anyio.move_on_after(LOOK_SECONDS) as scope:
        try:
            began = anyio.current_time()
            async with open_connection(conninfo, "bridge doctor", CONNECT_SECONDS) as pgconn:
                seen.connect_seconds = anyio.current_time() - began
                await _converse(pgconn, conninfo, seen)
        except PostgresLost as error:
            seen.error = error
        except BridgeError as error:  # a query that was refused
            seen.error = PostgresUnusable(f"PostgreSQL refused while {seen.doing}: {error}")
    if scope.cancelled_caught:
        seen.error = PostgresLost(f"PostgreSQL did not answer within {LOOK_SECONDS:g} s while {seen.doing}")
    return seen


async def _converse(pgconn: pq.abc.PGconn, conninfo: str, seen: Seen) -> None:
    host = pgconn.host.decode(errors="replace")
    seen.where = host if host.startswith(("/", "@")) else f"{host}:{pgconn.port.decode(errors='replace')}"
    seen.version, seen.process = pgconn.server_version, pgconn.backend_pid
    seen.doing = "asking what it is"
    with waiting_for_at_most(CONNECT_SECONDS, seen.doing):
        [row] = await query(pgconn, _FACTS)
        seen.facts = _facts.decode(row.get_value(0, 0) or b"")
        seen.database = str(await identify(pgconn))
        before = time.time()
        [row] = await query(pgconn, b"SELECT extract(epoch FROM clock_timestamp())")
        seen.now = float(row.get_value(0, 0) or b"0")
        seen.clock = read(SUBJECT, seen.now, before, time.time())
    if not seen.facts.standby:
        await _hear(pgconn, conninfo, seen)


async def _hear(pgconn: pq.abc.PGconn, conninfo: str, seen: Seen) -> None:
    """NOTIFY on the probe channel, from this session and from another one: bridges ignore what is no probe there.

    The queries do not begin with LISTEN, by which operators count listeners.
    """
    seen.doing = "waiting for a NOTIFY of its own"
    nonce = secrets.token_hex(8)
    try:
        with anyio.move_on_after(HEAR_SECONDS):
            await query(pgconn, b"/* bridge doctor */ LISTEN %b" % PROBE)
            began = anyio.current_time()
            await _notify(pgconn, nonce)
            await _arrival(pgconn, nonce)
            seen.own_seconds = anyio.current_time() - began
        if seen.own_seconds is None:  # the connection is of no use after a cancelled query
            return
        seen.doing = "waiting for another session's NOTIFY"
        with anyio.move_on_after(2 * HEAR_SECONDS):
            async with open_connection(conninfo, "bridge doctor", HEAR_SECONDS) as other:
                began = anyio.current_time()
                await _notify(other, f"{nonce} other")
                with anyio.move_on_after(HEAR_SECONDS):
                    await _arrival(pgconn, f"{nonce} other")
                    seen.other_seconds = anyio.current_time() - began
    except BridgeError as error:
        seen.other_error = error
    with anyio.move_on_after(1.0):  # behind a pooler the server's session outlives this one
        await query(pgconn, b"/* bridge doctor */ UNLISTEN %b" % PROBE)


async def _notify(pgconn: pq.abc.PGconn, payload: str) -> None:
    await query(pgconn, b"SELECT pg_notify($1, $2)", [PROBE, payload.encode()])


async def _arrival(pgconn: pq.abc.PGconn, payload: str) -> None:
    with translated("waiting for a notification"):
        while True:
            for notify in iter(pgconn.notifies, None):
                if notify.extra == payload.encode():
                    return
            await anyio.wait_readable(pgconn.socket)
            pgconn.consume_input()


def judge(seen: Seen, probe_seconds: float) -> list[Finding]:
    """What was seen, as findings. A probe that takes longer than `probe_seconds` makes sessions suspect."""
    facts = seen.facts
    if facts is None:
        return [_unreached(seen)]
    findings = [
        Finding("good", SUBJECT, f"{seen.where} answered in {milliseconds(seen.connect_seconds)}"),
        _version(seen.version, facts.version),
    ]
    if facts.standby:
        text = "it is a standby, where nothing can be notified or heard"
        findings.append(Finding("bad", SUBJECT, text, "give the primary, or all hosts in one URL"))
    else:
        findings += _heard(seen, facts, probe_seconds)
    findings += [_room(room) for room in facts.rooms]
    findings.append(_queue(facts.queue_share))
    return findings


def _unreached(seen: Seen) -> Finding:
    text = error_text(seen.error) if seen.error else f"nothing was heard while {seen.doing}"
    if isinstance(seen.error, PostgresUnusable):
        return Finding("bad", SUBJECT, text, "correct DATABASE_URL (or DB_…), or what the message names on the server")
    todo = "start it, or correct DATABASE_URL (or DB_HOST, DB_PORT); listen_addresses or a firewall may be in the way"
    return Finding("bad", SUBJECT, text, todo)


def _version(number: int, name: str) -> Finding:
    if number < OLDEST:
        return Finding("bad", SUBJECT, f"version {name} is too old", "use PostgreSQL 15 or later")
    if number < OLDEST_TRIED:
        return Finding("warning", SUBJECT, f"version {name}: the bridge is not tested with it", "use 15 or later")
    return Finding("good", SUBJECT, f"version {name}")


def _heard(seen: Seen, facts: Facts, probe_seconds: float) -> list[Finding]:
    error = seen.other_error or seen.error
    if seen.own_seconds is None:
        text = f"a LISTEN session did not hear its own NOTIFY within {HEAR_SECONDS:g} s"
        todo = f"a commit that notifies and waits holds up all others: see pg_stat_activity; or {POOLER_ADVICE}"
        if facts.waits_for:
            todo = (
                f"a commit that waits for synchronous_standby_names={facts.waits_for!r} holds up every NOTIFY: start "
                "the standby, or take it out of the setting"
            )
        return [Finding("bad", SUBJECT, error_text(error) if error else text, todo)]
    if seen.other_seconds is None and error is not None:
        text = f"no second connection, by which a pooler would show: {error_text(error)}"
        return [Finding("bad", SUBJECT, text, "make room for it: while a session is replaced, there are two of them")]
    if seen.other_seconds is None:
        text = "an idle LISTEN session hears itself, and nobody else"
        return [Finding("bad", SUBJECT, text, POOLER_ADVICE)]
    took = f"a NOTIFY takes {milliseconds(max(seen.own_seconds, seen.other_seconds))} to a LISTEN session"
    if max(seen.own_seconds, seen.other_seconds) >= probe_seconds:
        text = f"{took}, longer than BRIDGE_PROBE_SECONDS={probe_seconds:g}"
        heard = Finding("warning", SUBJECT, text, "find out what delays commits; or raise the setting")
    else:
        heard = Finding("good", SUBJECT, took)
    if seen.process == facts.process:
        return [heard]
    text = "a pooler is in between, and lets notifications through: each LISTEN session takes one of its connections"
    return [heard, Finding("good", SUBJECT, text)]


def _room(room: Room) -> Finding:
    text = f"{room.used} of {room.places} connections in use ({room.name})"
    todo = "in fallback every worker needs one: close idle connections, pool other programs, or raise the limit"
    if room.used >= room.places:
        return Finding("bad", SUBJECT, text, todo)
    return Finding("warning", SUBJECT, text, todo) if room.used >= FULL_SHARE * room.places else _good(text)


def _queue(share: float) -> Finding:
    text = f"the notification queue is {share:.0%} full"
    if share < QUEUE_WARNING_SHARE:
        return _good(text)
    todo = (
        "a session that listens stays inside a transaction; end it: SELECT pid, application_name, xact_start FROM "
        "pg_stat_activity WHERE state LIKE 'idle in transaction%' ORDER BY xact_start"
    )
    return Finding("bad" if share >= QUEUE_BAD_SHARE else "warning", SUBJECT, text, todo)


def _good(text: str) -> Finding:
    return Finding("good", SUBJECT, text)
