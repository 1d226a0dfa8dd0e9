"""Relay and feed on real servers: everything once, in order, through bursts, takeovers and an emptied Redis."""

import contextlib
import json
from functools import partial

import anyio
import anyio.to_thread

from bridge.core.events import Event
from bridge.links.sessions import TERM_SHIFT
from bridge.relay.relay import Relay
from tests.support.loops import on_loops
from tests.support.stack import WAIT_SECONDS, Reader, Stack, running_reader, running_relay, start_relay


async def notify(stack: Stack, first: int, count: int, channel: str = "a") -> None:
    """One transaction with `count` notifications, whose payloads are numbers from `first` on."""
    sql = "SELECT count(pg_notify(%s, n::text)) FROM generate_series(%s::int, %s::int) n"
    await anyio.to_thread.run_sync(partial(stack.postgres.execute, sql, channel, first, first + count - 1))


def numbers(events: list[Event]) -> list[int]:
    return [json.loads(event.data)["payload"] for event in events]


async def appending(relay: Relay) -> bool:
    """Whether this relay has the initiative, once what it is at has ended."""
    assert relay.publisher is not None
    with anyio.fail_after(WAIT_SECONDS):
        await relay.publisher.caught_up.wait_for(bool)
    return relay.publisher.appending


async def cut(stack: Stack, relay: Relay) -> None:
    """End the relay's session on the server, and wait for the one that follows."""
    session = await relay.listener.opened()
    sql = "SELECT pg_terminate_backend(%s)"
    await anyio.to_thread.run_sync(stack.postgres.execute, sql, session.term % 2**TERM_SHIFT)
    with anyio.fail_after(WAIT_SECONDS):
        await relay.listener.session.wait_for(lambda now: now is not None and now is not session)


async def expect(reader: Reader, count: int) -> None:
    """The numbers 0 … count - 1 have come, each once, in order, and nothing was announced as missing."""
    await reader.until(lambda: len(reader.events) >= count)
    assert numbers(reader.events) == list(range(count))
    assert reader.gaps == []


@on_loops("asyncio", "trio")
async def test_three_relays_append_everything_once(stack: Stack) -> None:
    settings = stack.settings()
    async with contextlib.AsyncExitStack() as relays:
        for _ in range(3):
            await relays.enter_async_context(running_relay(settings))
        async with running_reader(settings) as one, running_reader(settings) as other:
            for first in range(0, 200, 10):
                await notify(stack, first, 10)
            for reader in (one, other):
                await expect(reader, 200)
            assert [event.position for event in one.events] == [event.position for event in other.events]
            rows = stack.redis.command("XLEN", f"{settings.redis_prefix}:{settings.digest}:log")
            assert rows == 200 + 3  # the markers are in the log too


@on_loops("asyncio", "trio")
async def test_a_transaction_larger_than_history_and_batch(stack: Stack) -> None:
    settings = stack.settings(history_entries=500)
    async with running_relay(settings), running_reader(settings) as reader:
        await notify(stack, 0, 20_000)
        await expect(reader, 20_000)


@on_loops("asyncio", "trio")
async def test_a_backlog_that_is_full_while_redis_is_there_makes_postgresql_wait(stack: Stack) -> None:
    settings = stack.settings(backlog_bytes=65_536)
    async with running_relay(settings) as relay, running_reader(settings) as reader:
        await notify(stack, 0, 20_000)
        await expect(reader, 20_000)
        assert await appending(relay)
        assert relay.tape.backlog_bytes == 0


@on_loops("asyncio", "trio")
async def test_whoever_appends_may_end_and_another_continues_without_a_gap(stack: Stack) -> None:
    settings = stack.settings()
    stepped_in = []
    async with anyio.create_task_group() as tasks:
        appender, end_appender = await start_relay(tasks, settings)
        async with running_reader(settings) as reader:
            for first in range(0, 100, 20):
                standby, end_standby = await start_relay(tasks, settings)
                await notify(stack, first, 10)
                await expect(reader, first + 10)
                if await appending(standby):
                    stepped_in.append(first)
                    (appender, end_appender), (standby, end_standby) = (standby, end_standby), (appender, end_appender)
                assert await appending(appender)
                end_appender.cancel()
                await notify(stack, first + 10, 10)
                await expect(reader, first + 20)
                assert await appending(standby)
                appender, end_appender = standby, end_standby
            assert len({event.position.term for event in reader.events}) == 1
            assert len(stepped_in) < 5, "no standby waited, not even one; on a busy machine some may not"
        tasks.cancel_scope.cancel()


def notifications_in(stack: Stack, key: str) -> list[list[object]]:
    return [row for row in stack.redis.command("XRANGE", key, "-", "+") if b'"type":"notification"' in row[1][b"e"]]


async def refilled(stack: Stack, key: str, entries: object) -> None:
    """Wait until the log in Redis holds these notifications."""
    with anyio.fail_after(WAIT_SECONDS):
        while notifications_in(stack, key) != entries:  # noqa: ASYNC110 - a server has no event to await
            await anyio.sleep(0.02)


@on_loops("asyncio", "trio")
async def test_an_emptied_redis_is_filled_again_with_the_same_numbers(stack: Stack) -> None:
    settings = stack.settings()
    key = f"{settings.redis_prefix}:{settings.digest}:log"
    async with running_relay(settings), running_relay(settings), running_reader(settings) as reader:
        for turn in range(5):
            await notify(stack, 10 * turn, 10)
            await expect(reader, 10 * turn + 10)
            before = notifications_in(stack, key)
            stack.redis.command("FLUSHALL")
            await refilled(stack, key, before)
        async with running_reader(settings) as late:
            await notify(stack, 50, 10)
            await expect(reader, 60)
            await late.until(lambda: 59 in numbers(late.events))
            assert numbers(late.events) == list(range(60))  # it begins with what the log holds


@on_loops("asyncio", "trio")
async def test_a_lost_session_is_a_gap_that_is_announced(stack: Stack) -> None:
    settings = stack.settings()
    async with running_relay(settings) as relay, running_reader(settings) as reader:
        await notify(stack, 0, 10)
        await expect(reader, 10)
        await cut(stack, relay)
        await notify(stack, 10, 10)
        await reader.until(lambda: len(reader.events) == 20)
        assert numbers(reader.events) == list(range(20))
        (gap,) = reader.gaps
        assert gap.reason == "postgres_session_lost"
        assert gap.after is not None
        assert gap.before is not None
        assert gap.after >= reader.events[9].position
        assert gap.before < reader.events[10].position
        assert reader.items.index(gap) == 10


@on_loops("asyncio", "trio")
async def test_without_redis_from_the_own_listener(stack: Stack) -> None:
    settings = stack.settings(use_redis_notifier=False)
    async with running_relay(settings) as relay, running_reader(settings, relay) as reader:
        await notify(stack, 0, 5_000)
        await expect(reader, 5_000)
        await cut(stack, relay)
        await notify(stack, 5_000, 10)
        await reader.until(lambda: len(reader.events) == 5_010)
        assert [gap.reason for gap in reader.gaps] == ["postgres_session_lost"]


@on_loops("asyncio", "trio")
async def test_without_redis_from_a_session_of_its_own(stack: Stack) -> None:
    settings = stack.settings(use_redis_notifier=False)
    async with running_reader(settings) as reader:
        await notify(stack, 0, 5_000)
        await expect(reader, 5_000)
        sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bridge fallback'"
        await anyio.to_thread.run_sync(stack.postgres.execute, sql)
        await reader.until(lambda: reader.gaps)
        await notify(stack, 5_000, 10)
        await reader.until(lambda: len(reader.events) == 5_010)
        assert [gap.reason for gap in reader.gaps] == ["postgres_session_lost"]
