"""Opening LISTEN sessions: whom they connect to, and what they refuse with a line that says what to do."""

import socket
from collections.abc import Iterator
from functools import partial

import pytest
import trio

from bridge.core.events import Heard, Notification
from bridge.core.position import Position
from bridge.errors import PostgresUnusable
from bridge.links.postgres import DatabaseIdentity, notify
from bridge.links.postgres_connect import CONNECT_TIMEOUT_SECONDS
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
from tests.support.postgres_session import (
    activity,
    execute,
    hear,
    payloads,
    probed,
    refused,
    send,
    session,
    until,
    with_own_notify,
)


@pytest.fixture(scope="module")
def logins(postgres: PostgresServer) -> PostgresServer:
    """The server with a user who is asked for a password, and one who is not let in."""
    postgres.execute("CREATE USER asked PASSWORD 'open sesame'")
    rules = postgres.data / "pg_hba.conf"
    rules.write_text("host all asked 127.0.0.1/32 scram-sha-256\nhost all barred all reject\n" + rules.read_text())
    postgres.execute("SELECT pg_reload_conf()")
    return postgres


async def test_the_identity_without_the_right_to_read_it(logins: PostgresServer) -> None:
    logins.execute("CREATE DATABASE private")
    logins.execute("CREATE USER plain")
    logins.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC", database="private")
    [(oid,)] = logins.execute("SELECT oid::text FROM pg_database WHERE datname = 'private'")
    async with session(logins.url("private", user="plain")) as listening:
        assert listening.database == DatabaseIdentity("name:private", oid)
    async with session(logins.url("private")) as listening:
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
    logins: PostgresServer, user: str, database: str, said: str
) -> None:
    error = await refused(logins.url(database, user))
    assert isinstance(error, PostgresUnusable)
    assert said in str(error)
    assert "horse" not in f"{error!r} {error.__cause__!r} {error.__context__!r}"


async def test_a_password_of_several_hosts_finds_the_first_that_takes_us(logins: PostgresServer) -> None:
    hosts = f"127.0.0.1:{free_port()},localhost:{logins.port}"
    async with session(f"postgresql://asked:open%20sesame@{hosts}/postgres") as listening:
        assert activity(logins, listening.backend_pid)[0] == "idle"


async def test_a_service_file_is_honoured(
    logins: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("service")
    service, passwords = directory / "services", directory / "passwords"
    hosts = f"host=127.0.0.1,localhost\nport={free_port()},{logins.port}"
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
    url = f"host=127.0.0.1 port={mute_port}"
    assert "did not answer within 0.3 s" in str(await refused(url, connect_timeout_seconds=0.3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(refused, url, connect_timeout_seconds=20))
        for _ in range(10):
            await trio.sleep(0.01)
        assert len(nursery.child_tasks) == 1, "the others ran while it waited"
        nursery.cancel_scope.cancel()


async def test_connect_timeout_in_the_url_is_for_each_host(mute_port: int) -> None:
    with postgres_server() as server:
        url = f"postgresql://postgres@127.0.0.1:{mute_port},127.0.0.1:{server.port}/postgres?connect_timeout=3"
        started = trio.current_time()
        async with session(url):
            assert 2.9 < trio.current_time() - started < CONNECT_TIMEOUT_SECONDS


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
async def test_a_transaction_pooler_is_refused(postgres: PostgresServer, pool_mode: str) -> None:
    with pgbouncer(postgres, pool_mode) as url:
        error = await refused(url)
    assert isinstance(error, PostgresUnusable)
    assert "pool_mode=session" in str(error)


async def test_a_session_that_does_not_hear_itself_is_refused(postgres: PostgresServer) -> None:
    url = with_own_notify(postgres, "mute", "")
    error = await refused(url, connect_timeout_seconds=3)
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


@pytest.mark.parametrize("pool_mode", ["session"] if has_pgbouncer() else [])
async def test_a_session_pooler_loses_nothing_while_it_is_put_to_the_proof(
    postgres: PostgresServer, pool_mode: str
) -> None:
    sent = 0

    async def keep_sending() -> None:
        nonlocal sent
        while True:
            await trio.to_thread.run_sync(partial(send, postgres, "match_change", *map(str, range(sent, sent + 100))))
            sent += 100

    with pgbouncer(postgres, pool_mode) as url:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_sending)
            await until(lambda: sent > 0)
            async with session(url) as listening:
                heard = await hear(listening, 1_000)
            nursery.cancel_scope.cancel()
    numbers = [int(payload) for payload in payloads(heard)]
    assert numbers == list(range(numbers[0], numbers[0] + len(heard)))
    assert [h.position.seq for h in heard] == list(range(1, len(heard) + 1))
