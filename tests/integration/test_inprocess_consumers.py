"""Consumers of `bridge.open_feed` that are slow, or cancelled at any moment, on every event loop and real servers."""

import asyncio
import gc
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio

import bridge
from tests.support import postgres as pg
from tests.support import redis as rd
from tests.support.fleet import LISTENER, Fleet, Servers, running_fleet
from tests.support.fleet import postgres as postgres
from tests.support.fleet import redis as redis
from tests.support.fleet import servers as servers
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.process import wait_until
from tests.support.traffic import Writer

HISTORY_ENTRIES = 500
SLOW_BYTES = 2000
PAYLOAD_BYTES = 2000
"""So that a burst is several batches: what comes in one batch is given to a slow consumer as a whole."""
TRIES = 12
MANY = 20


@pytest.fixture(scope="module")
def started_fleet(servers: Servers) -> Iterator[Fleet]:
    with running_fleet(servers, "consumers") as fleet:
        fleet.add("listener", LISTENER)
        fleet.wait()
        yield fleet


@pytest.fixture
def settings(started_fleet: Fleet, servers: Servers) -> dict[str, Any]:
    started_fleet.whole_again()
    started_fleet.wait_for_sessions("bridge listener")
    postgres, redis = servers
    given = {"db_url": postgres.url(), "use_redis": True, "redis_url": redis.url, "redis_prefix": "consumers"}
    return given | {"retry_seconds": 0.5, "history_entries": HISTORY_ENTRIES}


async def commit(postgres: pg.PostgresServer, first: int, count: int) -> list[int]:
    """So many numbers, from this one on, in one transaction; their payloads are large."""
    sql = (
        "SELECT count(pg_notify('match_change', json_build_object('n', n, 'x', repeat('x', %s))::text))"
        " FROM generate_series(%s::int, %s::int) n"
    )
    await anyio.to_thread.run_sync(partial(postgres.execute, sql, PAYLOAD_BYTES, first, first + count - 1))
    return list(range(first, first + count))


async def through(subscription: bridge.Subscription, last: int) -> list[bridge.Event]:
    """Everything up to this number."""
    events: list[bridge.Event] = []
    async for event in subscription:
        events.append(event)
        if isinstance(event, bridge.Notification) and event.payload["n"] == last:
            break
    return events


def numbers_of(events: list[bridge.Event]) -> list[int]:
    return [event.payload["n"] for event in events if isinstance(event, bridge.Notification)]


def gaps_of(events: list[bridge.Event]) -> list[bridge.Gap]:
    return [event for event in events if isinstance(event, bridge.Gap)]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_slow_consumer_gets_everything_that_the_history_has(
    loop: Loop, settings: dict[str, Any], postgres: pg.PostgresServer
) -> None:
    async def main() -> None:
        async with bridge.open_feed(**settings) as feed:
            await feed.wait_live()
            with feed.subscribe(buffer_bytes=SLOW_BYTES) as slow, feed.subscribe() as quick:
                small = await commit(postgres, 1, HISTORY_ENTRIES)
                assert numbers_of(await through(quick, small[-1])) == small
                assert feed.hub.buffers.total_bytes < HISTORY_ENTRIES * PAYLOAD_BYTES / 2, "what waits has no bound"
                events = await through(slow, small[-1])
                assert gaps_of(events) == []
                assert numbers_of(events) == small

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_slow_consumer_is_told_what_the_history_has_no_longer(
    loop: Loop, settings: dict[str, Any], postgres: pg.PostgresServer
) -> None:
    async def main() -> None:
        async with bridge.open_feed(**settings) as feed:
            await feed.wait_live()
            with feed.subscribe(buffer_bytes=SLOW_BYTES) as slow, feed.subscribe() as quick:
                large = await commit(postgres, 1, 4 * HISTORY_ENTRIES)
                assert numbers_of(await through(quick, large[-1])) == large
                events = await through(slow, large[-1])
                (gap,) = gaps_of(events)
                assert (gap.reason, gap.pending) == ("history_trimmed", False)
                at = events.index(gap)
                before, behind = numbers_of(events[:at]), numbers_of(events[at:])
                assert before == large[: len(before)]
                assert behind == large[-len(behind) :]
                assert HISTORY_ENTRIES <= len(behind) <= 1.1 * HISTORY_ENTRIES
                ids = {event.payload["n"]: event.id for event in events if isinstance(event, bridge.Notification)}
                assert gap.after == ids[before[-1]]
                assert gap.before == ids[behind[0]]

    run_on(loop, main)


def open_sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def living_tasks(loop: Loop) -> int:
    return trio.lowlevel.current_statistics().tasks_living if loop == "trio" else len(asyncio.all_tasks())


async def consume(settings: dict[str, Any], seen: Counter[str]) -> None:
    """Two readers beside each other, until it is cancelled, or for a good number of events."""
    async with bridge.open_feed(**settings) as feed, anyio.create_task_group() as tasks:

        async def read() -> None:
            with feed.subscribe(buffer_bytes=SLOW_BYTES) as subscription:
                async for _ in subscription:
                    seen[feed.mode] += 1

        tasks.start_soon(read)
        for _ in range(MANY):
            await anext(aiter(feed))
            seen[feed.mode] += 1
        tasks.cancel_scope.cancel()


async def cancelled_after(seconds: float, loop: Loop, settings: dict[str, Any], seen: Counter[str]) -> None:
    """By a scope, or on asyncio perhaps by cancelling the task."""
    if loop != "trio" and random.random() < 0.5:
        with suppress(TimeoutError):
            await asyncio.wait_for(consume(settings, seen), seconds)
    else:
        with anyio.move_on_after(seconds):
            await consume(settings, seen)


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelled_at_any_moment_nothing_is_left_behind(
    loop: Loop, settings: dict[str, Any], started_fleet: Fleet, redis: rd.RedisServer
) -> None:
    """While Redis is there, and while it is not."""
    seen = Counter[str]()

    async def cancel_often() -> None:
        began = anyio.current_time()
        await consume(settings, Counter())
        longest_seconds = anyio.current_time() - began
        for _ in range(TRIES):
            before, tasks, events = open_sockets(), living_tasks(loop), seen.total()
            await cancelled_after(random.random() * longest_seconds, loop, settings, seen)
            if seen.total() == events:
                longest_seconds *= 1.2
            assert living_tasks(loop) == tasks
            with anyio.fail_after(30):
                while open_sockets() > before:  # noqa: ASYNC110 - asyncio closes them a little later
                    await anyio.sleep(0.005)

    async def main() -> None:
        await anyio.to_thread.run_sync(int)  # the thread and its socket stay
        await cancel_often()
        await anyio.to_thread.run_sync(redis.kill)
        await cancel_often()

    writer = Writer(started_fleet.postgres.url()).start()
    try:
        run_on(loop, main)
    finally:
        writer.stop()
        redis.start()
    gc.collect()
    assert seen["redis"], "it was always cancelled before anything came"
    assert seen["direct"], "it was always cancelled before anything came"
    wait_until(lambda: len(started_fleet.sessions()) == 1, lambda: f"{started_fleet.sessions()} are left")
