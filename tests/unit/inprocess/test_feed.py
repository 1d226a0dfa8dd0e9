"""The block of `open_feed`: what its body raises leaves it as it was, and nothing of the feed's tasks comes with it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import bridge
from bridge.errors import BridgeError, SettingsError
from bridge.feed.delivery import Delivery
from bridge.feed.feed import Feed
from bridge.feed.source import FeedState, Report
from bridge.telemetry import Metrics
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.postgres import free_port


def nowhere() -> str:
    """A database that is away."""
    return f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("loop", LOOPS)
def test_what_the_body_raises_is_raised_as_it_is(loop: Loop, kind: type[BaseException]) -> None:
    mine = kind(3)

    async def main() -> None:
        async def body() -> None:
            async with bridge.open_feed(nowhere()):
                await anyio.lowlevel.checkpoint()
                raise mine

        with pytest.raises(kind) as raised:
            await body()
        assert raised.value is mine

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_generator_around_a_feed_can_be_closed(loop: Loop) -> None:
    async def modes() -> AsyncGenerator[str, None]:
        async with bridge.open_feed(nowhere()) as feed:
            while True:
                yield feed.mode

    async def main() -> None:
        generator = modes()
        assert await anext(generator) == "none"
        await generator.aclose()

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_group_with_the_cancellation_of_an_outer_scope_in_it_stays_inside_of_that(loop: Loop) -> None:
    """A body with tasks of its own, one of which fails while everything is being cancelled."""

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def main() -> None:
        async def cancelled() -> None:
            with anyio.CancelScope() as scope:
                async with bridge.open_feed(nowhere()), anyio.create_task_group() as tasks:
                    tasks.start_soon(fail)
                    await anyio.sleep(0.01)
                    scope.cancel()
                    await anyio.sleep_forever()

        with pytest.raises(BaseExceptionGroup) as raised:
            await cancelled()
        assert raised.group_contains(ZeroDivisionError)
        assert not raised.group_contains(anyio.get_cancelled_exc_class())

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_error_of_the_body_outlives_a_cancellation_from_outside(loop: Loop) -> None:
    first, second = ZeroDivisionError("while it was cancelled"), ZeroDivisionError("before it was left")

    async def cleans_up() -> None:
        with anyio.CancelScope() as scope:
            async with bridge.open_feed(nowhere()):
                try:
                    scope.cancel()
                    await anyio.sleep_forever()
                finally:
                    raise first

    async def fails() -> None:
        with anyio.CancelScope() as scope:
            async with bridge.open_feed(nowhere()):
                scope.cancel()
                raise second

    async def main() -> None:
        for body, error in ((cleans_up, first), (fails, second)):
            with pytest.raises(ZeroDivisionError) as raised:
                await body()
            assert raised.value is error
            await anyio.lowlevel.checkpoint()  # nothing of the cancellation is left

    run_on(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_error_of_the_body_outlives_asyncios_own_cancellation(loop: Loop) -> None:
    mine = ZeroDivisionError()

    async def fails() -> None:
        async with bridge.open_feed(nowhere()):
            await anyio.sleep(0.01)
            asyncio.get_running_loop().call_soon(tasks[0].cancel)
            raise mine

    async def main() -> None:
        tasks.append(asyncio.create_task(fails()))
        with pytest.raises(ZeroDivisionError) as raised:
            await tasks[0]
        assert raised.value is mine

    tasks: list[asyncio.Task[None]] = []
    run_on(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_after_an_error_of_the_body_the_next_wait_has_asyncios_own_cancellation(loop: Loop) -> None:
    """Who tries again and again would go on for ever, though it is cancelled."""
    rounds: list[int] = []

    async def tries_again() -> None:
        while len(rounds) < 3:
            with suppress(ZeroDivisionError):
                async with bridge.open_feed(nowhere()):
                    await anyio.sleep(0.01)
                    asyncio.get_running_loop().call_soon(tasks[0].cancel)
                    raise ZeroDivisionError
            rounds.append(tasks[0].cancelling())
            await anyio.sleep(0.01)

    async def main() -> None:
        tasks.append(asyncio.create_task(tries_again()))
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    tasks: list[asyncio.Task[None]] = []
    run_on(loop, main)
    assert rounds == [1]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_timeout_of_asyncio_that_an_error_of_the_body_has_left_cancels_no_more(loop: Loop) -> None:
    async def fails(timeout: asyncio.Timeout) -> None:
        async with timeout, bridge.open_feed(nowhere()):
            await anyio.sleep(0.01)
            timeout.reschedule(0)
            raise ZeroDivisionError

    async def main() -> None:
        timeout = asyncio.timeout(None)
        with pytest.raises(ZeroDivisionError):
            await fails(timeout)
        assert timeout.expired()
        for _ in range(3):
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run_on(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_cancellation_that_the_body_took_is_not_said_again(loop: Loop) -> None:
    async def fails() -> None:
        async with bridge.open_feed(nowhere()):
            try:
                asyncio.get_running_loop().call_soon(tasks[0].cancel)
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                raise ZeroDivisionError from None

    async def goes_on() -> None:
        with pytest.raises(ZeroDivisionError):
            await fails()
        for _ in range(3):
            await asyncio.sleep(0)

    async def main() -> None:
        tasks.append(asyncio.create_task(goes_on()))
        await tasks[0]

    tasks: list[asyncio.Task[None]] = []
    run_on(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_who_is_cancelled_while_a_generator_is_closed_is_cancelled(loop: Loop) -> None:
    """Closing a generator swallows its GeneratorExit: the cancellation must not go with that."""

    async def one() -> AsyncGenerator[int, None]:
        async with bridge.open_feed(nowhere()):
            while True:
                await anyio.sleep(0.01)
                yield 1

    async def closes() -> None:
        generator = one()
        await anext(generator)
        asyncio.get_running_loop().call_soon(tasks[0].cancel)
        await generator.aclose()

    async def main() -> None:
        tasks.append(asyncio.create_task(closes()))
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    tasks: list[asyncio.Task[None]] = []
    run_on(loop, main)


class Live:
    """A source that is proven at once."""

    view = None

    async def run(self, report: Report) -> None:
        report(FeedState("direct"))
        await anyio.sleep_forever()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_feed_that_has_ended_is_fed_by_nothing(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(
        settings: object, links: object, log: None, delivery: Delivery, changed: Report, metrics: Metrics
    ) -> Feed:
        return Feed(log, Live(), 1.0, 1.0, delivery, changed, metrics)

    async def main() -> None:
        async with bridge.open_feed(nowhere()) as feed:
            await feed.wait_live()
            assert feed.mode == "direct"
        assert (feed.mode, feed.reason) == ("none", "closed")
        with pytest.raises(BridgeError, match=r"^the feed is closed: wait inside of the block of open_feed$"):
            await feed.wait_live()

    monkeypatch.setattr("bridge.inprocess.feed.build_feed", build)
    run_on(loop, main, seconds=10)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_waits_for_a_feed_that_ends_is_told_so(loop: Loop) -> None:
    async def main() -> None:
        said: list[str] = []

        async def wait() -> None:
            with pytest.raises(BridgeError, match="the feed is closed"):
                await feed.wait_live()
            said.append(feed.mode)

        async with anyio.create_task_group() as tasks, bridge.open_feed(nowhere()) as feed:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
        assert said == ["none"]

    run_on(loop, main, seconds=10)


@pytest.mark.parametrize("buffer_bytes", ["5", 0, -1, [5]])
def test_what_is_no_number_of_bytes_is_refused(buffer_bytes: Any) -> None:
    async def main() -> None:
        async with bridge.open_feed(nowhere()) as feed:
            with (
                pytest.raises(SettingsError, match=r"^buffer_bytes: .* is not allowed; give a number above 0$"),
                feed.subscribe(buffer_bytes=buffer_bytes),
            ):
                pass

    run_on("asyncio", main)
