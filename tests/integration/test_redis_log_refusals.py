"""A Redis that does not let the log be written: each reason by its meaning, and with no harm done."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import trio

from bridge.errors import ForeignLog, LogRefused, RedisLost
from bridge.links.redis import RedisLink, open_redis, parse_redis_url
from bridge.links.redis_log import Appended, RedisLog
from tests.support.redis import RedisServer
from tests.support.redis_log import (
    DATABASE,
    DIGEST,
    EMPTY,
    TERM,
    appended,
    at,
    linked,
    log_through,
    marker,
    notes,
    positions,
)
from tests.support.redis_log import link as link
from tests.support.redis_log import log as log
from tests.support.redis_log import prefix as prefix


async def test_a_log_of_another_database(
    redis_server: RedisServer, log: RedisLog, link: RedisLink, prefix: str
) -> None:
    state = await appended(log, EMPTY, at(0), notes(0))
    foreign = log_through(link, prefix, database="1/2")
    for attempt in (foreign.open, foreign.state):
        with pytest.raises(ForeignLog, match=DATABASE):
            await attempt()
    with pytest.raises(ForeignLog, match="BRIDGE_REDIS_PREFIX"):
        await foreign.append(state, at(1), notes(1))
    reader = log_through(link, prefix, database=None)
    assert await reader.open() == state
    with pytest.raises(ValueError, match="for reading"):
        await reader.append(state, at(1), notes(1))
    assert positions(await reader.read(None)) == [at(0)]


@contextmanager
def failing_disk(server: RedisServer) -> Iterator[None]:
    """The last snapshot failed, for its file is a directory."""

    def save(expected: str) -> None:
        server.command("BGSAVE")
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            facts: dict[str, Any] = server.command("INFO", "persistence")
            if not facts["rdb_bgsave_in_progress"] and facts["rdb_last_bgsave_status"] == expected:
                return
        pytest.fail(f"the snapshot was not {expected}")

    obstacle = server.directory / "dump.rdb"
    obstacle.unlink(missing_ok=True)
    obstacle.mkdir()
    try:
        with server.configured(save="3600 1"):
            save("err")
            yield
            obstacle.rmdir()
            save("ok")
    finally:
        if obstacle.is_dir():
            obstacle.rmdir()


@contextmanager
def refusing(server: RedisServer, code: str) -> Iterator[None]:
    match code:
        case "OOM":
            with server.configured(maxmemory=1):
                yield
        case "MISCONF":
            with failing_disk(server):
                yield


@pytest.mark.parametrize("code", ["OOM", "MISCONF"])
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "old"])
async def test_redis_refuses_writes(redis_server: RedisServer, log: RedisLog, code: str, is_new: bool) -> None:
    state = EMPTY if is_new else await appended(log, EMPTY, at(0), notes(0))
    await log.open()
    with refusing(redis_server, code):
        with pytest.raises(LogRefused, match=code):
            await log.append(state, at(1), [marker(TERM), *notes(1, 2)])
        assert await log.state() == state
        with pytest.raises(LogRefused):
            await log.beat(None, "me", 1)
        assert await log.listeners_beating() is None
    await appended(log, state, at(1), [marker(TERM), *notes(1, 2)])


async def test_too_few_replicas(redis_server: RedisServer, log: RedisLog) -> None:
    await log.open()
    with redis_server.configured(min_replicas_to_write=1):
        if redis_server.binary.name == "redis-6.2":  # asks for replicas only outside of scripts
            await appended(log, EMPTY, at(0), notes(0))
        else:
            with pytest.raises(LogRefused, match="NOREPLICAS"):
                await log.append(EMPTY, at(0), notes(0))
            assert await log.state() == EMPTY


async def test_a_replica(redis_server: RedisServer, log: RedisLog) -> None:
    state = await appended(log, EMPTY, at(0), notes(0))
    redis_server.command("REPLICAOF", "127.0.0.1", 1)
    try:
        with pytest.raises(RedisLost, match="replica"):
            await log.append(state, at(1), notes(1))
    finally:
        redis_server.command("REPLICAOF", "NO", "ONE")
    assert await log.state() == state


async def test_the_script_is_lost(redis_server: RedisServer, log: RedisLog) -> None:
    state = await appended(log, EMPTY, at(0), notes(0))
    redis_server.command("SCRIPT", "FLUSH")
    await appended(log, state, at(1), notes(1))


async def test_a_restart_loses_all(redis_server: RedisServer, prefix: str) -> None:
    async with linked(redis_server) as link:
        log = log_through(link, prefix)
        state = await appended(log, EMPTY, at(0), notes(0))
        redis_server.kill()
        with pytest.raises(RedisLost):
            await log.append(state, at(1), notes(1))
    redis_server.start()
    async with linked(redis_server) as link:
        log = log_through(link, prefix)
        assert await log.open() == EMPTY
        assert await log.append(state, at(1), notes(1)) == EMPTY
        await appended(log, EMPTY, at(0), notes(0, 1))


RIGHTS = (
    "resetkeys resetchannels -@all +evalsha +script|load +multi +exec +exists +xinfo +hmget +hlen +xadd +hset +ping"
)


async def test_a_user_with_few_rights(redis_server: RedisServer, prefix: str) -> None:
    rules = f"on >pass {RIGHTS} ~{prefix}:* &{prefix}:* +publish"
    redis_server.command("ACL", "SETUSER", "listener", *rules.split())
    async with linked(redis_server, "listener:pass@") as link:
        log = log_through(link, prefix)
        assert await log.open() == EMPTY
        await appended(log, EMPTY, at(0), [marker(TERM), *notes(1)])


@pytest.mark.parametrize("channels", [f"&*:{DIGEST}:*", ""], ids=["events", "all"])
async def test_a_publish_that_fails_is_told_beside_the_success(
    redis_server: RedisServer, prefix: str, channels: str
) -> None:
    rules = f"reset on >pass {RIGHTS} ~{prefix}:* {channels} +publish"
    redis_server.command("ACL", "SETUSER", "mute", *rules.split())
    async with linked(redis_server, "mute:pass@") as link:
        log = log_through(link, prefix)
        result = await log.append(EMPTY, at(0), notes(0, 1))
        assert isinstance(result, Appended)
        assert len(result.troubles) == (2 if channels else 3)
        assert all("channel" in trouble for trouble in result.troubles)
        assert await log.state() == result.state
        assert result.state.tail == at(1)


@pytest.mark.parametrize("missing", ["-xadd", "-evalsha", "resetkeys"])
async def test_a_user_without_the_right_to_write(redis_server: RedisServer, prefix: str, missing: str) -> None:
    rules = f"reset on >pass +@all ~{prefix}:* &* {missing}"
    redis_server.command("ACL", "SETUSER", "reader", *rules.split())
    async with linked(redis_server, "reader:pass@") as link:
        with pytest.raises(LogRefused, match=r"NOPERM|REFUSED"):
            await log_through(link, prefix).append(EMPTY, at(0), notes(0))


async def test_taking_back_a_beat_while_writes_are_refused(redis_server: RedisServer, log: RedisLog) -> None:
    await log.beat(None, "me", 5)
    with failing_disk(redis_server), suppress(RedisLost):
        await log.stop_beating("me")
    await log.stop_beating("me")
    assert await log.listeners_beating() is None


async def test_a_redis_that_cannot_save_is_still_heard(redis_server: RedisServer) -> None:
    """It answers even PING with -MISCONF: that is life, and no reason to end the subscription."""
    target = parse_redis_url(redis_server.url)
    async with open_redis(target, timeout_seconds=0.2, name="test") as ear:
        await ear.subscribe("news")
        with failing_disk(redis_server):
            with trio.move_on_after(0.5):
                await ear.messages()
            redis_server.command("PUBLISH", "news", "x")
            assert await ear.messages() == [(b"news", b"x")]
