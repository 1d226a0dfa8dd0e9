"""When a publisher begins a new term of the log, by who else has been heard: on a log in memory, in virtual time."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bridge.core.events import Body, Heard, Notification
from bridge.core.position import Position, Timeline
from bridge.links.redis_log import Appended, LogState
from bridge.relay.publisher import GONE_SECONDS, POLL_SECONDS, TAKEOVER_SECONDS, Publisher
from bridge.relay.tape import Tape
from bridge.telemetry import Metrics, Observable

OWN, OLD_TERM, NEW_TERM = "own", 1, 2
HEARTBEAT_SECONDS = 30.0


class StrangeLog:
    """A log that ends in a term that nobody can relate; `beating` is whose beat is still in it."""

    def __init__(self, beating: str | None) -> None:
        self.beating = beating
        self.at = LogState(Position(OLD_TERM, 7), "log")
        self.appended = trio.Event()

    async def open(self) -> LogState:
        return self.at

    async def state(self) -> LogState:
        return self.at

    async def append(self, _: LogState, first: Position, bodies: Sequence[Body], publish_from: int) -> Appended:
        assert publish_from == 0
        self.at = LogState(first.plus(len(bodies) - 1), "log")
        self.appended.set()
        return Appended(self.at)

    async def listeners_beating(self) -> str | None:
        return self.beating

    async def terms(self) -> list[Any]:
        return []

    async def save_terms(self, _: object) -> None: ...

    async def beat(self, *_: object, **__: object) -> None: ...

    async def stop_beating(self, _: str) -> None: ...


@pytest.mark.parametrize(
    ("beating", "least_seconds"),
    [(None, GONE_SECONDS), (OWN, GONE_SECONDS), ("another", TAKEOVER_SECONDS)],
    ids=["nobody", "its own life before", "another one"],
)
async def test_how_long_a_gap_is_held_back(
    autojump_clock: MockClock,
    beating: str | None,
    least_seconds: float,
) -> None:
    """A listener that can only leave a gap waits for one that continues exactly; not for the one that it was itself."""
    timeline, tape, log = Timeline(), Tape(100, 10**6), StrangeLog(beating)
    tape.extend([Heard(Position(NEW_TERM, 0), Notification("a", b"1"))])
    listener: Any = SimpleNamespace(
        draining=Observable(False),
        session=Observable(SimpleNamespace(term=NEW_TERM, proven=True)),
        proven=True,
        arrivals=SimpleNamespace(at=lambda _: None),
        keep_above=lambda _: None,
    )

    @asynccontextmanager
    async def open_log() -> AsyncIterator[Any]:
        yield log

    publisher = Publisher(open_log, listener, tape, timeline, OWN, 1.0, HEARTBEAT_SECONDS, Metrics())
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publisher.run)
        await log.appended.wait()
        nursery.cancel_scope.cancel()
    assert least_seconds <= trio.current_time() - began <= least_seconds + 2 * POLL_SECONDS
