"""Opening connections to PostgreSQL and running small queries on them, without ever blocking the event loop.

psycopg has no connection of its own for trio, so this drives its thin wrapper of libpq (`psycopg.pq`) and waits with
anyio. libpq keeps its meaning: URLs and keyword strings, several hosts, service files, password files, TLS. What libpq
leaves out when it does not block is done here: names are resolved in a worker thread, each address is one attempt,
and each attempt has its own timeout.
"""

import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.to_thread
import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict, make_conninfo

from bridge.errors import BridgeError, PostgresLost, PostgresUnusable

CONNECT_TIMEOUT_SECONDS = 10.0

Parameters = dict[str, Any]

_SHORTEST_TIMEOUT_SECONDS = 2.0  # libpq's own: a smaller connect_timeout counts as 2
_RESOLVED_BY_LIBPQ = ("host", "hostaddr", "port", "connect_timeout", "load_balance_hosts", "target_session_attrs")
_NEEDS_A_PERSON = (  # libpq gives no SQLSTATE before the session stands, only texts; they choose nothing but the advice
    "authentication failed",
    "does not exist",
    "no such database",
    "pg_hba.conf",
    "permission denied",
    "not permitted",
    "not currently accepting connections",
)
_NOT_PRIMARY = ("session is read-only", "server is in hot standby mode")  # libpq's, never translated by a server
_READ_ONLY_TRANSACTION = "25006"  # what a standby answers to LISTEN and NOTIFY
_STANDBY_ADVICE = "it is a standby or read-only, and nothing is heard there: give the primary, or all hosts in one URL"


@asynccontextmanager
async def open_connection(
    conninfo: str, application_name: str, timeout_seconds: float = CONNECT_TIMEOUT_SECONDS
) -> AsyncIterator[pq.abc.PGconn]:
    """A connection to the first host that takes us, in non-blocking mode; closed at the end, also when cancelled.

    `conninfo` is anything libpq takes. A `connect_timeout` in it replaces `timeout_seconds`; both are for one address.
    `application_name` and `client_encoding` are ours whatever it says: the encoding is UTF8, or SQL_ASCII where the
    server's is, because there a single invalid byte in UTF8 would end the session. `target_session_attrs` is
    read-write unless it says otherwise. Raises PostgresUnusable where a person must change something, and PostgresLost
    for all else.
    """
    pgconn = await _connect(connection_parameters(conninfo, application_name), timeout_seconds)
    try:
        if pgconn.parameter_status(b"server_encoding") == b"SQL_ASCII":
            try:
                with waiting_for_at_most(timeout_seconds, "setting the client encoding"):
                    await query(pgconn, b"SET client_encoding TO 'SQL_ASCII'")
            except QueryFailed as error:
                raise error.as_link_error("setting the client encoding") from error
        yield pgconn
    finally:
        pgconn.finish()


async def query(pgconn: pq.abc.PGconn, sql: bytes, arguments: Iterable[bytes] | None = None) -> list[pq.abc.PGresult]:
    """Run one query and return its results. Notifications that come meanwhile stay in the connection, in order.

    Raises PostgresLost, or `QueryFailed` if the server refuses. The connection is of no use after a cancellation.
    """
    with translated("running a query"):
        if arguments is None:
            pgconn.send_query(sql)
        else:
            pgconn.send_query_params(sql, list(arguments))
        while pgconn.flush():
            await anyio.wait_writable(pgconn.socket)
        results = []
        while True:
            while pgconn.is_busy():
                await anyio.wait_readable(pgconn.socket)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                break
            results.append(result)
    for result in results:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise QueryFailed(result)
    return results


class QueryFailed(BridgeError):
    """The server refused a query. Stays inside `bridge.links`, which says what it means."""

    def __init__(self, result: pq.abc.PGresult) -> None:
        self.sqlstate = _field(result, pq.DiagnosticField.SQLSTATE)
        super().__init__(server_message(result))

    def as_link_error(self, doing: str) -> PostgresLost:
        """The same as an error of the link: PostgresUnusable where a person must change something."""
        if self.sqlstate == _READ_ONLY_TRANSACTION:
            return PostgresUnusable(f"PostgreSQL refused while {doing}: {self}; {_STANDBY_ADVICE}")
        # 22: data that cannot be (a name in this encoding), 42: syntax and rights
        kind = PostgresUnusable if self.sqlstate[:2] in ("22", "42") else PostgresLost
        return kind(f"PostgreSQL refused while {doing}: {self}")


def server_message(result: pq.abc.PGresult) -> str:
    """What the server says in an error or a notice, in one line."""
    return one_line(_field(result, pq.DiagnosticField.MESSAGE_PRIMARY) or result.get_error_message())


def server_sqlstate(result: pq.abc.PGresult) -> str:
    """The five characters that name the condition of an error or a notice."""
    return _field(result, pq.DiagnosticField.SQLSTATE)


def one_line(text: str) -> str:
    """The text with its line breaks as spaces."""
    return " ".join(text.split())


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """What libpq and the socket raise inside becomes PostgresLost."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        raise PostgresLost(f"lost PostgreSQL while {doing}: {one_line(str(error))}") from error


@contextmanager
def waiting_for_at_most(seconds: float, doing: str) -> Iterator[None]:
    """A bound for the waits inside: PostgresLost after so many seconds."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise PostgresLost(f"PostgreSQL did not answer within {seconds:g} s while {doing}")


def connection_parameters(conninfo: str, application_name: str) -> Parameters:
    """The connection parameters, with what service files and the environment say about hosts filled in.

    libpq reads all of these when it checks its parameters, before it connects. A value that is not allowed for one
    parameter of no interest stops it right there, and it tells what it found: no file is parsed here a second time.
    Raises PostgresUnusable where the string cannot be read; the text does not repeat it.
    """
    try:
        given = conninfo_to_dict(conninfo)
        probe = pq.PGconn.connect_start(make_conninfo(conninfo, gssencmode="stop").encode())
    except (psycopg.Error, UnicodeError) as error:
        detail = one_line(str(error)).partition('"')[0]  # libpq quotes the string, which may hold a password
        raise PostgresUnusable(
            f"the connection string of PostgreSQL cannot be read ({detail.strip()}): "
            "it is like postgresql://user:password@host:5432/database, with %XX for special characters"
        ) from None
    try:
        found = {o.keyword.decode(): o.val.decode() for o in probe.info if o.val}
    finally:
        probe.finish()
    merged: Parameters = {**{name: found[name] for name in _RESOLVED_BY_LIBPQ if name in found}, **given}
    if any("@" in host[1:] for host in str(merged.get("host", "")).split(",")):  # a first "@" is an abstract socket
        raise PostgresUnusable("the host in the connection string of PostgreSQL has an '@': write %40 in a password")
    says_any = "target_session_attrs" in given or "PGTARGETSESSIONATTRS" in os.environ
    if not says_any and merged.get("target_session_attrs", "any") == "any":
        merged["target_session_attrs"] = "read-write"
    merged.update(application_name=application_name, client_encoding="UTF8")
    return merged


async def _connect(parameters: Parameters, timeout_seconds: float) -> pq.abc.PGconn:
    try:
        given_seconds = float(parameters.get("connect_timeout") or 0)
    except ValueError:
        raise PostgresUnusable("connect_timeout in the connection string of PostgreSQL is not a number") from None
    if given_seconds > 0:
        timeout_seconds = max(given_seconds, _SHORTEST_TIMEOUT_SECONDS)
    try:
        with waiting_for_at_most(timeout_seconds, "resolving its host name"):
            attempts = await anyio.to_thread.run_sync(conninfo_attempts, parameters, abandon_on_cancel=True)
    except psycopg.Error as error:
        raise PostgresLost(f"cannot connect to PostgreSQL: {one_line(str(error))}") from error
    except UnicodeError as error:  # DNS has no such names
        raise PostgresUnusable(f"cannot connect to PostgreSQL: {parameters.get('host')!r} is no host name") from error
    failures: list[PostgresLost] = []
    for attempt in attempts:
        try:
            return await _attempt(attempt, timeout_seconds)
        except PostgresLost as error:
            failures.append(error)
    kind = PostgresUnusable if all(isinstance(e, PostgresUnusable) for e in failures) else PostgresLost
    raise kind("; ".join(dict.fromkeys(str(error) for error in failures))) from failures[-1]


async def _attempt(parameters: Parameters, timeout_seconds: float) -> pq.abc.PGconn:
    where = f"{parameters.get('hostaddr') or parameters.get('host') or 'its socket'}:{parameters.get('port') or 5432}"
    pgconn = pq.PGconn.connect_start(make_conninfo("", **parameters).encode())
    try:
        with waiting_for_at_most(timeout_seconds, f"connecting to {where}"), translated(f"connecting to {where}"):
            await _poll(pgconn)
    except BaseException:
        pgconn.finish()
        raise
    pgconn.nonblocking = 1
    return pgconn


async def _poll(pgconn: pq.abc.PGconn) -> None:
    """Poll libpq until the session stands; raises what libpq says otherwise."""
    stage = pgconn.status
    while pgconn.status != pq.ConnStatus.BAD:
        stage = pgconn.status
        match pgconn.connect_poll():
            case pq.PollingStatus.READING:
                await anyio.wait_readable(pgconn.socket)
            case pq.PollingStatus.WRITING:
                await anyio.wait_writable(pgconn.socket)
            case pq.PollingStatus.OK:
                return
            case _:
                break
    raise _refused(pgconn, stage)


def _refused(pgconn: pq.abc.PGconn, stage: int) -> PostgresLost:
    text = pgconn.get_error_message()
    message = f"cannot connect to PostgreSQL: {one_line(text)}"
    if any(phrase in text for phrase in _NOT_PRIMARY):
        return PostgresUnusable(
            f"{message}; {_STANDBY_ADVICE}, or add target_session_attrs=any for a read-only primary"
        )
    if pgconn.needs_password:
        return PostgresUnusable(f"{message}; give a password in the URL or in a password file")
    from_server = ":  " in text  # libpq writes "SEVERITY:  text" for what a server says, in any language
    password_refused = pgconn.used_password and stage == pq.ConnStatus.AWAITING_RESPONSE
    if from_server and (password_refused or any(phrase in text for phrase in _NEEDS_A_PERSON)):
        return PostgresUnusable(message)
    return PostgresLost(message)


def _field(result: pq.abc.PGresult, name: pq.DiagnosticField) -> str:
    value = result.error_field(name)
    return value.decode(errors="replace") if value else ""
