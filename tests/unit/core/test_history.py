"""The history against the commits: a client with any cursor of any worker gets what it lacks, each once, or is told.

The model of a client is a set: what it has. A cursor says less (a position, and of each open gap the last late event),
and that must be enough for every worker that knows the position, at any later time, whatever has been trimmed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.cursor import Cursor, OpenGap
from bridge.core.events import Event, Filled, Gap
from bridge.core.history import MAX_STRETCHES, History
from bridge.core.position import Position, Timeline
from bridge.hub import Buffers
from bridge.telemetry import log
from tests.support.hub_world import UNLIMITED, Worker, World
from tests.support.peers import happening

Step = tuple[str, int, int]
STEPS = [
    *("nothing", "commit", "commit", "work", "work", "look", "look"),
    *("lose_log", "open_session", "lose_session", "join", "join", "stall", "unstall", "break_log", "join_anyway"),
]


@dataclass
class Look:
    """What a client has at one moment, and the cursor that says so."""

    cursor: Cursor
    has: set[int]
    """Commits that have come, or were told to be lost."""


@dataclass
class Watcher:
    """A client that was there from the beginning, and its cursor as it is defined."""

    world: World
    worker: Worker
    has: set[int] = field(default_factory=set)
    gaps: list[OpenGap] = field(default_factory=list)
    position: Position | None = None
    surprised: bool = False
    """Whether something came late outside of every gap, which no cursor can say."""

    def take(self, items: Sequence[object]) -> None:
        for item in items:
            if isinstance(item, Event):
                self._event(item)
            elif isinstance(item, Gap):
                self._gap(item)
            elif isinstance(item, Filled):
                self.gaps = [gap for gap in self.gaps if (gap.after, gap.before) != (item.after, item.before)]

    def look(self) -> Look | None:
        if self.position is None or self.surprised:
            return None
        return Look(Cursor(self.position, tuple(self.gaps)), set(self.has))

    def _event(self, event: Event) -> None:
        self.has.add(self.world.index(str(event.position)))
        if not event.late:
            self.position = event.position
            return
        at = [index for index, gap in enumerate(self.gaps) if (gap.after, gap.before) == event.hole]
        self.surprised = self.surprised or not at
        for index in at:
            self.gaps[index] = self.gaps[index].advanced(event.position, self.worker.delivery.timeline)

    def _gap(self, gap: Gap) -> None:
        assert gap.after is not None
        assert gap.before is not None
        known = [one for one in self.gaps if (one.after, one.before) == (gap.after, gap.before)]
        if not known:
            self.position = gap.passed
        if gap.pending:
            self.gaps.append(OpenGap(gap.after, gap.before))
        else:
            self.gaps = [one for one in self.gaps if one not in known]
            self.has |= set(range(max(-1, self.world.index(str(gap.after))) + 1, self.world.index(str(gap.before))))


class Scene:
    def __init__(self, history_entries: int) -> None:
        self.world = World()
        self.history_entries = history_entries
        self.workers = [self._worker(), self._worker()]
        self.watchers = [Watcher(self.world, worker) for worker in self.workers]
        self.looks: list[Look] = []
        for worker, watcher in zip(self.workers, self.watchers, strict=True):
            deliver = worker.hub.deliver

            def both(items: Sequence[object], watcher: Watcher = watcher, deliver: object = deliver) -> None:
                watcher.take(items)
                deliver(items)  # type: ignore[operator]

            worker.hub.deliver = both  # type: ignore[method-assign]
            worker.join_log()
            watcher.position = worker.delivery.position
            assert watcher.position is not None
            watcher.has = set(range(self.world.index(str(watcher.position)) + 1))

    def _worker(self) -> Worker:
        return Worker(self.world, history_entries=self.history_entries, buffers=Buffers(1, 1))

    def do(self, step: Step) -> None:
        name, who, much = step
        worker, world = self.workers[who], self.world
        match name:
            case "commit":
                world.commit(1 + much)
            case "work":
                worker.work(much or UNLIMITED)
            case "lose_log":
                worker.lose_log()
            case "open_session":
                worker.open_session()
            case "lose_session":
                worker.lose_session()
            case "join":
                worker.join_log(much or UNLIMITED)
            case "join_anyway" if not world.stalled:
                worker.join_log(give_up=True)
            case "stall":
                world.stalled = True
            case "unstall":
                world.stalled = False
                world.write()
            case "break_log":
                world.break_log()
            case "look" if (look := self.watchers[who].look()) is not None:
                self.looks.append(look)

    def check(self) -> None:
        """Every cursor so far, at every worker that can place it."""
        for look in self.looks[-6:]:
            for worker in self.workers:
                history, position = worker.hub.history, look.cursor.position
                newest = worker.delivery.newest(position.term)
                if newest is not None and newest >= position and history.knows(position):
                    self._resume(look, worker)

    def _resume(self, look: Look, worker: Worker) -> None:
        history, index = worker.hub.history, self.world.index
        came: list[int] = []
        told: list[tuple[int, int]] = []
        for gap in look.cursor.open_gaps:
            inside = history.inside(gap)
            late = [index(str(event.position)) for event in (one.event for one in inside.found)]
            came += [one for one in late if one not in came]  # gaps may overlap
            if inside.rest != "filled":
                told.append((index(str(gap.after)), index(str(gap.before))))
        following = list(history.after(look.cursor.position))
        in_order = [index(str(one.position)) for one in following if isinstance(one, Event) and not one.late]
        assert in_order == sorted(set(in_order))
        for item in following:
            if isinstance(item, Event):
                came.append(index(str(item.position)))
            else:
                low = index(str(item.after)) if item.after else -1
                told.append((low, index(str(item.before)) if item.before else UNLIMITED))
                assert low < told[-1][1]
        assert len(came) == len(set(came)), f"{look.cursor}: twice in {came}"
        assert not look.has & set(came), f"{look.cursor}: again {sorted(look.has & set(came))}"
        stands = worker.delivery.position
        assert stands is not None
        missing = set(range(index(str(stands)) + 1)) - look.has - set(came)
        missing = {one for one in missing if self.world.commits[one].channel is not None}
        silent = [one for one in missing if not any(low < one < high for low, high in told)]
        assert not silent, f"{look.cursor}: {silent} missing, told {told}, came {came}"


steps = st.lists(
    st.tuples(st.sampled_from(STEPS), st.integers(0, 1), st.sampled_from([0, 1, 2, 5])), min_size=30, max_size=90
)


@given(steps, st.sampled_from([1, 3, 10, 1000]))
@settings(deadline=None)
def test_any_cursor_gets_what_it_lacks_or_is_told(steps: list[Step], history_entries: int) -> None:
    with mock.patch.object(log, "disabled", True):
        scene = Scene(history_entries)
        for step in steps:
            scene.do(step)
            scene.check()
        for name in ("unstall", "join", "work", "join_anyway", "work", "commit", "work"):
            for who in (0, 1):
                scene.do((name, who, 0))
            scene.check()


def test_a_position_of_another_process_may_lie_behind_a_gap() -> None:
    timeline = Timeline()
    history = History(timeline, 100)

    def event(term: int, seq: int) -> Event:
        return Event(Position(term, seq), "c", b"{}")

    history.begin(Position(1, 0))
    for seq in (1, 2, 3):
        history.extend([event(1, seq)])
    history.add_gap(Gap(Position(1, 3), Position(2, 0), "postgres_session_lost"))
    history.extend([event(2, 1)])
    timeline.relate(Position(9, 0), Position(1, 0))

    assert history.is_sure_of(Position(9, 3))
    assert list(history.after(Position(9, 3))) == [
        Gap(Position(1, 3), Position(2, 0), "postgres_session_lost"),
        event(2, 1),
    ]
    behind = Position(9, 5)
    assert not history.is_sure_of(behind)
    assert list(history.after(behind)) == [Gap(behind, Position(2, 0), "postgres_session_lost"), event(2, 1)]

    history.add_gap(Gap(Position(2, 1), Position(3, 0), "postgres_session_lost"))
    history.extend([event(3, 1)])
    timeline.relate(Position(9, 8), Position(3, 0))
    assert not history.is_sure_of(behind)
    assert list(history.after(behind)) == [Gap(behind, Position(3, 0), "postgres_session_lost"), event(3, 1)]

    timeline.relate(Position(9, 4), Position(2, 0))
    assert history.is_sure_of(behind)
    assert list(history.after(behind)) == [
        Gap(Position(2, 1), Position(3, 0), "postgres_session_lost"),
        event(3, 1),
    ]


def test_what_is_kept_is_bounded() -> None:
    history = History(Timeline(), 100)
    for term in range(1, 3 * MAX_STRETCHES):
        history.add_gap(Gap(Position(term, 5), Position(term + 1, 0), "failover", pending=bool(term % 2)))
        history.extend([happening(1, term=term + 1)])
        if term % 2:
            history.fill(Filled(Position(term, 5), Position(term + 1, 0)))
        assert len(history) <= 110
        assert len(history._stretches) <= MAX_STRETCHES
    for seq in range(2, 1000):
        history.extend([happening(seq, term=3 * MAX_STRETCHES)])
        assert len(history) <= 110
    assert history._pending == set()


def test_late_events_without_end_are_bounded_too() -> None:
    history = History(Timeline(), 100)
    history.begin(Position(1, 0))
    history.extend([happening(100_000)])
    for seq in range(1, 2000):
        history.insert(happening(seq))
        assert len(history) <= 110


@given(st.lists(st.integers(1, 3), min_size=1, max_size=30), st.data())
def test_many_events_are_kept_as_one_after_the_other(terms: list[int], data: st.DataObject) -> None:
    """The third term is related to the second one, the first to none."""
    timeline = Timeline()
    timeline.relate(Position(3, 0), Position(2, 50))
    together, single = History(timeline, 8), History(timeline, 8)
    events = [happening(seq, term=term) for seq, term in enumerate(sorted(terms), 1)]
    while events:
        count = data.draw(st.integers(1, len(events)))
        some, events = events[:count], events[count:]
        together.extend(some)
        for one in some:
            single.extend([one])
        newest = some[-1].position
        for history in (together, single):
            assert history.knows(newest)
        assert [one.gap for one in together._stretches[-2:]] == [one.gap for one in single._stretches[-2:]]
        kept = min(len(together), len(single))
        assert every_event(together)[-kept:] == every_event(single)[-kept:]
        assert len(together) <= 8 + max(1, count)


def every_event(history: History) -> list[Event]:
    return [event for stretch in history._stretches for event in stretch.events]
