"""What `doctor` sees of real servers, well and ill: PostgreSQL, poolers, standbys, Redis, its rights and its limits."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
import trio

from bridge.doctor import postgres, redis, redis_judgment
from bridge.doctor.report import Finding
from bridge.links.redis_url import parse_redis_url
from bridge.settings import Settings
from tests.support.postgres import PostgresServer, free_port, has_pgbouncer, pgbouncer, postgres_server, standby_of
from tests.support.postgres_session import until
from tests.support.proxy import STALLED, proxy_of
from tests.support.redis import BINARIES, RedisServer
from tests.support.sentinel import watched_pair

LONGEST_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """No listener is waited for here."""
    monkeypatch.setattr(redis, "BEATS_SECONDS", 0.05)


async def at_postgres(url: str) -> list[Finding]:
    settings = Settings(database_url=url)
    with trio.fail_after(LONGEST_SECONDS):
        return postgres.judge(await postgres.look(settings), settings.probe_seconds)


async def at_redis(url: str, prefix: str = "pg_notify") -> list[Finding]:
    settings = Settings(
        database_url="dbname=x",
        use_redis_notifier=True,
        redis_url=url,
        redis_prefix=prefix,
        redis_timeout_seconds=30,  # no slow machine is ill
    )
    with trio.fail_after(LONGEST_SECONDS):
        return redis_judgment.judge(await redis.look(settings, parse_redis_url(url)), settings)


def ill(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level != "good"]


def only(findings: Sequence[Finding]) -> Finding:
    """The one thing that is not well."""
    (finding,) = ill(findings)
    return finding


async def test_a_postgres_that_is_well(postgres: PostgresServer) -> None:
    findings = await at_postgres(postgres.url())
    assert ill(findings) == []
    texts = [finding.text for finding in findings]
    assert texts[0].startswith(f"127.0.0.1:{postgres.port} answered in")
    assert any("a NOTIFY takes" in text for text in texts)
    assert not any("pooler" in text for text in texts)


async def test_nobody_hears_a_probe_and_operators_count_no_listener(postgres: PostgresServer) -> None:
    """Its sessions do not look like a listener's, and nothing reaches the channels of the application."""
    with psycopg.connect(postgres.url(), autocommit=True) as watcher:
        watcher.execute("LISTEN match_change; LISTEN bridge_sync")
        counted: list[int] = []
        async with trio.open_nursery() as nursery:

            async def count() -> None:
                sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND application_name = %s"
                while True:
                    rows = await trio.to_thread.run_sync(postgres.execute, sql, "bridge doctor")
                    counted.append(rows[0][0])

            nursery.start_soon(count)
            await until(lambda: len(counted) > 1)
            assert ill(await at_postgres(postgres.url())) == []
            nursery.cancel_scope.cancel()
        assert set(counted) == {0}
        assert list(watcher.notifies(timeout=0.1)) == []


@pytest.mark.parametrize("pool_mode", ["transaction", "session"] if has_pgbouncer() else [])
async def test_a_pooler(postgres: PostgresServer, pool_mode: str) -> None:
    with pgbouncer(postgres, pool_mode) as url:
        findings = await at_postgres(url)
        if pool_mode == "session":
            assert ill(findings) == []
            assert any("a pooler is in between" in finding.text for finding in findings)
        else:
            finding = only(findings)
            assert finding.level == "bad"
            assert "pool_mode=session" in finding.todo
        listening = "SELECT pg_listening_channels()"
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as left:
            assert left.execute(listening).fetchall() == []  # the pool's session does not go on listening


async def test_a_standby(postgres: PostgresServer) -> None:
    with standby_of(postgres) as standby:
        finding = only(await at_postgres(standby.url()))
        assert (finding.level, "standby" in finding.text) == ("bad", True)
        finding = only(await at_postgres(standby.url(query="target_session_attrs=any")))
        assert (finding.level, finding.todo) == ("bad", "give the primary, or all hosts in one URL")
        hosts = f"127.0.0.1:{standby.port},127.0.0.1:{postgres.port}"
        findings = await at_postgres(f"postgresql://postgres@{hosts}/postgres")
        assert ill(findings) == []
        assert f":{postgres.port} answered" in findings[0].text


async def test_a_postgres_that_is_not_there() -> None:
    finding = only(await at_postgres(f"postgresql://me:secret@127.0.0.1:{free_port()}/x"))
    assert finding.level == "bad"
    assert "DATABASE_URL" in finding.todo
    assert "secret" not in f"{finding}"


async def test_a_postgres_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.doctor.postgres.CONNECT_SECONDS", 0.5)
    with postgres_server() as server:
        server.pause()
        try:
            finding = only(await at_postgres(server.url()))
        finally:
            server.resume()
    assert "did not answer within 0.5 s" in finding.text


async def test_a_postgres_that_hangs_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.doctor.postgres.LOOK_SECONDS", 4.5)
    with postgres_server() as server, proxy_of(server.port) as proxy:
        server.execute("CREATE SCHEMA slow")
        server.execute(
            "CREATE FUNCTION slow.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT false FROM pg_sleep(30)'"
        )
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?options=-csearch_path%3Dslow,pg_catalog"
        finding = only(await at_postgres(url))
    assert finding.text == "PostgreSQL did not answer within 4.5 s while asking what it is"


async def test_commits_that_wait_for_a_standby_that_is_away() -> None:
    with postgres_server(synchronous_standby_names="ghost") as server, psycopg.connect(server.url()) as writer:
        writer.execute("CREATE TABLE t ()")
        writer.execute("NOTIFY x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, writer.commit)
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            await until(lambda: bool(server.execute(waiting)))
            finding = only(await at_postgres(server.url()))
            writer.cancel()  # the commit stays here, and waits no longer
    assert finding.level == "bad"
    assert "synchronous_standby_names='ghost'" in finding.todo


async def test_hardly_any_connection_is_left() -> None:
    reserved = {"superuser_reserved_connections": "1", "reserved_connections": "1"}
    with postgres_server(max_connections="8", **reserved) as server, ExitStack() as others:
        first, *_ = [others.enter_context(psycopg.connect(server.url(), autocommit=True)) for _ in range(3)]

        async def only_held(count: int) -> None:
            """Wait for the ends of sessions that were closed."""
            sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            await until(lambda: first.execute(sessions).fetchone() == (count,))

        first.execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 1")
        assert ill(await at_postgres(server.url())) == []
        with psycopg.connect(server.url()):
            await only_held(4)
            finding = only(await at_postgres(server.url()))
            assert (finding.level, finding.text) == ("warning", "5 of 6 connections in use (max_connections)")
        await only_held(3)
        narrow = ill(await at_postgres(server.url(user="narrow")))
        assert [finding.level for finding in narrow] == ["bad", "bad"]
        assert "no second connection" in narrow[0].text
        assert narrow[1].text == "1 of 1 connections in use (the limit of role narrow)"


async def test_a_queue_that_is_not_read() -> None:
    with postgres_server(max_notify_queue_pages="64") as server, psycopg.connect(server.url()) as sleeper:
        sleeper.execute("LISTEN x")
        sleeper.commit()
        sleeper.execute("SELECT 1")  # and it stays in its transaction
        server.execute("SELECT count(pg_notify('x', repeat('x', 4000) || i)) FROM generate_series(1, 80) i")
        finding = only(await at_postgres(server.url()))
    assert (finding.level, "idle in transaction" in finding.todo) == ("bad", True)


async def test_a_redis_that_is_well_and_stays_as_it_is(redis_server: RedisServer) -> None:
    before = redis_server.command("DBSIZE")
    assert ill(await at_redis(redis_server.url, "well")) == []
    assert redis_server.command("DBSIZE") == before


async def test_a_redis_that_is_not_there() -> None:
    finding = only(await at_redis(f"redis://:secret@127.0.0.1:{free_port()}"))
    assert finding.level == "bad"
    assert "REDIS_URL" in finding.todo
    assert "secret" not in f"{finding}"


async def test_a_redis_that_hangs(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "ANSWER_SECONDS", 0.5)
    with redis_server.paused():
        assert "no answer" in only(await at_redis(redis_server.url)).text
    with proxy_of(redis_server.port) as proxy:
        proxy.impose(STALLED)
        assert only(await at_redis(f"redis://127.0.0.1:{proxy.port}")).level == "bad"


@pytest.mark.parametrize(
    ("policy", "maxmemory", "level"),
    [("allkeys-lru", "100mb", "bad"), ("allkeys-lru", "0", "warning"), ("volatile-ttl", "100mb", "good")],
)
async def test_a_redis_that_evicts(redis_server: RedisServer, policy: str, maxmemory: str, level: str) -> None:
    with redis_server.configured(maxmemory_policy=policy, maxmemory=maxmemory):
        findings = await at_redis(redis_server.url)
    assert {finding.level for finding in findings if "maxmemory-policy" in finding.text} == {level}
    assert len(ill(findings)) == (level != "good")


async def test_a_redis_that_is_full(redis_server: RedisServer) -> None:
    with redis_server.configured(maxmemory=1):
        findings = ill(await at_redis(redis_server.url))
    assert {finding.level for finding in findings} == {"bad"}
    assert "it refuses XADD" in findings[0].text
    assert "OOM" in findings[0].text


async def test_a_redis_with_small_buffers(redis_server: RedisServer) -> None:
    with redis_server.configured(client_output_buffer_limit="pubsub 65536 0 0"):
        finding = only(await at_redis(redis_server.url))
    assert finding.level == "bad"
    assert "dropped at 64.0 KiB" in finding.text


async def test_a_replica(redis_server: RedisServer) -> None:
    redis_server.command("REPLICAOF", "127.0.0.1", 1)
    try:
        finding = only(await at_redis(redis_server.url))
    finally:
        redis_server.command("REPLICAOF", "NO", "ONE")
    assert finding.level == "bad"
    assert "replica" in finding.text


async def test_behind_sentinels() -> None:
    with watched_pair(BINARIES[-1]) as watched:
        findings = await at_redis(watched.url)
        assert ill(findings) == []
        assert findings[0].text.startswith(f"127.0.0.1:{watched.master.port} answered")


@contextmanager
def user(server: RedisServer, *rules: str) -> Iterator[str]:
    """A URL of a user with these rules."""
    server.command("ACL", "SETUSER", "doctored", "on", ">geheim", *rules)
    try:
        yield f"redis://doctored:geheim@127.0.0.1:{server.port}"
    finally:
        server.command("ACL", "DELUSER", "doctored")


async def test_the_rights_that_it_advises_suffice(redis_server: RedisServer) -> None:
    with user(redis_server, "-@all") as url:
        (todo,) = {finding.todo for finding in await at_redis(url, "mine") if "ACL SETUSER" in finding.todo}
    words = todo.removeprefix("ACL SETUSER … ").replace("(and ", "").replace(" for the doctor)", "").split()
    with user(redis_server, *words) as url:
        assert ill(await at_redis(url, "mine")) == []
        assert [finding.level for finding in ill(await at_redis(url, "yours"))] == ["bad"] * 3


async def test_a_user_who_may_not_write(redis_server: RedisServer) -> None:
    with user(redis_server, "~mine:*", "resetchannels", "&mine:*", "+@all", "-xadd", "-hset") as url:
        finding = only(await at_redis(url, "mine"))
    assert finding.text == "its ACL rules forbid XADD, HSET below mine:"
    assert "geheim" not in f"{finding}"


async def test_a_user_who_may_hear_no_channel(redis_server: RedisServer) -> None:
    with user(redis_server, "~mine:*", "resetchannels", "&yours:*", "+@all") as url:
        findings = ill(await at_redis(url, "mine"))
    assert {finding.level for finding in findings} == {"bad"}
    assert findings[-1].text == "it forbids to publish or subscribe below mine:"


async def test_a_managed_redis_that_hides_its_settings(redis_server: RedisServer) -> None:
    with user(redis_server, "~mine:*", "resetchannels", "&mine:*", "+@all", "-config", "-info", "-multi") as url:
        findings = ill(await at_redis(url, "mine"))
    assert [finding.level for finding in findings] == ["unseen"] * 3
    assert redis_server.command("EXISTS", "mine:x") == 0
