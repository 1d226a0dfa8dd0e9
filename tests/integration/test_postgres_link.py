"""LISTEN sessions on real servers: what they hear, what they refuse, and how they end."""

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest
import trio

from bridge.core.events import Heard, Marker, Notification, Unreadable
from bridge.core.position import Position
from bridge.errors import BridgeError, PostgresLost, PostgresUnusable
from bridge.links.postgres import MAX_BATCH, DatabaseIdentity, ListenSession, SessionOptions, notify, open_session
from tests.support.postgres import (
    PostgresServer,
    directory_for_servers,
    free_port,
    give_to_servers,
    has_pgbouncer,
    kinds,
    pgbouncer,
    postgres_server,
    standby_of,
)

TIMEOUT_SECONDS = 30.0


def options(conninfo: str, **changes: Any) -> SessionOptions:
    settings: dict[str, Any] = {
        "channels": ("match_change",),
        "digest": "0123abcd",
        "role": "listener",
        "prefix": "pg_notify",
        "probe_seconds": 5.0,
    }
    return SessionOptions(conninfo, **(settings | changes))


@asynccontextmanager
async def session(conninfo: str, *, floor: int = 0, **changes: Any) -> AsyncIterator[ListenSession]:
    with trio.fail_after(TIMEOUT_SECONDS):
        async with open_session(options(conninfo, **changes), floor=floor) as opened:
            yield opened


async def refused(conninfo: str, **changes: Any) -> PostgresLost:
    """The error that opening a session ends with."""
    with pytest.raises(PostgresLost) as caught:
        async with session(conninfo, **changes):
            pass
    assert "\n" not in str(caught.value)
    return caught.value


async def hear(listening: ListenSession, count: int) -> list[Heard]:
    heard: list[Heard] = []
    while len(heard) < count:
        heard += await listening.receive()
    return heard


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(TIMEOUT_SECONDS):
        while not condition():  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.01)


def payloads(heard: list[Heard]) -> list[bytes]:
    return [h.body.payload for h in heard if isinstance(h.body, Notification)]


def execute(server: PostgresServer, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
    return server.execute(sql, *arguments)


def send(server: PostgresServer, channel: str, *texts: str, database: str = "postgres") -> None:
    """Notify in one transaction."""
    server.execute(
        "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) payload", channel, list(texts), database=database
    )


def activity(server: PostgresServer, pid: int) -> tuple[str, str, str]:
    [(state, query, name)] = server.execute(
        "SELECT state, query, application_name FROM pg_stat_activity WHERE pid = %s", pid
    )
    return state, query, name


async def test_a_session_marks_itself_and_counts_from_its_marker(postgres: PostgresServer) -> None:
    async with session(postgres.url()) as listening:
        assert listening.marker == Marker(listening.term, listening.nonce, "0123abcd", "listener", "pg_notify")
        assert listening.term % 2**22 == listening.backend_pid
        assert listening.proven
        assert listening.server_version // 10_000 in (15, 18)
        send(postgres, "match_change", '{"match_id": 7}', "plain")
        assert await hear(listening, 2) == [
            Heard(Position(listening.term, 1), Notification("match_change", b'{"match_id": 7}')),
            Heard(Position(listening.term, 2), Notification("match_change", b'"plain"')),
        ]


@pytest.mark.parametrize("role", ["listener", "fallback"])
async def test_operators_see_one_idle_listen_row(postgres: PostgresServer, role: str) -> None:
    url = postgres.url(query="application_name=mine")
    async with session(url, role=role, probe_seconds=0.05) as listening:
        for n in range(2):
            state, query, name = activity(postgres, listening.backend_pid)
            assert (state, name) == ("idle", f"bridge {role}")
            assert query.startswith("LISTEN")
            await probed(listening, n + 1)


async def probed(listening: ListenSession, times: int) -> None:
    """Receive, which brings nothing, until own probes have come back so often."""
    for _ in range(times):
        before = listening.round_trip_seconds
        while listening.round_trip_seconds == before:
            with trio.move_on_after(0.01):
                await listening.receive()


async def test_the_floor_lifts_the_term(postgres: PostgresServer) -> None:
    async with session(postgres.url()) as now, session(postgres.url(), floor=now.term // 2**22 + 9_000) as later:
        assert later.term // 2**22 == now.term // 2**22 + 9_000


@pytest.mark.parametrize(
    ("text", "json"),
    [
        ("", b'""'),
        ("7", b"7"),
        ("no json", b'"no json"'),
        ('it\'s "quoted" \\', rb'''"it's \"quoted\" \\"'''),
        ("日本 ü", '"日本 ü"'.encode()),
        ("x" * 7999, b'"' + b"x" * 7999 + b'"'),
        ("ü" * 3999, b'"' + "ü".encode() * 3999 + b'"'),
    ],
    ids=["empty", "scalar", "text", "quotes", "not-ascii", "longest", "longest-in-bytes"],
)
async def test_payloads_arrive_as_they_were_sent(postgres: PostgresServer, text: str, json: bytes) -> None:
    async with session(postgres.url()) as listening:
        send(postgres, "match_change", text)
        assert payloads(await hear(listening, 1)) == [json]


async def test_channel_names_are_exact(postgres: PostgresServer) -> None:
    names = ("Capitals", "capitals", 'quo"te', "it's", "two words", "日本", "back\\slash", "semi;colon", "%s", "x" * 63)
    async with session(postgres.url(), channels=names) as listening:
        for name in names:
            send(postgres, name, "1")
        send(postgres, "CAPITALS", "1")
        heard = await hear(listening, len(names))
        assert [h.body.channel for h in heard if isinstance(h.body, Notification)] == list(names)


async def test_sessions_hear_each_others_markers_and_then_the_same(postgres: PostgresServer) -> None:
    async with session(postgres.url()) as one:
        send(postgres, "match_change", "1")
        async with session(postgres.url(), role="fallback") as other:
            assert other.term != one.term
            send(postgres, "match_change", "2", "3")
            by_one, by_other = await hear(one, 4), await hear(other, 2)
    assert by_one[1] == Heard(Position(one.term, 2), other.marker)
    assert [h.body for h in by_one[2:]] == [h.body for h in by_other]
    assert [h.position.seq for h in by_one[2:]] == [2 + h.position.seq for h in by_other]
    assert one.database == other.database


async def test_what_anybody_sends_on_the_sync_channel_counts_and_on_the_probe_channel_does_not(
    postgres: PostgresServer,
) -> None:
    async with session(postgres.url()) as listening:
        for text in (
            "",
            "{}",
            '{"x":' + "[" * 7900,
            '{"term": -1, "nonce": "", "digest": "", "role": "", "prefix": ""}',
        ):
            send(postgres, "bridge_sync", text)
        for text in ("", listening.nonce, f'{{"term": 1, "nonce": "{listening.nonce}", "n": 1, "heard": null}}'):
            send(postgres, "bridge_probe", text)
        send(postgres, "match_change", "1")
        heard = await hear(listening, 5)
    assert [h.body for h in heard] == [*[Unreadable()] * 4, Notification("match_change", b"1")]
    assert [h.position.seq for h in heard] == [1, 2, 3, 4, 5]


async def test_a_large_transaction_comes_complete_in_bounded_batches(postgres: PostgresServer) -> None:
    count = 30_000
    heard: list[Heard] = []
    sql = "SELECT count(pg_notify('match_change', i::text)) FROM generate_series(1, %s) i"
    async with session(postgres.url()) as listening, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, execute, postgres, sql, count)
        while len(heard) < count:
            batch = await listening.receive()
            assert 0 < len(batch) <= MAX_BATCH
            heard += batch
    assert payloads(heard) == [b"%d" % i for i in range(1, count + 1)]
    assert [h.position for h in heard] == [Position(listening.term, i) for i in range(1, count + 1)]


async def test_a_cancelled_receive_loses_nothing(postgres: PostgresServer) -> None:
    count, cancelled = 5_000, 0
    heard: list[Heard] = []
    sql = "SELECT count(pg_notify('match_change', i::text)) FROM generate_series(1, %s) i"
    async with session(postgres.url(), probe_seconds=0.02) as listening, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, execute, postgres, sql, count)
        while len(heard) < count:
            for patience_seconds in (0, 0.0002, 0.001):
                with trio.move_on_after(patience_seconds) as scope:
                    heard += await listening.receive()
                cancelled += scope.cancelled_caught
    assert payloads(heard) == [b"%d" % i for i in range(1, count + 1)]
    assert cancelled


async def test_probes_come_back_and_prove_the_session(postgres: PostgresServer) -> None:
    async with session(postgres.url(), probe_seconds=0.05) as listening, session(postgres.url()) as other:
        before = listening.last_proof
        await probed(listening, 3)
        assert listening.proven
        assert listening.last_proof > before
        assert listening.probe_error is None
        send(postgres, "match_change", "1")
        assert (await hear(other, 1))[0].position.seq == 1


async def test_a_session_that_nobody_reads_is_not_proven(postgres: PostgresServer) -> None:
    async with session(postgres.url(), probe_seconds=0.02) as listening:
        await until(lambda: not listening.proven)
        await probed(listening, 1)
        assert listening.proven


async def test_an_ended_session_says_why(postgres: PostgresServer) -> None:
    async with session(postgres.url()) as listening:
        send(postgres, "match_change", "1")
        postgres.execute("SELECT pg_terminate_backend(%s)", listening.backend_pid)
        assert payloads(await hear(listening, 1)) == [b"1"]
        for _ in range(2):
            with pytest.raises(PostgresLost, match="terminating connection due to administrator command"):
                await listening.receive()
        assert not listening.proven


async def test_a_session_ended_while_it_probes_says_why(postgres: PostgresServer) -> None:
    async with session(postgres.url(), probe_seconds=0.001) as listening:
        await probed(listening, 1)
        postgres.execute("SELECT pg_terminate_backend(%s)", listening.backend_pid)
        with pytest.raises(PostgresLost, match="terminating connection due to administrator command"):
            await listening.receive()


@pytest.mark.parametrize("how", ["killed", "immediate", "fast"])
async def test_a_server_that_goes_ends_the_session_and_can_come_back(how: str) -> None:
    with postgres_server() as server:
        async with session(server.url()) as listening:
            send(server, "match_change", "1")
            if how == "killed":
                server.kill()
            else:
                server.stop(immediate=how == "immediate")
            assert payloads(await hear(listening, 1)) == [b"1"]
            with pytest.raises(PostgresLost, match="PostgreSQL"):
                await listening.receive()
        assert "127.0.0.1" in str(await refused(server.url()))
        identity = listening.database
        server.start()
        async with session(server.url()) as listening:
            assert listening.database == identity


async def test_a_paused_server_is_lost_after_a_probe_and_no_later() -> None:
    with postgres_server() as server:
        async with session(server.url(), probe_seconds=0.3) as listening:
            server.pause()
            started = trio.current_time()
            with pytest.raises(PostgresLost, match="did not answer a probe"):
                await listening.receive()
            assert 0.5 < trio.current_time() - started < 2
            assert not listening.proven
            server.resume()


async def test_a_pause_of_our_own_process_is_not_silence(postgres: PostgresServer) -> None:
    async with session(postgres.url(), probe_seconds=0.05) as listening:
        await probed(listening, 1)
        with trio.move_on_after(0.06):
            await listening.receive()
        send(postgres, "match_change", "1")
        await trio.sleep(0.3)
        assert payloads(await hear(listening, 1)) == [b"1"]
        await probed(listening, 2)


async def test_a_cancelled_session_closes_its_connection(postgres: PostgresServer) -> None:
    with trio.CancelScope() as scope:
        async with open_session(options(postgres.url())) as listening:
            scope.cancel()
            await listening.receive()
    sql = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    await until(lambda: not postgres.execute(sql, listening.backend_pid))


def test_it_runs_on_asyncio_too(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with open_session(options(postgres.url())) as listening:
            await notify(postgres.url(), "match_change", ["1", "2"])
            with anyio.fail_after(TIMEOUT_SECONDS):
                assert payloads(await hear(listening, 2)) == [b"1", b"2"]

    anyio.run(main, backend="asyncio")


@pytest.fixture(scope="module")
def databases(postgres: PostgresServer) -> PostgresServer:
    """The server with a database in each of some other encodings, and a user that is asked for a password."""
    for encoding in ("SQL_ASCII", "LATIN1"):
        postgres.execute(f"CREATE DATABASE {encoding} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    postgres.execute("CREATE USER asked PASSWORD 'open sesame'")
    rules = postgres.data / "pg_hba.conf"
    rules.write_text("host all asked 127.0.0.1/32 scram-sha-256\nhost all barred all reject\n" + rules.read_text())
    postgres.execute("SELECT pg_reload_conf()")
    return postgres


async def test_bytes_that_are_no_utf8_become_replacement_characters(databases: PostgresServer) -> None:
    async with session(databases.url("sql_ascii"), channels=("match_change", "schön")) as listening:
        databases.execute(r"SELECT pg_notify('match_change', E'a\xffb')", database="sql_ascii")
        databases.execute(r"SELECT pg_notify(E'sch\xc3\xb6n', E'\xe6\x97\xa5')", database="sql_ascii")
        assert [h.body for h in await hear(listening, 2)] == [
            Notification("match_change", '"a\N{REPLACEMENT CHARACTER}b"'.encode()),
            Notification("schön", '"日"'.encode()),
        ]


async def test_another_server_encoding_is_converted(databases: PostgresServer) -> None:
    async with session(databases.url("latin1"), channels=("schön",)) as listening:
        send(databases, "schön", "ü", database="latin1")
        assert [h.body for h in await hear(listening, 1)] == [Notification("schön", '"ü"'.encode())]
    error = await refused(databases.url("latin1"), channels=("日本",))
    assert isinstance(error, PostgresUnusable)
    assert "LATIN1" in str(error)


async def test_the_identity_without_the_right_to_read_it(databases: PostgresServer) -> None:
    databases.execute("CREATE DATABASE private")
    databases.execute("CREATE USER plain")
    databases.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC", database="private")
    [(oid,)] = databases.execute("SELECT oid::text FROM pg_database WHERE datname = 'private'")
    async with session(databases.url("private", user="plain")) as listening:
        assert listening.database == DatabaseIdentity("name:private", oid)
    async with session(databases.url("private")) as listening:
        assert listening.database.system_identifier.isdigit()
        assert str(listening.database).endswith(f"/{oid}")


@pytest.mark.parametrize(
    ("user", "database", "said"),
    [
        ("postgres", "missing", 'database "missing" does not exist'),
        ("nobody", "postgres", 'role "nobody" does not exist'),
        ("asked:wrong%20horse", "postgres", 'password authentication failed for user "asked"'),
        ("asked", "postgres", "give a password"),
        ("barred", "postgres", "pg_hba.conf rejects connection"),
    ],
)
async def test_a_refused_login_says_what_the_server_said(
    databases: PostgresServer, user: str, database: str, said: str
) -> None:
    error = await refused(databases.url(database, user))
    assert isinstance(error, PostgresUnusable)
    assert said in str(error)
    assert "horse" not in f"{error!r} {error.__cause__!r} {error.__context__!r}"


async def test_a_password_of_several_hosts_finds_the_first_that_takes_us(databases: PostgresServer) -> None:
    hosts = f"127.0.0.1:{free_port()},localhost:{databases.port}"
    async with session(f"postgresql://asked:open%20sesame@{hosts}/postgres") as listening:
        assert activity(databases, listening.backend_pid)[0] == "idle"


async def test_a_service_file_is_honoured(
    databases: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("service")
    service, passwords = directory / "services", directory / "passwords"
    hosts = f"host=127.0.0.1,localhost\nport={free_port()},{databases.port}"
    service.write_text(f"[matches]\n{hosts}\nuser=asked\ndbname=postgres\npassfile={passwords}\n")
    passwords.write_text("localhost:*:*:asked:open sesame\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    async with session("service=matches") as listening:
        assert listening.proven
    error = await refused("service=unheard")
    assert 'definition of service "unheard" not found' in str(error)


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


async def test_a_mute_server_is_given_up_while_others_run(mute_port: int) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.01)
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        error = await refused(f"host=127.0.0.1 port={mute_port}", connect_timeout_seconds=0.3)
        nursery.cancel_scope.cancel()
    assert "did not answer within 0.3 s" in str(error)
    assert turns > 10


async def test_connect_timeout_in_the_url_is_for_each_host(mute_port: int) -> None:
    with postgres_server() as server:
        url = f"postgresql://postgres@127.0.0.1:{mute_port},127.0.0.1:{server.port}/postgres?connect_timeout=1"
        started = trio.current_time()
        async with session(url):
            assert 1.9 < trio.current_time() - started < 5


@pytest.mark.parametrize("host", ["host.invalid", "x" * 64 + ".invalid"])
async def test_a_name_that_does_not_resolve(host: str) -> None:
    error = await refused(f"postgresql://postgres@{host}/postgres")
    assert host in str(error)


@pytest.mark.parametrize(
    "conninfo",
    [
        "postgresql://me:tops%zzecret@127.0.0.1/db",
        "tops ecret",
        "postgresql://me:x@topsecret@127.0.0.1/db",
        "a='topsecret",
    ],
)
async def test_a_string_that_libpq_cannot_read_is_not_repeated(conninfo: str) -> None:
    error = await refused(conninfo)
    assert isinstance(error, PostgresUnusable)
    assert "tops" not in f"{error!r} {error.__cause__!r}"


async def test_a_standby_is_refused_and_its_primary_is_found(postgres: PostgresServer) -> None:
    with standby_of(postgres) as standby:
        for url in (standby.url(), standby.url(query="target_session_attrs=any")):
            error = await refused(url)
            assert isinstance(error, PostgresUnusable)
            assert "standby" in str(error)
        hosts = f"127.0.0.1:{standby.port},127.0.0.1:{postgres.port}"
        async with session(f"postgresql://postgres@{hosts}/postgres") as listening:
            send(postgres, "match_change", "1")
            assert payloads(await hear(listening, 1)) == [b"1"]
        with pytest.raises(PostgresUnusable, match="standby"):
            await notify(standby.url(query="target_session_attrs=any"), "match_change", ["1"])


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind == "debian"])  # the wheel's has no TLS
async def test_tls(kind: str) -> None:
    with directory_for_servers() as directory:
        key, certificate = directory / "key.pem", directory / "certificate.pem"
        subject = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
        command = ["openssl", "req", "-x509", *subject, "-keyout", str(key), "-out", str(certificate)]
        await trio.run_process(command, capture_stdout=True, capture_stderr=True)
        give_to_servers(directory)
        with postgres_server(kind, ssl="on", ssl_cert_file=str(certificate), ssl_key_file=str(key)) as server:
            count = 500
            sql = "SELECT count(pg_notify('match_change', repeat('x', 7900) || i)) FROM generate_series(1, %s) i"
            url = f"host=localhost port={server.port} user=postgres sslmode=verify-full sslrootcert={certificate}"
            async with session(url) as listening, trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, execute, server, sql, count)
                heard = await hear(listening, count)
                assert payloads(heard)[-1] == b'"%b500"' % (b"x" * 7900)
            assert "certificate" in str(await refused(f"{url} hostaddr=127.0.0.1 host=example.org"))


@pytest.mark.parametrize("pool_mode", ["transaction"] if has_pgbouncer() else [])
async def test_a_transaction_pooler_is_refused(
    postgres: PostgresServer, pool_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.links.postgres._PROOF_TIMEOUT_SECONDS", 0.5)
    with pgbouncer(postgres, pool_mode) as url:
        error = await refused(url)
    assert isinstance(error, PostgresUnusable)
    assert "pool_mode=session" in str(error)


@pytest.mark.parametrize("pool_mode", ["session"] if has_pgbouncer() else [])
async def test_a_session_pooler_serves(postgres: PostgresServer, pool_mode: str) -> None:
    with pgbouncer(postgres, pool_mode) as url:
        async with session(url, probe_seconds=0.05) as listening:
            assert activity(postgres, listening.backend_pid)[0] == "idle"
            send(postgres, "match_change", "1")
            assert await hear(listening, 1) == [Heard(Position(listening.term, 1), Notification("match_change", b"1"))]
            await probed(listening, 2)


async def test_notify_sends_in_order(postgres: PostgresServer) -> None:
    sent = ["", '{"match_id": 7}', "it's", "日本", "x" * 7999]
    async with session(postgres.url(), channels=("Match change",)) as listening:
        await notify(postgres.url(), "Match change", sent)
        assert payloads(await hear(listening, 5)) == [
            b'""', b'{"match_id": 7}', b'"it\'s"', '"日本"'.encode(), b'"' + b"x" * 7999 + b'"'
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("channel", "payload", "said"),
    [
        ("c", "ü" * 4000, "8,000 bytes of 7,999"),
        ("", "x", "channel name"),
        ("c" * 64, "x", "channel 64 of 63"),
        ("c", "a\0b", "NUL"),
        ("c", "\udcff", "invalid byte sequence"),
    ],
)
async def test_notify_says_what_postgresql_does_not_take(
    postgres: PostgresServer, channel: str, payload: str, said: str
) -> None:
    with pytest.raises(BridgeError, match=said) as caught:
        await notify(postgres.url(), channel, ["fine", payload] if len(channel) == 1 else [payload])
    assert type(caught.value) is BridgeError
    assert "\n" not in str(caught.value)


def test_terms_rise_over_time_and_stay_in_64_bits(postgres: PostgresServer) -> None:
    async def main() -> list[int]:
        terms = []
        for _ in range(3):
            async with session(postgres.url()) as listening:
                terms.append(listening.term)
            await trio.sleep(0.011)
        return terms

    terms = trio.run(main)
    assert all(older < newer < 2**63 for older, newer in pairwise(terms))
