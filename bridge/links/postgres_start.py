"""How a LISTEN session starts: which database this is, one query that listens and marks, and the wait for the marker.

The marker is the session's own notification on the sync channel; positions count from it. Whatever arrives before it
is discarded: it does occur, and has no position.
"""

from dataclasses import dataclass
from typing import Literal

import anyio
from psycopg import pq

from bridge.core.events import PROBE_CHANNEL, SYNC_CHANNEL, Marker, read_marker
from bridge.errors import PostgresUnusable
from bridge.links.postgres_connect import (
    CONNECT_TIMEOUT_SECONDS,
    QueryFailed,
    query,
    translated,
    waiting_for_at_most,
)

SYNC, PROBE = SYNC_CHANNEL.encode(), PROBE_CHANNEL.encode()

POOLER_ADVICE = (
    "a transaction pooler (PgBouncer with pool_mode=transaction, or alike) is the likely cause: "
    "connect to PostgreSQL directly, or through a pool with pool_mode=session"
)

_TERM_SHIFT = 2**22  # process ids are below it on every system that runs PostgreSQL
_INSUFFICIENT_PRIVILEGE = "42501"


@dataclass(frozen=True)
class SessionOptions:
    """What a session needs. `digest` names the set of `channels`; `prefix` is the one of the keys in Redis."""

    conninfo: str
    channels: tuple[str, ...]
    digest: str
    role: Literal["listener", "fallback"]
    prefix: str
    probe_seconds: float
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS


@dataclass(frozen=True)
class DatabaseIdentity:
    """Which database this is, the same through restarts, failovers and renamed hosts.

    `system_identifier` is the cluster's. Everybody may read it unless an administrator has revoked that; then it is
    `name:` and the database's name, which does not tell two clusters apart where name and oid are equal.
    """

    system_identifier: str
    database_oid: str

    def __str__(self) -> str:
        return f"{self.system_identifier}/{self.database_oid}"


async def identify(pgconn: pq.abc.PGconn) -> DatabaseIdentity:
    """Ask which database this is."""
    [row] = await query(pgconn, b"SELECT oid, datname FROM pg_database WHERE datname = current_database()")
    oid, name = _text(row, 0), _text(row, 1)
    try:
        [row] = await query(pgconn, b"SELECT system_identifier FROM pg_control_system()")
    except QueryFailed as error:
        if error.sqlstate != _INSUFFICIENT_PRIVILEGE:
            raise
        return DatabaseIdentity(f"name:{name}", oid)
    return DatabaseIdentity(_text(row, 0), oid)


async def listen_and_mark(pgconn: pq.abc.PGconn, options: SessionOptions, nonce: str, floor: int) -> tuple[Marker, int]:
    """LISTEN, mark, and wait for the own marker; what was heard before it is dropped, what comes after stays in libpq.

    Returns the marker and the process that sent it, the session's own.
    """
    deadline = anyio.current_time() + options.connect_timeout_seconds
    doing = "starting to LISTEN (a commit that waits for a standby holds it up, too)"
    with waiting_for_at_most(options.connect_timeout_seconds, doing):
        await query(pgconn, start_sql(pgconn, options, nonce, floor))
    # The answer is complete. The server sends a session its own notification before that, a pooler maybe after.
    with anyio.CancelScope(deadline=deadline), translated("waiting for the first notification"):
        while True:
            for notify in iter(pgconn.notifies, None):
                if notify.relname == SYNC:
                    marker = read_marker(notify.extra)
                    if isinstance(marker, Marker) and marker.nonce == nonce:
                        return marker, notify.be_pid
            await anyio.wait_readable(pgconn.socket)
            pgconn.consume_input()
    raise PostgresUnusable(f"PostgreSQL did not send back the session's own notification; {POOLER_ADVICE}")


def start_sql(pgconn: pq.abc.PGconn, options: SessionOptions, nonce: str, floor: int) -> bytes:
    """The one query that starts a session: every LISTEN, then the marker, all in one transaction."""
    escape = pq.Escaping(pgconn)
    names = [channel.encode() for channel in options.channels] + [SYNC, PROBE]
    listens = b"".join(b"LISTEN %b; " % bytes(escape.escape_identifier(name)) for name in names)
    marker = {"nonce": nonce, "digest": options.digest, "role": options.role, "prefix": options.prefix}
    fields = b", ".join(
        b"'%b', %b::text" % (name.encode(), bytes(escape.escape_literal(value.encode())))
        for name, value in marker.items()
    )
    clock = b"floor(extract(epoch from clock_timestamp()) * 100)::bigint"
    term = b"greatest(%b, %d) * %d + pg_backend_pid()" % (clock, floor, _TERM_SHIFT)
    return b"%bSELECT pg_notify('%b', json_build_object('term', %b, %b)::text)" % (listens, SYNC, term, fields)


def _text(row: pq.abc.PGresult, column: int) -> str:
    return (row.get_value(0, column) or b"").decode(errors="replace")
