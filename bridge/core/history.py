"""The recent events of a process, in the order of the commits, for clients that resume.

    stretch ── gap ── stretch ── gap ── stretch ◀── newest events
       ▲ late events of the gap behind it go to its end

Inside a stretch nothing is missing. Between two of them lies a gap: pending, final, or None where it has been filled.
Until something is forgotten, the first gap begins with the beginning of all, behind a stretch that holds nothing.
Positions are compared as far as the timeline can relate them; stretches are in order anyway.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from bridge.core.cursor import OpenGap, Run
from bridge.core.events import Event, Filled, Gap, Past, in_order, late
from bridge.core.position import Position, Timeline

MAX_STRETCHES = 1000
"""A database that comes and goes leaves gaps and few events; past this the oldest stretch is forgotten."""

Bounds = tuple[Position | None, Position | None]


@dataclass(eq=False)
class Stretch:
    """Everything from `floor` (excluded) to the gap of the next stretch."""

    floor: Position
    gap: Gap | None = None
    """What lies between it and the stretch before."""
    spoilt: bool = False
    """Whether late events of that gap have no place here: who resumes over it lacks them, even when it is filled."""
    events: list[Event] = field(default_factory=list)


class Found(NamedTuple):
    """An event in an open gap."""

    event: Event
    place: tuple[int, int]
    """Where it is, in an order that all events of a history have."""
    begins: bool
    """Whether something may be missing before it, though it is in the gap."""


@dataclass(frozen=True)
class Inside:
    """What lies in an open gap: the events that came meanwhile, and what became of the rest."""

    found: Sequence[Found]
    rest: Literal["filled", "pending", "lost"]
    ties: frozenset[Bounds]
    """The pending gaps of this history that the rest lies in."""


class History:
    """The newest `entries` events, a tenth more at times."""

    def __init__(self, timeline: Timeline, entries: int) -> None:
        self._timeline = timeline
        self._entries = entries
        self._count = 0
        self._stretches: list[Stretch] = []
        self._pending: set[Bounds] = set()

    def __len__(self) -> int:
        return self._count

    def begin(self, position: Position) -> None:
        """Where nothing is held yet: all that follows `position` will be."""
        if not self._stretches:
            self._stretches.append(Stretch(position))

    def remember(self, past: Past) -> None:
        """What lies before the beginning, unless that has been trimmed away."""
        behind = self._stretches[1].gap if len(self._stretches) > 1 else None
        if behind is not None and _bounds(behind) == past.hole:
            self._stretches[0] = Stretch(past.floor, events=list(past.events))
            self._count += len(past.events)
        self.fill(Filled(*past.hole))
        self._trim()

    def extend(self, events: Sequence[Event]) -> None:
        """Events that are newer than all before, in order."""
        if not events:
            return
        if len(events) > 1 and len({event.position.term for event in events}) > 1:
            for event in events:
                self.extend([event])
            return
        first = events[0].position
        if not self._stretches:
            self.begin(first.plus(-1))
        last = self._stretches[-1]
        newest = last.events[-1].position if last.events else last.floor
        if newest.term != first.term and self._timeline.convert(first, last.floor.term) is None:
            self.add_gap(Gap(newest, first, "failover"))
            last = self._stretches[-1]
        last.events += events
        self._grow(len(events))

    def insert(self, event: Event) -> None:
        """A late event. One that has no place here lies in a gap: there it stays missing."""
        for stretch in reversed(self._stretches):
            at = self._timeline.convert(event.position, stretch.floor.term)
            if at is not None and at > stretch.floor:
                index = bisect_left(stretch.events, at, key=self._key(stretch))
                stretch.events.insert(index, in_order(event))
                self._grow()
                return
        for stretch in self._stretches:
            if stretch.gap is not None and stretch.gap.pending and _bounds(stretch.gap) == event.hole:
                stretch.spoilt = True

    def add_gap(self, gap: Gap) -> None:
        """A gap that opens behind the newest event, or the final one for a pending gap."""
        bounds = _bounds(gap)
        if bounds in self._pending:
            self._pending.discard(bounds)
            self._settle(bounds, gap)
            return
        if gap.pending:
            self._pending.add(bounds)
        if gap.after is not None:
            self.begin(gap.after)
        if gap.before is None:
            self._stretches.clear()
            self._count = 0
        else:
            self._stretches.append(Stretch(gap.before.plus(-1), gap if self._stretches else None))
            if len(self._stretches) > MAX_STRETCHES:
                self._count -= len(self._stretches.pop(0).events)
                self._stretches[0].gap = None

    def fill(self, filled: Filled) -> None:
        """A pending gap has been filled."""
        self._pending.discard(_bounds(filled))
        self._settle(_bounds(filled), None)

    def knows(self, position: Position) -> bool:
        """Whether it can be told what a client that has everything through `position` lacks."""
        if self._place(position) is not None:
            return True
        first = self._first_related(position)
        return first is not None and (first == 0 or self._comparable(position, self._stretches[first].gap))

    def is_sure_of(self, position: Position) -> bool:
        """Whether it can be told on which side of every gap the position lies.

        Not where it lies behind the beginning of one whose other side it is not related to: a client of another
        process may have been told of what came after that gap.
        """
        place = self._place(position)
        return place is None or self._following(place, position) == place + 1

    def follows(self, position: Position, since: Position) -> bool:
        """Whether an event that is held here came after `since`, which was known here once."""
        there = self._timeline.convert(since, position.term)
        if there is not None:
            return position > there
        began, place = self._place(since), self._place(position.plus(-1))
        return began is None or place is None or began < place

    def runs(self, after: Position, last: Position) -> list[Run]:
        """Everything after the one position and through the other one, so that who cannot relate the two can relate the
        ends of each run: final gaps lie between them."""
        first, end = self._place(after), self._place(last)
        if first is None or end is None:
            return [Run(after, last)]
        found = []
        for stretch, following in pairwise(self._stretches[first : end + 1]):
            behind = following.gap.after if following.gap is not None else None
            newest = stretch.events[-1].position if stretch.events else stretch.floor
            until = newest if behind is None else behind
            begin = self._timeline.convert(after, until.term)
            if begin is None or begin < until:  # else it lies in the gap, which may reach from the beginning of all
                found.append(Run(after, until))
            after = max(following.floor, Position(following.floor.term, 0))  # seq 0 is a marker, and holds nothing
        return [*found, Run(after, last)]

    def after(self, position: Position) -> Iterator[Event | Gap]:
        """What a client that has everything through `position` lacks, in order; nothing where that is not related.

        Begins with a gap where that is too old. A gap that the position lies in begins there. What came late in a gap
        follows it, and is late, until the gap is filled: something may be missing before it. What the client may have
        although that cannot be told is in the gap, where anything behind it is related.
        """
        place = self._place(position)
        first = self._first_related(position) if place is None else place
        if first is None:
            return
        following = first + 1 if place is None else self._following(place, position)
        tail: Sequence[Event] = ()
        for index, stretch in enumerate(self._stretches[first:], first):
            if first < index < following < len(self._stretches):
                continue
            if index != place:
                if index == following > first + 1:
                    yield Gap(
                        position, stretch.floor.plus(1), "failover" if stretch.gap is None else stretch.gap.reason
                    )
                elif stretch.gap is not None:
                    yield self._gap_from(stretch.gap, position, exact=index > first)
                elif index == first:
                    yield Gap(position, stretch.floor.plus(1), "history_trimmed")
            yield from (late(event, None) for event in tail)
            at = self._timeline.convert(position, stretch.floor.term)
            begin = 0 if at is None else bisect_right(stretch.events, at, key=self._key(stretch))
            end = max(begin, self._begin_of_late(index))
            yield from stretch.events[begin:end]
            tail = stretch.events[end:]

    def places(self, gap: OpenGap) -> bool:
        """Whether it can be told what a client with this open gap lacks in it."""
        return self._span(gap) is not None

    def lies_in(self, position: Position, gap: OpenGap) -> bool:
        """Whether what is held of this position, which nothing relates to the bounds, lies in the gap all the same."""
        span, place = self._span(gap), self._place(position)
        return span is not None and place is not None and span[0] <= place <= span[1]

    def inside(self, gap: OpenGap) -> Inside:
        """What a client with this open gap lacks in it. Where the gap has no place here, it is lost."""
        span = self._span(gap)
        if span is None:
            return Inside([], "lost", frozenset())
        found: list[Found] = []
        ties: set[Bounds] = set()
        lost = False
        for index in range(span[0], span[1] + 1):
            stretch = self._stretches[index]
            if index > span[0] and stretch.gap is not None:
                lost = lost or not stretch.gap.pending
                if stretch.gap.pending:
                    ties.add(_bounds(stretch.gap))
            low = self._timeline.convert(gap.after, stretch.floor.term)
            high = self._timeline.convert(gap.before, stretch.floor.term)
            key = self._key(stretch)
            first = 0 if low is None else bisect_right(stretch.events, low, key=key)
            last = len(stretch.events) if high is None else bisect_left(stretch.events, high, key=key)
            found += [Found(stretch.events[at], (index, at), at == first) for at in range(first, last)]
        found = [one for one in found if not gap.has(one.event.position, self._timeline)]
        return Inside(found, "lost" if lost else "pending" if ties else "filled", frozenset(ties))

    def _place(self, position: Position) -> int | None:
        """The newest stretch that is known to hold what follows the position."""
        for index in range(len(self._stretches) - 1, -1, -1):
            floor = self._stretches[index].floor
            at = self._timeline.convert(position, floor.term)
            if at is not None and at >= floor:
                return index
        return None

    def _following(self, place: int, position: Position) -> int:
        """The stretch after the one at `place` that holds what follows the position.

        That is the next one, unless the position lies in the gap before that and is not related to it; then it is the
        first one that is related, or none.
        """
        following = self._stretches[place + 1 :]
        gap = following[0].gap if following else None
        at = self._timeline.convert(position, gap.after.term) if gap is not None and gap.after is not None else None
        if at is None or gap is None or gap.after is None or at <= gap.after:
            return place + 1
        for index, stretch in enumerate(following, place + 1):
            if self._timeline.convert(position, stretch.floor.term) is not None:
                return index
        return len(self._stretches)

    def _first_related(self, position: Position) -> int | None:
        for index, stretch in enumerate(self._stretches):
            if self._timeline.convert(position, stretch.floor.term) is not None:
                return index
        return None

    def _begin_of_late(self, index: int) -> int:
        """Where in a stretch the late events of the gap behind it begin."""
        stretch = self._stretches[index]
        behind = self._stretches[index + 1].gap if index + 1 < len(self._stretches) else None
        if behind is None or behind.after is None:
            return len(stretch.events)
        at = self._timeline.convert(behind.after, stretch.floor.term)
        return len(stretch.events) if at is None else bisect_right(stretch.events, at, key=self._key(stretch))

    def _span(self, gap: OpenGap) -> tuple[int, int] | None:
        """The first and the last stretch that what is missing in the gap may lie in; None where that is not known."""
        first, last = self._place(gap.after), self._place(gap.before.plus(-1))
        if first is None or last is None or not self.is_sure_of(gap.after):
            return None
        behind = self._stretches[last + 1] if last + 1 < len(self._stretches) else None
        if behind is not None and behind.gap is not None and behind.gap.after is not None:
            end = self._timeline.convert(gap.before, behind.gap.after.term)
            if end is None or end > behind.gap.after.plus(1):
                if self._timeline.convert(gap.before, behind.floor.term) is None:
                    return None  # it reaches into a gap whose other side it is not related to
                last += 1
        return first, last

    def _settle(self, bounds: Bounds, end: Gap | None) -> None:
        """A pending gap ends, unless it has been trimmed away."""
        for stretch in self._stretches:
            if stretch.gap is not None and _bounds(stretch.gap) == bounds:
                stretch.gap = Gap(*bounds, "failover") if end is None and stretch.spoilt else end

    def _comparable(self, position: Position, gap: Gap | None) -> bool:
        if gap is None or gap.after is None:
            return False
        return self._timeline.convert(position, gap.after.term) is not None

    def _gap_from(self, gap: Gap, position: Position, *, exact: bool) -> Gap:
        """The gap, from the client's position on where that lies in it.

        Not `exact`: nobody knows whether it does, so the gap is final, and nothing of it comes late.
        """
        if not exact and not self._comparable(position, gap):
            return Gap(position, gap.before, gap.reason)
        after = self._timeline.convert(position, gap.after.term) if gap.after is not None else None
        if gap.after is not None and after is not None and after > gap.after:
            return Gap(position, gap.before, gap.reason, gap.pending)
        return gap

    def _key(self, stretch: Stretch) -> "_Key":
        return _Key(self._timeline, stretch.floor.term)

    def _grow(self, count: int = 1) -> None:
        """So many events more."""
        self._count += count
        if self._count > self._entries + self._entries // 10:
            self._trim()

    def _trim(self) -> None:
        surplus = self._count - self._entries
        while surplus > 0:
            oldest = self._stretches[0]
            dropped = min(surplus, len(oldest.events))
            if dropped:
                oldest.floor = oldest.events[dropped - 1].position
                del oldest.events[:dropped]
            surplus -= dropped
            self._count -= dropped
            if not oldest.events and len(self._stretches) > 1:
                del self._stretches[0]
                self._stretches[0].gap = None


class _Key:
    """Events in the numbering of one term; what cannot be compared any more is the oldest."""

    __slots__ = ("_term", "_timeline")

    def __init__(self, timeline: Timeline, term: int) -> None:
        self._timeline = timeline
        self._term = term

    def __call__(self, event: Event) -> Position:
        if event.position.term == self._term:
            return event.position
        return self._timeline.convert(event.position, self._term) or Position(self._term, -(2**63))


def _bounds(of: Gap | Filled) -> Bounds:
    return of.after, of.before
