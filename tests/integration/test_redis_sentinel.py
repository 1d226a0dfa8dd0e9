"""A master found through a real Sentinel: the one of now, at every opening; and one line where there is none."""

import json
from collections.abc import Iterator
from functools import partial

import anyio
import pytest
import trio

from bridge.errors import RedisUnusable
from bridge.links.redis import RedisLink
from tests.support import postgres as pg
from tests.support.process import wait_until
from tests.support.redis import BINARIES, RedisServer, answering, free_port, name_of, running_redis
from tests.support.redis_link import opening, refused
from tests.support.sentinel import SERVICE, Watched, running_sentinel, watched_pair
from tests.support.stack import Reader, Stack, running_reader, running_relay


@pytest.fixture(scope="module", params=BINARIES, ids=name_of)
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watched_pair(request.param) as watched:
        yield watched


async def port_of(link: RedisLink) -> int:
    return int((await link.execute("CONFIG", "GET", "port"))[1])


async def test_it_leads_to_the_master(watched: Watched) -> None:
    async with opening(f"{watched.url}/3") as link:
        assert await port_of(link) == watched.master.port
        assert link.role == "master"
        await link.execute("SET", "where", "third")
    async with opening(f"{watched.url}?db=3") as link:
        assert await link.execute("GET", "where") == b"third"


def test_it_also_runs_on_asyncio(watched: Watched) -> None:
    async def main() -> int:
        async with opening(watched.url) as link:
            return await port_of(link)

    assert anyio.run(main, backend="asyncio") == watched.master.port


async def test_one_sentinel_that_answers_is_enough(watched: Watched) -> None:
    async with answering() as silent:
        url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{silent},{watched.place}/{SERVICE}"
        with trio.fail_after(8):  # before the timeout of the two that do not
            async with opening(url, 10) as link:
                assert await port_of(link) == watched.master.port


async def test_passwords_of_sentinel_and_master(watched: Watched) -> None:
    with running_redis(watched.sentinel.binary) as master, running_sentinel(master, "requirepass secret") as sentinel:
        master.command("ACL", "SETUSER", "worker", "on", ">right", "~*", "&*", "+@all")
        url = f"redis+sentinel://worker:right@127.0.0.1:{sentinel.port}/{SERVICE}"
        async with opening(f"{url}?sentinel_password=secret") as link:
            assert await link.execute("ACL", "WHOAMI") == b"worker"
        for missing_or_wrong in ("", "?sentinel_password=other"):
            error = await refused(url + missing_or_wrong)
            assert isinstance(error, RedisUnusable)
            assert "sentinel_password" in str(error)
            assert "other" not in str(error)
        error = await refused(f"{url.replace('right', 'wrong')}?sentinel_password=secret")
        assert isinstance(error, RedisUnusable)
        assert "WRONGPASS" in str(error)


# Nobody to lead to


async def test_a_service_that_nobody_knows(watched: Watched) -> None:
    error = await refused(f"redis+sentinel://{watched.place}/other")
    assert isinstance(error, RedisUnusable)
    assert f"{watched.place} does not know it, only '{SERVICE}'" in str(error)


async def test_a_service_that_one_sentinel_does_not_know(watched: Watched) -> None:
    error = await refused(f"redis+sentinel://{watched.place},127.0.0.1:{free_port()}/other")
    assert not isinstance(error, RedisUnusable)  # the other one may know it when it is back


async def test_no_sentinel_there() -> None:
    port = free_port()
    error = await refused(f"redis+sentinel://127.0.0.1:{port},no-such-host.invalid,a..b:1/{SERVICE}")
    assert not isinstance(error, RedisUnusable)
    assert f"127.0.0.1:{port} cannot be reached" in str(error)
    assert "no-such-host.invalid:26379 cannot be reached" in str(error)
    assert "a..b:1 cannot be reached" in str(error)


async def test_a_sentinel_that_says_nothing() -> None:
    async with answering() as port:
        error = await refused(f"redis+sentinel://127.0.0.1:{port}/{SERVICE}", 0.4)
    assert not isinstance(error, RedisUnusable)
    assert f"127.0.0.1:{port}" in str(error)


async def test_no_sentinel_but_something_else(watched: Watched) -> None:
    error = await refused(f"redis+sentinel://127.0.0.1:{watched.master.port}/{SERVICE}")
    assert isinstance(error, RedisUnusable)
    assert "no Sentinel" in str(error)
    async with answering(*[b"HTTP/1.1 400 Bad Request\r\n\r\n"] * 5) as port:
        error = await refused(f"redis+sentinel://127.0.0.1:{port}/{SERVICE}")
    assert "no Sentinel" in str(error)
    assert str(port) in str(error)


async def test_a_sentinel_where_redis_should_be(watched: Watched) -> None:
    error = await refused(f"redis://{watched.place}")
    assert isinstance(error, RedisUnusable)
    assert "is a Sentinel" in str(error)


async def test_a_master_that_has_become_a_replica(watched: Watched) -> None:
    master = watched.master
    master.command("REPLICAOF", "127.0.0.1", free_port())
    try:
        error = await refused(watched.url)
    finally:
        master.command("REPLICAOF", "NO", "ONE")
    assert not isinstance(error, RedisUnusable)
    assert f"127.0.0.1:{master.port} is a replica" in str(error)


async def test_a_master_that_is_dead(watched: Watched) -> None:
    with running_redis(watched.sentinel.binary) as master, running_sentinel(master) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}"
        async with opening(url):
            master.kill()
        assert "refused" in str(await refused(url))
        flags = partial(sentinel.command, "SENTINEL", "MASTER", SERVICE)
        wait_until(lambda: b"o_down" in flags()[9], lambda: f"{flags()}")
        error = await refused(url)
    assert not isinstance(error, RedisUnusable)
    assert "go down" in str(error)


# Failover


async def test_a_new_link_goes_to_the_new_master(watched: Watched) -> None:
    before = watched.master
    await trio.to_thread.run_sync(watched.fail_over)
    async with opening(watched.url) as link:
        assert await port_of(link) == watched.master.port != before.port
        await link.execute("SET", "who", "new")


@pytest.fixture(scope="module")
def pair() -> Iterator[Watched]:
    """Of the oldest kind."""
    with watched_pair(BINARIES[0]) as watched:
        yield watched


@pytest.fixture(scope="module")
def database() -> Iterator[pg.PostgresServer]:
    with pg.postgres_server(pg.kinds()[0]) as server:
        yield server


@pytest.mark.parametrize("way", ["promoted while the old one goes on", "old one killed"])
async def test_everything_arrives_once_through_a_failover(pair: Watched, database: pg.PostgresServer, way: str) -> None:
    settings = Stack(database, pair.master).settings(redis_url=pair.url)
    log = f"{settings.redis_prefix}:{settings.digest}:log"
    sent = 0
    done = trio.Event()

    async def send() -> None:
        nonlocal sent
        sql = "SELECT count(pg_notify('a', n::text)) FROM generate_series(%s::int, %s::int) n"
        while not done.is_set():
            await trio.to_thread.run_sync(partial(database.execute, sql, sent, sent + 4))
            sent += 5

    def length(server: RedisServer) -> int:
        return int(server.command("XLEN", log))

    async def flow(reader: Reader) -> None:
        """Wait until more has arrived."""
        expected = len(reader.events) + 200
        await reader.until(lambda: len(reader.events) >= expected)

    async with running_relay(settings) as relay, running_reader(settings) as reader:
        assert relay.publisher is not None
        await reader.mode("redis")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await flow(reader)
            old = pair.master
            if way == "old one killed":
                old.kill()
                await trio.to_thread.run_sync(wait_until, lambda: pair.master is not old, lambda: "no failover")
                old.start()  # empty, and a master in its own eyes
            else:
                await trio.to_thread.run_sync(pair.fail_over)
                await flow(reader)
                assert length(pair.master) < length(old)  # what the promoted one lacks, the relay has
                await trio.to_thread.run_sync(pair.demote)
            await flow(reader)
            await reader.mode("redis")
            await flow(reader)
            done.set()
        await reader.until(lambda: len(reader.events) >= sent)
        with trio.fail_after(30):
            await relay.publisher.caught_up.wait_for(bool)
        numbers = [json.loads(event.data)["payload"] for event in reader.events]
        assert sorted(numbers) == list(range(sent))
        assert reader.gaps == []
        assert length(pair.master) >= sent
