"""The switch between the log in Redis and PostgreSQL directly, on real servers: make before break, nothing twice."""

import contextlib
from functools import partial

import anyio
import anyio.to_thread

from bridge.core.events import Event
from tests.integration.test_relay import appending, cut, expect, notify, numbers
from tests.support.loops import on_loops
from tests.support.stack import Reader, Stack, running_reader, running_relay

LISTENING = "SELECT application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' ORDER BY 1"


async def sessions(stack: Stack, expected: list[str]) -> None:
    """Wait until just these sessions listen."""
    with anyio.fail_after(30):
        while [row[0] for row in await anyio.to_thread.run_sync(stack.postgres.execute, LISTENING)] != expected:  # noqa: ASYNC110
            await anyio.sleep(0.02)


def late(events: list[Event]) -> list[int]:
    return numbers([event for event in events if event.late])


async def complete(reader: Reader, count: int) -> None:
    """All of 0 … count - 1 have come, each once, in order but for the late ones, and nothing is lost."""
    await reader.until(lambda: len(reader.events) >= count)
    assert sorted(numbers(reader.events)) == list(range(count))
    in_order = numbers([event for event in reader.events if not event.late])
    assert in_order == sorted(in_order)
    assert reader.gaps == []


@on_loops("asyncio", "trio")
async def test_redis_killed_and_back_with_a_worker_of_its_own(stack: Stack) -> None:
    settings = stack.settings()
    async with running_relay(settings), running_reader(settings) as reader:
        for turn in range(3):
            first = 30 * turn
            await notify(stack, first, 10)
            await complete(reader, first + 10)
            await anyio.to_thread.run_sync(stack.redis.kill)
            await reader.mode("direct")
            await notify(stack, first + 10, 10)
            await complete(reader, first + 20)
            assert len(reader.pending) == turn + 1
            await sessions(stack, ["bridge fallback", "bridge listener"])
            await anyio.to_thread.run_sync(stack.redis.start)
            await reader.mode("redis")
            await sessions(stack, ["bridge listener"])
            await notify(stack, first + 20, 10)
            await complete(reader, first + 30)
            assert len(reader.filled) == turn + 1
        assert len({event.position.term for event in reader.events if not event.late}) == 1 + 3


@on_loops("asyncio", "trio")
async def test_redis_killed_and_back_with_an_own_listener_is_no_gap_at_all(stack: Stack) -> None:
    settings = stack.settings()
    async with running_relay(settings) as relay, running_reader(settings, relay) as reader:
        for turn in range(3):
            first = 30 * turn
            await notify(stack, first, 10)
            await expect(reader, first + 10)
            await anyio.to_thread.run_sync(stack.redis.kill)
            await notify(stack, first + 10, 10)
            await expect(reader, first + 20)
            await sessions(stack, ["bridge listener"])
            await anyio.to_thread.run_sync(stack.redis.start)
            await reader.mode("redis")
            await notify(stack, first + 20, 10)
            await expect(reader, first + 30)
        assert reader.pending == []
        assert reader.filled == []


@on_loops("asyncio", "trio")
async def test_what_came_while_nobody_heard_comes_late(stack: Stack) -> None:
    """Redis is cut from the worker alone; what was sent before its own session listens is in the log."""
    settings = stack.settings(redis_timeout_seconds=3)  # so long the worker hears nothing
    async with running_relay(settings), running_reader(settings) as reader:
        await notify(stack, 0, 10)
        await complete(reader, 10)
        stack.redis.command("CLIENT", "PAUSE", 5000)
        await notify(stack, 10, 10)
        await reader.mode("direct")
        await notify(stack, 20, 10)
        await reader.mode("redis")
        await complete(reader, 30)
        assert late(reader.events) == list(range(10, 20))
        assert len(reader.pending) == len(reader.filled) == 1


@on_loops("asyncio", "trio")
async def test_a_worker_that_starts_without_redis_begins_directly(stack: Stack) -> None:
    settings = stack.settings()
    await anyio.to_thread.run_sync(stack.redis.kill)
    async with contextlib.AsyncExitStack() as exits:
        reader = await exits.enter_async_context(running_reader(settings))
        await notify(stack, 0, 10)
        await complete(reader, 10)
        await anyio.to_thread.run_sync(stack.redis.start)
        await exits.enter_async_context(running_relay(settings))
        await reader.mode("redis")
        await sessions(stack, ["bridge listener"])
        await notify(stack, 10, 10)
        await complete(reader, 20)
        assert reader.pending == []


@on_loops("asyncio", "trio")
async def test_without_any_listener_the_worker_listens_itself(stack: Stack) -> None:
    settings = stack.settings(heartbeat_timeout_seconds=1.0)
    async with running_reader(settings) as reader:
        await reader.mode("direct")
        await notify(stack, 0, 10)
        for turn in range(2):
            first = 10 + 20 * turn
            async with running_relay(settings) as relay:
                assert await appending(relay)
                await reader.mode("redis")
                await notify(stack, first, 10)
                await reader.until(lambda end=first + 10: len(reader.events) >= end)  # type: ignore[misc]
            await reader.mode("direct")
            await notify(stack, first + 10, 10)
            await reader.until(lambda end=first + 20: len(reader.events) >= end)  # type: ignore[misc]
        assert numbers(reader.events) == list(range(50))
        assert [gap.reason for gap in reader.gaps] == ["failover"], "the second listener found out that nobody listened"
        assert len(reader.pending) == 2, "the end of the second listener may still be filled"


@on_loops("asyncio", "trio")
async def test_a_listener_that_loses_its_session_with_a_standby_is_no_gap(stack: Stack) -> None:
    settings = stack.settings()
    async with running_relay(settings) as one, running_relay(settings) as other, running_reader(settings) as reader:
        for turn in range(6):
            await notify(stack, 20 * turn, 10)
            await expect(reader, 20 * turn + 10)
            await cut(stack, (one, other)[turn % 2])
            await notify(stack, 20 * turn + 10, 10)
            await expect(reader, 20 * turn + 20)


@on_loops("asyncio", "trio")
async def test_redis_that_takes_no_writes_is_left_until_it_does(stack: Stack) -> None:
    settings = stack.settings(heartbeat_timeout_seconds=1.0)
    async with running_relay(settings) as relay, running_reader(settings) as reader:
        await notify(stack, 0, 10)
        await complete(reader, 10)
        with stack.redis.configured(maxmemory=1):
            await notify(stack, 10, 10)
            await reader.mode("direct")
            await notify(stack, 20, 10)
            await reader.until(lambda: len(reader.events) >= 20)
            assert relay.publisher is not None
            assert relay.publisher.error is not None
        await reader.mode("redis")
        await complete(reader, 30)
        assert late(reader.events) == list(range(10, 20))


@on_loops("asyncio", "trio")
async def test_sessions_terminated_everywhere_are_one_final_gap(stack: Stack) -> None:
    settings = stack.settings()
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'"
    async with running_relay(settings) as relay, running_reader(settings) as reader:
        await notify(stack, 0, 10)
        await complete(reader, 10)
        before = relay.listener.session.value
        await anyio.to_thread.run_sync(partial(stack.postgres.execute, terminate))
        with anyio.fail_after(30):
            await relay.listener.session.wait_for(lambda now: now is not None and now is not before)
        await notify(stack, 10, 10)
        await reader.until(lambda: len(reader.events) >= 20)
        assert numbers(reader.events) == list(range(20))
        assert [gap.reason for gap in reader.gaps] == ["postgres_session_lost"]


@on_loops("asyncio", "trio")
async def test_two_sets_of_channels_side_by_side(stack: Stack) -> None:
    """As in a rolling change of the channels: two logs, and nobody is in the other's way."""
    old = stack.settings(channels=("a", "b"))
    new = stack.settings(channels=("a", "c"), redis_prefix=old.redis_prefix)
    async with (
        running_relay(old),
        running_relay(new),
        running_relay(old),
        running_relay(new),
        running_reader(old) as one,
        running_reader(new) as other,
    ):
        for first in range(0, 60, 3):
            await notify(stack, first, 1, "a")
            await notify(stack, first + 1, 1, "b")
            await notify(stack, first + 2, 1, "c")
        await one.until(lambda: len(one.events) >= 40)
        await other.until(lambda: len(other.events) >= 40)
        assert numbers(one.events) == [number for number in range(60) if number % 3 != 2]
        assert numbers(other.events) == [number for number in range(60) if number % 3 != 1]
        assert one.gaps == other.gaps == []
        for settings in (old, new):
            assert stack.redis.command("EXISTS", f"{old.redis_prefix}:{settings.digest}:log") == 1


@on_loops("asyncio", "trio")
async def test_a_backlog_that_is_full_while_redis_is_away_stays_within_its_bound(stack: Stack) -> None:
    settings = stack.settings(backlog_bytes=65_536)
    async with running_relay(settings) as relay, running_reader(settings) as reader:
        await notify(stack, 0, 10)
        await complete(reader, 10)
        await anyio.to_thread.run_sync(stack.redis.kill)
        await reader.mode("direct")
        with anyio.fail_after(30):
            await relay.listener.draining.wait_for(lambda draining: not draining)
        session = await relay.listener.opened()
        await notify(stack, 10, 2_000)
        with anyio.fail_after(30):
            await relay.listener.session.wait_for(lambda now: now is not None and now is not session)
        assert relay.tape.backlog_bytes <= settings.backlog_bytes
        await complete(reader, 2_010)
        await anyio.to_thread.run_sync(stack.redis.start)
        await reader.mode("redis")
        await notify(stack, 2_010, 10)
        await complete(reader, 2_020)
        assert await appending(relay)
        assert relay.tape.backlog_bytes == 0
