"""The block that `open_feed` and `connect` share: what its body raises, and who is cancelled."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from bridge.background import background
from tests.support.loops import LOOPS, Loop, run_on

on_all_loops = pytest.mark.parametrize("loop", LOOPS)
on_asyncio = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


async def slow_to_end() -> None:
    """A task with tasks of its own, which the loop has to turn a few times for, to end them."""

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)
        await anyio.sleep_forever()


@on_all_loops
@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_what_the_body_raises_is_raised_as_it_is(loop: Loop, kind: type[BaseException]) -> None:
    mine = kind(3)

    async def main() -> None:
        async def body() -> None:
            async with background() as tasks:
                tasks.start_soon(slow_to_end)
                await anyio.lowlevel.checkpoint()
                raise mine

        with pytest.raises(kind) as raised:
            await body()
        assert raised.value is mine

    run_on(loop, main)


@on_all_loops
def test_what_a_task_raises_ends_the_body_and_the_others(loop: Loop) -> None:
    ended: list[str] = []

    async def waits(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(name)

    async def fails() -> None:
        await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async def body() -> None:
        async with background() as tasks:
            tasks.start_soon(waits, "task")
            tasks.start_soon(fails)
            await waits("body")

    async def main() -> None:
        with pytest.raises(BaseExceptionGroup) as raised:
            await body()
        assert raised.group_contains(ZeroDivisionError, depth=1)
        assert ended == ["body", "task"]

    run_on(loop, main)


@on_all_loops
def test_a_task_that_is_started_while_the_others_end_is_cancelled(loop: Loop) -> None:
    ended: list[str] = []

    async def late() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("late")

    async def main() -> None:
        async with background() as tasks:

            async def starts_another() -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    tasks.start_soon(late)

            tasks.start_soon(starts_another)
            await anyio.lowlevel.checkpoint()
        assert ended == ["late"]

    run_on(loop, main)


@on_all_loops
def test_a_generator_around_it_can_be_closed(loop: Loop) -> None:
    async def numbers() -> AsyncGenerator[int, None]:
        async with background() as tasks:
            tasks.start_soon(slow_to_end)
            while True:
                yield 1

    async def main() -> None:
        generator = numbers()
        assert await anext(generator) == 1
        await generator.aclose()

    run_on(loop, main)


@on_all_loops
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
                async with background() as outer, anyio.create_task_group() as tasks:
                    outer.start_soon(slow_to_end)
                    tasks.start_soon(fail)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
                    await anyio.sleep_forever()

        with pytest.raises(BaseExceptionGroup) as raised:
            await cancelled()
        assert raised.group_contains(ZeroDivisionError)
        assert not raised.group_contains(anyio.get_cancelled_exc_class())

    run_on(loop, main)


@on_all_loops
def test_an_error_of_the_body_outlives_a_cancellation_from_outside(loop: Loop) -> None:
    first, second = ZeroDivisionError("while it was cancelled"), ZeroDivisionError("before it was left")

    async def cleans_up() -> None:
        with anyio.CancelScope() as scope:
            async with background() as tasks:
                tasks.start_soon(slow_to_end)
                try:
                    scope.cancel()
                    await anyio.sleep_forever()
                finally:
                    raise first

    async def fails() -> None:
        with anyio.CancelScope() as scope:
            async with background() as tasks:
                tasks.start_soon(slow_to_end)
                scope.cancel()
                raise second

    async def main() -> None:
        for body, error in ((cleans_up, first), (fails, second)):
            with pytest.raises(ZeroDivisionError) as raised:
                await body()
            assert raised.value is error
            await anyio.lowlevel.checkpoint()  # nothing of the cancellation is left

    run_on(loop, main)


@on_asyncio
def test_after_an_error_of_the_body_the_next_wait_has_asyncios_own_cancellation(loop: Loop) -> None:
    """Who tries again and again would go on for ever, though it is cancelled."""
    rounds: list[int] = []

    async def tries_again() -> None:
        while len(rounds) < 3:
            with suppress(ZeroDivisionError):
                async with background() as beside:
                    beside.start_soon(slow_to_end)
                    await anyio.wait_all_tasks_blocked()
                    asyncio.get_running_loop().call_soon(tasks[0].cancel)
                    raise ZeroDivisionError
            rounds.append(tasks[0].cancelling())
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        tasks.append(asyncio.create_task(tries_again()))
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    tasks: list[asyncio.Task[None]] = []
    run_on(loop, main)
    assert rounds == [1]


@on_asyncio
def test_a_timeout_of_asyncio_that_an_error_of_the_body_has_left_cancels_no_more(loop: Loop) -> None:
    async def fails(timeout: asyncio.Timeout) -> None:
        async with timeout, background() as tasks:
            tasks.start_soon(slow_to_end)
            await anyio.wait_all_tasks_blocked()
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


@on_asyncio
def test_a_cancellation_that_the_body_took_is_not_said_again(loop: Loop) -> None:
    async def fails() -> None:
        async with background() as beside:
            beside.start_soon(slow_to_end)
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


@on_asyncio
def test_who_is_cancelled_while_a_generator_is_closed_is_cancelled(loop: Loop) -> None:
    """Closing a generator swallows its GeneratorExit: the cancellation must not go with that."""

    async def one() -> AsyncGenerator[int, None]:
        async with background() as beside:
            beside.start_soon(slow_to_end)
            while True:
                await anyio.wait_all_tasks_blocked()
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
