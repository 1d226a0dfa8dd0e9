"""What a further subscription of a client lacks after its cursor: the client hears others already, and cannot go back.

So it goes live first, and what it lacks comes late, in a gap of its own that only the cursor shows. An event comes once
to a client: what another subscription has brought is left out, also where the replay is interrupted, and another
process goes on with it. So a gap of its own says what came of it because of others.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from bridge.core import events
from bridge.core.cursor import Cursor, Had, OpenGap, Run, fitting, sub_digest
from bridge.core.events import Event, Gap
from bridge.core.history import Inside
from bridge.core.position import Position
from bridge.core.wire import position_json
from bridge.hub.client import Chunk, Client
from bridge.hub.encoding import Message, encode, end_message, event_message, gap_message
from bridge.hub.lack import Lack
from bridge.hub.members import Heard, Wish

if TYPE_CHECKING:
    from bridge.hub.hub import Hub


def merged(insides: Sequence[Inside]) -> Iterator[tuple[Event, dict[int, bool]]]:
    """What lies in any of these gaps, each once and in order; in which of them, as they may overlap, and whether it
    begins a run there."""
    rows = ([(one.place, at, one) for one in inside.found] for at, inside in enumerate(insides))
    for _, same in groupby(heapq.merge(*rows, key=itemgetter(0)), key=itemgetter(0)):
        found = list(same)
        yield found[0][2].event, {at: one.begins for _, at, one in found}


def _just_before(position: Position) -> Position:
    """Seq 0 is a session's own marker, and holds nothing."""
    return position.plus(-1) if position.seq else position


class LateReplay:
    """One subscription that is live, and what it lacks on its way."""

    def __init__(
        self, hub: "Hub", client: Client, name: str | None, wish: Wish, round_bytes: int, round_events: int
    ) -> None:
        self._hub = hub
        self._client = client
        self._name = name
        self._wish = wish
        self._round_bytes = round_bytes
        self._round_events = round_events
        self._lacks: tuple[Lack, ...] = ()

    def join(self, cursor: Cursor) -> None:
        """Go live; everything after this cursor is to come late."""
        hub, here = self._hub, self._hub.position
        gaps = list(cursor.open_gaps)
        there = hub.timeline.convert(cursor.position, here.term) if here is not None else None
        if here is not None and (there is None or there < here):
            gaps.append(OpenGap(cursor.position, here.plus(1), silent=True))
        self._lacks = tuple(self._own(gap) for gap in gaps)
        hub.join(self._client, self._name, self._lacks, cursor.position)

    def go_on(self) -> bool:
        """One round of what comes late; True if that was all."""
        hub, client, lacks = self._hub, self._client, self._lacks
        began = {lack: lack.gap for lack in hub.members.lacking.get(client, ()) if lack.replaying}
        insides = [hub.history.inside(lack.gap) for lack in lacks]
        frames: list[bytes] = []
        ends: list[Message] = []
        size = 0
        for looked, (event, inside) in enumerate(merged(insides), 1):
            new = self._is_new(event, [lacks[at].gap for at in inside])
            for at, begins in inside.items():
                lacks[at].gap = lacks[at].gap.advanced(event.position, hub.timeline, begins=begins)
            if new:
                hub.gaps.mark(event, (one for one in hub.members.lacking.get(client, ()) if one.replaying))
            cursor = hub.cursor(client)
            if cursor is not None and new:
                frames.append(encode(client.protocol, event_message(events.late(event, None), cursor)))
                size += len(frames[-1])
            if size > self._round_bytes or looked >= self._round_events:
                self._send(frames, [gap for lack, gap in began.items() if gap is not lack.gap])
                return False
        for lack, inside_it in zip(lacks, insides, strict=True):
            ends += self._end(lack, inside_it)
        said = [gap for lack, gap in began.items() if lack in lacks or gap is not lack.gap]
        self._send([*frames, *(encode(client.protocol, message) for message in ends)], said, ends)
        return True

    def _own(self, gap: OpenGap) -> Lack:
        """What is lacking in this gap, but for what others brought, and what they have told of its end."""
        silent, told = gap.silent, None
        had = list(gap.had)
        for name, other in self._others():
            if gap.bounds in other.wish.ended:
                silent, told = True, told or other.wish.ended[gap.bounds]
            if other.subscription.channels & self._wish.subscription.channels:
                runs = self._brought(gap, name, other)
                had += [Had(runs, other.subscription)] if runs else []
        own = replace(gap, sub=sub_digest(self._name), silent=silent, had=fitting(had))
        return Lack(own, set(), told=told, replaying=True)

    def _others(self) -> list[tuple[str | None, Heard]]:
        heard = self._hub.members.get(self._client).heard
        return [(name, other) for name, other in heard.items() if name != self._name]

    def _brought(self, gap: OpenGap, name: str | None, other: Heard) -> tuple[Run, ...]:
        """The runs in which another subscription has brought all that it wants of this gap."""
        begin, here = other.since, self._hub.position
        if begin is None or here is None:
            return ()
        runs: list[Run] = []
        inherited = gap.bounds in other.wish.gaps
        for lacking in self._hub.members.gaps_of(self._client, name):
            if lacking.bounds in other.wish.gaps:
                if lacking.bounds == gap.bounds:
                    runs += lacking.runs
                    inherited = False
            elif lacking.bounds not in other.older:
                runs += (*self._hub.history.runs(begin, lacking.after), *lacking.runs)
                begin = _just_before(lacking.before)
        if inherited:  # and it has ended since
            runs.append(Run(gap.after, _just_before(gap.before)))
        return (*runs, *self._hub.history.runs(begin, here))

    def _is_new(self, event: Event, gaps: Sequence[OpenGap]) -> bool:
        """Whether the subscription wants this event of these gaps, and no other one of the client has brought it."""
        if not self._wish.subscription.matches(event):
            return False
        if any(gap.was_had(event, self._hub.timeline) for gap in gaps):
            return False
        bounds = {gap.bounds for gap in gaps}
        return not any(
            other.subscription.matches(event)
            and other.since is not None
            and (bounds & other.wish.gaps or self._hub.history.follows(event.position, other.since))
            and not self._is_lacking(event, name)
            for name, other in self._others()
        )

    def _is_lacking(self, event: Event, name: str | None) -> bool:
        gaps = self._hub.members.gaps_of(self._client, name)
        return any(self._hub.gaps.is_lacking(event, gap) for gap in gaps)

    def _end(self, lack: Lack, inside: Inside) -> list[Message]:
        """A gap that was filled as far as the history goes: what becomes of it, and what its client is told."""
        hub, client, gap = self._hub, self._client, lack.gap
        lack.replaying = False
        left = [one for one in hub.members.lacking.get(client, ()) if one is not lack]
        same = [one for one in left if one.gap.bounds == gap.bounds and not one.replaying]
        common = next((one for one in same if one.gap.sub is None), None)
        if inside.rest == "pending" and lack.told is None:
            lack.gap, lack.ties = replace(gap, silent=False), set(inside.ties)
            if common is not None and not gap.had:
                both = Lack(replace(lack.gap, sub=None), set(common.ties), common.lost)
                hub.members.lack(client, tuple(hub.gaps.shared(both) if one is common else one for one in left))
            if same or not gap.silent:
                return []
            return self._told(lambda cursor: gap_message(Gap(*gap.bounds, "failover", pending=True), cursor))
        lack.lost = None if inside.rest == "filled" else "failover"
        elsewhere = any(gap.bounds in other.wish.ended for _, other in self._others())
        if lack.lost is not None or not gap.silent or elsewhere:
            self._wish.ended[gap.bounds] = lack.lost
        if lack.lost is not None:
            left = [one for one in left if one not in same]
        hub.members.lack(client, tuple(left))
        if (lack.lost and lack.told) or (lack.lost is None and (gap.silent or same or elsewhere)):
            return self._told(lambda cursor: Message(position_json(cursor), "position", str(cursor)))
        return self._told(lambda cursor: end_message(lack, cursor))

    def _told(self, message: Callable[[Cursor], Message]) -> list[Message]:
        cursor = self._hub.cursor(self._client)
        return [] if cursor is None else [message(cursor)]

    def _send(self, frames: list[bytes], gaps: Sequence[OpenGap], others: Sequence[Message] = ()) -> None:
        """Messages about these gaps of the client, as they were before; `others` among them are no events."""
        if frames:
            chunk = Chunk(b"".join(frames), None, tuple(gaps))
            self._hub.fanout.count_replay(len(frames) - len(others), others, chunk.size)
            self._client.write(chunk)
