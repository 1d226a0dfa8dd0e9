"""Gaps that open and end while clients are here, and what each client lacks because of them.

A late event concerns only those who lack it; the end of a pending gap those who were told of it, or came with it.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from bridge.core.cursor import OpenGap
from bridge.core.events import Event, Gap, GapReason
from bridge.core.history import Bounds, History
from bridge.core.position import Position, Timeline
from bridge.hub.client import Client
from bridge.hub.encoding import end_message, event_message, gap_message
from bridge.hub.fanout import Fanout
from bridge.hub.lack import Lack

MAX_KNOWN = 1000


class Gaps:
    """The pending gaps of a hub."""

    def __init__(self, fanout: Fanout, timeline: Timeline, history: History) -> None:
        self._fanout = fanout
        self._members = fanout.members
        self._timeline = timeline
        self._history = history
        self._pending: set[Bounds] = set()
        self._known: dict[tuple[OpenGap, frozenset[Bounds]], Lack] = {}
        """What clients lacked when they came, to be found by those who come with the same; it may have changed."""

    def pending_before(self, before: Position) -> frozenset[Bounds]:
        """The gap that ends there, if it may still be filled."""
        return frozenset(bounds for bounds in self._pending if bounds[1] == before)

    def shared(self, lack: Lack) -> Lack:
        """The same for all who lack the same: what is delivered is encoded once for each, not once for each client."""
        if lack.replaying:
            return lack
        known = self._known.get((lack.gap, frozenset(lack.ties)))
        if known is not None and (known.gap, known.ties, known.lost) == (lack.gap, lack.ties, lack.lost):
            return known
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[lack.gap, frozenset(lack.ties)] = lack
        return lack

    def late(self, event: Event) -> None:
        """Tell a late event to those who lack it. A replay that is under way does not bring it again."""
        wanted = [client for group in self._members.match(event) for client in group.clients]
        said: dict[Lack, OpenGap] = {}
        told: list[Client] = []
        known: dict[Lack, bool] = {}
        for client in wanted:
            lacks = []
            replaying = []
            for lack in self._members.lacking.get(client, ()):
                if lack.replaying:
                    replaying.append(lack)
                    continue
                if lack not in known:
                    known[lack] = self._lies_in(event, lack)
                if known[lack] and self._members.wants(client, event, lack.gap):
                    lacks.append(lack)
            if lacks or self._was_owed(client, event):
                touched = [*lacks, *(lack for lack in replaying if self.is_lacking(event, lack.gap))]
                said.update((lack, lack.gap) for lack in touched)
                told.append(client)
                self.mark(event, replaying)
        for lack in said:
            if not lack.replaying:
                lack.gap = lack.gap.advanced(event.position, self._timeline)
        for mine, cohort in self._members.cohorts(told).items():
            gaps = tuple(said[lack] for lack in mine if lack in said)
            self._fanout.tell(cohort, lambda cursor: event_message(event, cursor), gaps, events=1)

    def mark(self, event: Event, lacks: Iterable[Lack]) -> None:
        """An event came to a client that lacks these, and to no other one: they need not bring it."""
        for lack in lacks:
            if self.is_lacking(event, lack.gap):
                lack.gap = lack.gap.advanced(event.position, self._timeline, begins=True)

    def _lies_in(self, event: Event, lack: Lack) -> bool:
        """Whether this late event is one that was lacking."""
        if event.hole is not None and event.hole not in lack.ties:
            return False
        return self.is_lacking(event, lack.gap)

    def is_lacking(self, event: Event, gap: OpenGap) -> bool:
        """Whether this event is one that a client with this open gap lacks."""
        position, timeline = event.position, self._timeline
        spans = gap.spans(position, timeline)
        if spans is None:
            spans = self._history.lies_in(position, gap)
        return spans and not gap.has(position, timeline) and not gap.was_had(event, timeline)

    def _was_owed(self, client: Client, event: Event) -> bool:
        """Whether a late event outside of the pending gaps, announced as lost, is newer than the subscription."""
        if event.hole is not None and event.hole in self._pending:
            return False
        since = self._members.get(client).since
        there = self._timeline.convert(since, event.position.term) if since is not None else None
        return there is not None and event.position > there

    def announce(self, gap: Gap) -> None:
        """A gap that opens behind all that was delivered, or the final one for a pending gap: it concerns everybody."""
        bounds = (gap.after, gap.before)
        if bounds in self._pending:
            self.settle(bounds, gap.reason)
            return
        before = self._fanout.position
        self._fanout.position = gap.passed or self._fanout.position
        clients = [client for group in self._members.groups.values() for client in group.clients]
        lack: tuple[Lack, ...] = ()
        if gap.pending and gap.after is not None and gap.before is not None:
            self._pending.add(bounds)
            lack = (self.shared(Lack(OpenGap(gap.after, gap.before), {bounds})),)
            for lacks, cohort in self._members.cohorts(clients).items():
                for client in cohort:
                    self._members.lack(client, (*lacks, *lack))
        said = tuple(one.gap for one in lack)
        self._fanout.tell(clients, lambda cursor: gap_message(gap, cursor), said, before)

    def settle(self, bounds: Bounds, lost: GapReason | None) -> None:
        """A pending gap has ended, filled or `lost`. Whoever lacks something in it is told, once all that it is tied to
        has ended."""
        self._pending.discard(bounds)
        self._known.clear()
        cohorts = self._members.cohorts(list(self._members.lacking))
        tied = {lack for lacks in cohorts for lack in lacks if bounds in lack.ties}
        for lack in tied:
            lack.ties.discard(bounds)
            lack.lost = lack.lost or lost
        for lacks, clients in cohorts.items():
            ended = [lack for lack in lacks if lack in tied and not lack.ties]
            told = {lack.gap.bounds: lack for lack in sorted(ended, key=lambda lack: lack.lost is not None)}
            left = lacks
            for lack in told.values():  # once for all subscriptions, whose cursor shows none of them any more
                same = tuple(one for one in ended if one.gap.bounds == lack.gap.bounds)
                left = tuple(one for one in left if one not in same)
                for client in clients:
                    self._members.lack(client, left)
                self._fanout.tell(clients, partial(end_message, lack), tuple(one.gap for one in same))
                if lost is None and (here := self._fanout.cursor_of(left)) is not None:
                    self._fanout.count_lost([end_message(lack, here)])  # else it is where it comes from, for all
            for lack in left:
                if lack.replaying and lack.gap.bounds in told:
                    lack.gap, lack.told = replace(lack.gap, silent=True), told[lack.gap.bounds].lost
