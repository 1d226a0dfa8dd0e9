"""Sessions of a process alone: they begin with their marker, and are silent as soon as another source has caught up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing

from bridge.core.events import Event, Gap, Heard, Notification
from bridge.core.position import Position
from bridge.feed.delivery import Delivery, Item
from bridge.feed.direct_source import DirectSource
from bridge.feed.source import FeedState
from bridge.links.openers import OpenSession
from bridge.telemetry import Metrics
from tests.support.pod import marker


class Session:
    proven, suspect, round_trip_seconds, last_proof = True, False, None, 0.0

    def __init__(self, term: int, heard: trio.MemoryReceiveChannel[Heard]) -> None:
        self.term = term
        self.marker = marker(term)
        self._heard = heard

    def learned(self) -> tuple[()]:
        return ()

    async def receive(self) -> list[Heard]:
        return [await self._heard.receive()]


class Bench:
    def __init__(self, *, beside_log: bool) -> None:
        self.may_open = trio.Event()
        self.delivered: list[Item] = []
        self.states: list[FeedState] = []
        self.delivery = Delivery(self.delivered.extend, Metrics())
        self.hear, self._heard = trio.open_memory_channel[Heard](9)
        self.source = DirectSource(cast(OpenSession, self._open), self.delivery, 1.0, Metrics(), beside_log=beside_log)

    @asynccontextmanager
    async def _open(self, **_: Any) -> AsyncIterator[Session]:
        await self.may_open.wait()
        yield Session(7, self._heard)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.source.run, self.states.append)
            await trio.sleep(1)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def notification() -> Heard:
    return Heard(Position(7, 1), Notification("a", b"1"))


async def test_a_session_feeds_from_its_marker_on(autojump_clock: trio.testing.MockClock, notification: Heard) -> None:
    bench = Bench(beside_log=False)
    bench.may_open.set()
    async with bench.running():
        assert bench.states == [FeedState("direct")]
        assert bench.source.term == 7
        await bench.hear.send(notification)
        await trio.sleep(1)
        gap, event = bench.delivered
        assert gap == Gap(Position(7, 0).beginning, Position(7, 0), "history_trimmed")
        assert isinstance(event, Event)
        assert list(bench.delivery.beside) == []


@pytest.mark.parametrize("opened_before", [True, False])
@pytest.mark.parametrize("by_the_log", [True, False])
async def test_it_is_silent_once_another_source_has_caught_up(
    autojump_clock: trio.testing.MockClock, notification: Heard, by_the_log: bool, opened_before: bool
) -> None:
    bench = Bench(beside_log=True)
    bench.delivery.open_beside()
    if opened_before:
        bench.may_open.set()
    async with bench.running():
        if by_the_log:
            bench.delivery.joined()
        else:
            bench.source.be_silent()
        bench.may_open.set()
        before, states = len(bench.delivered), len(bench.states)
        await bench.hear.send(notification)
        await trio.sleep(1)
        assert len(bench.delivered) == before
        assert len(bench.states) == states == opened_before
        assert (bench.source.term == 7) is opened_before


async def test_it_speaks_again_in_its_next_run(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench(beside_log=True)
    bench.delivery.open_beside()
    bench.may_open.set()
    async with bench.running():
        bench.source.be_silent()
    assert bench.source.view is None
    async with bench.running():
        assert bench.states == [FeedState("direct")] * 2
        assert list(bench.delivery.beside) == [7]
