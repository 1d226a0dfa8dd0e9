"""The last step of every source: what was delivered already is dropped, everything else goes to the sink.

A source that starts somewhere else than where the last one ended leaves a *hole*. What lies in it may still come: from
the log, when Redis is back, as late events. So a hole is announced as pending at once, and settled later: `Filled`, or
a final gap. The ledger decides what is missing, wherever two numberings are related; where they are not, a hole counts
as one.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bridge.core import events
from bridge.core.events import Event, Filled, Gap, GapReason, Past, Published
from bridge.core.ledger import Ledger
from bridge.core.position import Position, Timeline
from bridge.telemetry import Arrivals, Leg, Metrics, fields, log

Item = Event | Gap | Filled | Past | Published
Sink = Callable[[Sequence[Item]], None]

RECENT = 20
"""Gaps and changes of mode that /status still shows."""

MAX_HOLES = 16
"""Holes that wait to be filled; past that the oldest one becomes a final gap. All fit into a cursor."""


@dataclass(frozen=True)
class AnnouncedGap:
    """A final gap that clients were told of, and when (seconds since 1970)."""

    at: float
    gap: Gap


@dataclass(frozen=True)
class Hole:
    """Between these two positions, both excluded, something may be missing that may still come."""

    after: Position
    before: Position
    reason: GapReason


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the way of a batch through this process began that it can time, and when."""

    leg: Leg
    at: float


class Delivery:
    """Where sources put what they have. One for a process, over all sources that it ever had.

    `arrivals` says when the listener of the same process heard what is delivered, if there is one.
    """

    def __init__(
        self, sink: Sink, metrics: Metrics, timeline: Timeline | None = None, arrivals: Arrivals | None = None
    ) -> None:
        self.timeline = Timeline() if timeline is None else timeline
        self.position: Position | None = None
        """The newest position delivered or passed, in the numbering of the source that brought it."""
        self.recent_gaps: deque[AnnouncedGap] = deque(maxlen=RECENT)
        self.beside: dict[int, None] = {}
        """Terms of sessions heard beside the log: until they are related to it, its entries might repeat theirs."""
        self.beside_open = False
        """Whether a source beside the log may bring something: from `open_beside` until the log has joined it."""
        self._ledger = Ledger(self.timeline)
        self._holes: list[Hole] = []
        self._past: Hole | None = None
        self._sink = sink
        self._metrics = metrics
        self._arrivals = arrivals

    @property
    def holes(self) -> Sequence[Hole]:
        return self._holes

    @property
    def past(self) -> Hole | None:
        """What lies before the beginning, while the log may still bring it for clients that were elsewhere then."""
        return self._past

    def begin(self, position: Position) -> None:
        """The first source of this process starts here: nobody wants what is not newer."""
        self._ledger.claim_through(position)
        self.position = position

    def continue_with(self, first: Position, reason: GapReason, *, fillable: bool) -> None:
        """A source goes on with `first`, whatever was delivered before it.

        Announces what may be missing in between: as pending where it is `fillable`, else for good.
        """
        after = self.position
        if after is None:
            self.begin(first.plus(-1))
            past = Hole(first.beginning, first, "history_trimmed")
            self._past = past if fillable else None
            self._sink([Gap(past.after, past.before, past.reason, pending=fillable)])
        elif self.missing(after, first) != 0:
            if fillable:
                self._open(Hole(after, first, reason))
            else:
                self._announce(Gap(after, first, reason))
                self._give_up(after, first)
            self.position = first.plus(-1)

    def remember(self, floor: Position, events: Sequence[Event]) -> None:
        """What lies before the beginning is known now: nothing before `floor`, and everything after it."""
        past, self._past = self._past, None
        if past is not None:
            self._sink([Past(floor, (past.after, past.before), tuple(events))])

    def offer(self, batch: Sequence[Event], origin: Origin | None = None) -> None:
        """Deliver those of these events that are new; what is older than something delivered goes as late."""
        if not batch:
            return
        first, last, count = batch[0].position, batch[-1].position, len(batch)
        newest = self._ledger.newest(first.term)
        unbroken = last.seq - first.seq == count - 1 and last.term == first.term
        if self._holes or self.beside or not unbroken or (newest is not None and first <= newest):
            self._offer_beside(batch, origin)
            return
        self._ledger.claim_run(first, count)  # all of it is newer than anything that was claimed
        self.position = last
        self._sink_events(batch, origin)

    def publish(self, event: Published) -> None:
        """Hand on what an application has published, after all before. It is not kept, and nobody misses it."""
        self._sink([event])

    def passed(self, position: Position) -> None:
        """A position that holds nothing for clients, such as a session's marker.

        One that is read once more leads nowhere: delivery may stand at something newer that it is not related to.
        """
        if self._ledger.claim(position):
            self._move_to(position)

    def knows(self, position: Position) -> bool:
        """Whether this position was delivered, passed or given up."""
        return position in self._ledger

    def missing(self, after: Position, before: Position) -> int | None:
        """How many positions between these two, both excluded, nobody brought; None where that cannot be known."""
        low = self.timeline.convert(after, before.term)
        if low is None:
            return None
        return self._ledger.count_missing(low, before)

    def newest(self, term: int) -> Position | None:
        """The newest position that was delivered, in the numbering of `term`."""
        return self._ledger.newest(term)

    def unrelated(self, term: int) -> list[int]:
        """Terms heard beside the log that are not related to its term."""
        return [other for other in self.beside if self.timeline.convert(Position(other, 0), term) is None]

    def open_beside(self) -> None:
        """The log is not live: a source beside it begins."""
        self.beside_open = True

    def close_beside(self) -> None:
        """Whatever source there was beside the log is over."""
        self.beside_open = False
        self.beside.clear()

    def joined(self) -> None:
        """The log has caught up with everything heard beside it: that source is over, and the holes are settled."""
        self.close_beside()
        self.settle()

    def settle(self) -> None:
        """End every hole: filled where nothing is missing any more, else with a final gap."""
        past, self._past = self._past, None
        if past is not None:
            self._sink([Gap(past.after, past.before, past.reason)])
        holes, self._holes = self._holes, []
        for hole in holes:
            if self.missing(hole.after, hole.before) == 0:
                self._sink([Filled(hole.after, hole.before)])
            else:
                self._announce(Gap(hole.after, hole.before, hole.reason))
                self._give_up(hole.after, hole.before)

    def _sink_events(self, fresh: Sequence[Event], origin: Origin | None) -> None:
        """Give them to the sink, and say how long that took since the first of them came into this process."""
        self._sink(fresh)
        arrived = self._arrivals.at(fresh[0].position) if self._arrivals is not None else None
        if arrived is not None:
            self._metrics.latency.observe("received_to_delivered", arrived)
        elif origin is not None:
            self._metrics.latency.observe(origin.leg, origin.at)

    def _offer_beside(self, batch: Sequence[Event], origin: Origin | None) -> None:
        fresh: list[Event] = []
        for event in batch:
            late = self._is_late(event.position)
            if not self._ledger.claim(event.position):
                continue
            if late:
                fresh.append(events.late(event, self._hole_of(event.position)))
            else:
                fresh.append(event)
                self._move_to(event.position)
        if fresh:
            self._sink_events(fresh, origin)

    def _is_late(self, position: Position) -> bool:
        """Whether something newer was delivered.

        The log's terms come in order: one that is not related to what was heard beside the log came before it.
        """
        if self.beside and self.position is not None and self.timeline.convert(self.position, position.term) is None:
            return True
        newest = self._ledger.newest(position.term)
        return newest is not None and position < newest

    def _hole_of(self, position: Position) -> tuple[Position, Position] | None:
        for hole in self._holes:
            low = self.timeline.convert(hole.after, position.term)
            high = self.timeline.convert(hole.before, position.term)
            known = [bound for bound in (low, high) if bound is not None]
            if known and (low is None or low < position) and (high is None or position < high):
                return hole.after, hole.before
        return None

    def _move_to(self, position: Position) -> None:
        """Delivery stands here now, unless it stands at something newer, or that this cannot be compared with."""
        stands = self.timeline.convert(self.position, position.term) if self.position is not None else position
        if (stands is None and not self.beside) or (stands is not None and position >= stands):
            self.position = position

    def _open(self, hole: Hole) -> None:
        between = (hole.after, hole.before, hole.reason)
        log.info("Notifications between %s and %s may come late (%s)", *between, extra=_gap_fields(*between))
        self._holes.append(hole)
        self._sink([Gap(hole.after, hole.before, hole.reason, pending=True)])
        if len(self._holes) > MAX_HOLES:
            oldest = self._holes.pop(0)
            self._announce(Gap(oldest.after, oldest.before, oldest.reason))
            self._give_up(oldest.after, oldest.before)

    def _announce(self, gap: Gap) -> None:
        between = (gap.after, gap.before, gap.reason)
        log.warning("Gap: notifications between %s and %s may be missing (%s)", *between, extra=_gap_fields(*between))
        self._metrics.gaps.labels(gap.reason, "process").inc()
        self.recent_gaps.append(AnnouncedGap(time.time(), gap))
        self._sink([gap])

    def _give_up(self, after: Position, before: Position) -> None:
        """What was announced as lost is never delivered, and never announced again."""
        low = self.timeline.convert(after, before.term)
        if low is not None and low.plus(1) < before:
            self._ledger.claim_between(low.plus(1), before.plus(-1))


def _gap_fields(after: Position | None, before: Position | None, reason: GapReason) -> dict[str, object]:
    return fields(after=after and str(after), before=before and str(before), reason=reason)
