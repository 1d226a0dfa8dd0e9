"""The block of `open_feed`: what its body raises leaves it as it was, and nothing of the feed's tasks comes with it."""

from collections.abc import AsyncGenerator

import anyio
import anyio.lowlevel
import pytest

import bridge
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
