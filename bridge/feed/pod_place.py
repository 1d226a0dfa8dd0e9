"""Where a worker stands on the tape of its pod's listener: where to begin, how far it has come, what lies before.

Positions say where to begin; indexes only where to go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.core.events import Entry, Event
from bridge.core.pod_wire import Segment, View
from bridge.core.position import Position
from bridge.feed.delivery import Delivery


@dataclass(frozen=True)
class Place:
    """How far the tape of one listener process was followed: through `last`, the entry before `index`."""

    nonce: str
    index: int
    last: Position | None


def first_place(nonce: str, view: View, delivery: Delivery) -> Place | None:
    """Where to begin on this tape; None where it is not related to what was delivered.

    Behind the newest entry delivered, or sooner: at a hole before it that this session can fill, or at the beginning
    of the session where it is not known what came before delivery began. That is also where to begin where nothing was
    delivered: clients of other workers may go on here.
    """
    if not view.segments:
        return Place(nonce, view.end, None)
    if delivery.position is None:
        return Place(nonce, view.segments[-1].start, None)
    found = _related(view.segments, delivery.position, delivery)
    if found is None:
        return None
    segment, own = found
    if delivery.past is not None:
        return Place(nonce, segment.start, None)
    holes = [delivery.timeline.convert(hole.after, segment.term) for hole in delivery.holes]
    index = segment.index_after(min([own, *(after for after in holes if after is not None)]))
    return Place(nonce, index, segment.before(index))


def _related(segments: Sequence[Segment], position: Position, delivery: Delivery) -> tuple[Segment, Position] | None:
    """The newest segment that is related to this position, and the position in its numbering."""
    for segment in reversed(segments):
        own = delivery.timeline.convert(position, segment.term)
        if own is not None:
            return segment, own
    return None


class Earlier:
    """Collects what one session heard before delivery began, for clients that were elsewhere then."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._floor: Position | None = None
        self._last: Position | None = None
        self._events: list[Event] = []

    def take(self, entries: Sequence[Entry]) -> None:
        """These come next. Where they lead to where delivery began, what came before is known."""
        past, first, last = self._delivery.past, entries[0].position, entries[-1].position
        began = self._delivery.timeline.convert(past.before, first.term) if past is not None else None
        if began is None:
            return
        if self._floor is None or self._last is None or first != self._last.plus(1):
            self._floor, self._events = first.plus(-1), []
        self._last = last
        if self._floor.plus(1) < began:
            self._events += [one.event for one in entries if one.event is not None and one.position < began]
            if last.plus(1) >= began:
                self._delivery.remember(self._floor, self._events)
                self._floor, self._events = None, []
