"""The block of `open_feed`: what its body raises leaves it as it was, and nothing of the feed's tasks comes with it."""

from collections.abc import AsyncGenerator
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
    run_on(loop, main)


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

    run_on(loop, main)


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
