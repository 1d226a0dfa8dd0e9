"""The log as a source: what it holds of what lies before the beginning of a process that began without it."""

from collections.abc import Sequence

import pytest

from bridge.core import events
from bridge.core.events import Entry, Event, Gap, Notification, Past
from bridge.core.position import Position
from bridge.feed.delivery import Delivery, Item
from bridge.feed.log_source import LogSource
from bridge.telemetry import Metrics

LOG, DIRECT, NEW = 100, 200, 300
BEGAN = 15
"""The marker of the session that the process began with, in the numbering of the log."""


class Log:
    """A log of events, read in small pieces; what `trims` says goes before each read."""

    def __init__(self, *positions: Position, trims: Sequence[int] = ()) -> None:
        self._entries = [Entry(at, events.event(at, Notification("c", b"%d" % at.seq)), None) for at in positions]
        self._trims = list(trims)

    async def read(self, after: Position) -> list[Entry]:
        del self._entries[: self._trims.pop(0) if self._trims else 0]
        return [entry for entry in self._entries if entry.position > after][:4]


def run(term: int, first: int, last: int) -> list[Position]:
    return [Position(term, seq) for seq in range(first, last + 1)]


class Process:
    """It began with a session of its own; then the log came back."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.delivery = Delivery(self.items.extend, Metrics())
        self.source = LogSource(None, self.delivery, "", 1.0)  # type: ignore[arg-type]
        self.delivery.open_beside()
        self.delivery.continue_with(Position(DIRECT, 0), "failover", fillable=True)
        self.delivery.passed(Position(DIRECT, 0))
        self.delivery.beside[DIRECT] = None
        self.delivery.timeline.relate(Position(DIRECT, 0), Position(LOG, BEGAN))

    async def start(self, log: Log, end: int) -> bool:
        return await self.source._start_at(log, Position(LOG, end))  # type: ignore[arg-type]

    @property
    def past(self) -> tuple[int, list[int]] | None:
        """After which seq of the log the past is known, and the seqs of its events."""
        found = [item for item in self.items if isinstance(item, Past)]
        assert len(found) <= 1
        if not found:
            return None
        floor = self.delivery.timeline.convert(found[0].floor, LOG)
        assert floor is not None
        assert found[0].floor.seq >= -1, "what follows has an id"
        return floor.seq, [event.position.seq for event in found[0].events]


@pytest.mark.parametrize(
    ("log", "past"),
    [
        (Log(*run(LOG, 0, 20)), (-1, [*range(15)])),
        (Log(*run(LOG, 9, 20)), (8, [*range(9, 15)])),
        (Log(*run(LOG, 15, 20)), (14, [])),
        (Log(*run(LOG, 17, 20)), (14, [])),
        (Log(*run(LOG, 0, 20), trims=(0, 10)), (9, [*range(10, 15)])),
        (Log(*run(LOG, 0, 20), trims=(0, 18)), (14, [])),
        (Log(*run(LOG, 0, 9), *run(NEW, 0, 9)), (14, [])),
    ],
    ids=[
        "all",
        "trimmed",
        "nothing before",
        "nothing at all",
        "trimmed meanwhile",
        "gone meanwhile",
        "broken meanwhile",
    ],
)
async def test_what_the_log_holds_from_before_the_beginning_is_told(log: Log, past: tuple[int, list[int]]) -> None:
    process = Process()
    assert await process.start(log, 20)
    assert process.past == past
    assert process.source.tail == Position(LOG, BEGAN)


async def test_a_log_that_was_begun_anew_after_the_beginning_knows_nothing_of_the_past() -> None:
    process = Process()
    process.delivery.timeline.relate(Position(NEW, 0), Position(LOG, BEGAN + 5))
    assert await process.source._start_at(Log(*run(NEW, 0, 9)), Position(NEW, 9))  # type: ignore[arg-type]
    assert process.past == (BEGAN - 1, [])


async def test_a_log_that_has_not_come_to_the_beginning_is_waited_for() -> None:
    process = Process()
    assert not await process.start(Log(*run(LOG, 0, 9)), 9)
    assert not await process.start(Log(*run(LOG, 0, 9)), 20)  # it lost its newest entries
    assert process.past is None
    assert process.source.tail is None
    assert await process.start(Log(*run(LOG, 0, 14)), 14)
    assert process.past == (-1, [*range(15)])


async def test_what_no_log_brings_is_lost_in_the_end() -> None:
    process = Process()
    begun = Gap(Position(DIRECT, 0).beginning, Position(DIRECT, 0), "history_trimmed", pending=True)
    assert process.items == [begun]
    process.delivery.offer([Event(Position(DIRECT, 1), "c", b"{}")])
    process.delivery.joined()
    assert process.items[2:] == [Gap(begun.after, begun.before, "history_trimmed")]
    process.delivery.remember(Position(LOG, 0), [])
    assert process.past is None
