"""What is lost for one client: what it has missed while it lagged, and how it is told.

One gap for what came in order, and one for each open gap of which it missed something: nothing fills these for it any
more. The connection may end between two of them. So the first cursor already says where the client stands after all,
but shows each open gap that was not ended by then as it was before anything of it was missed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from bridge.core.cursor import Cursor, OpenGap
from bridge.core.events import Gap, GapReason
from bridge.core.history import Bounds
from bridge.core.position import Position
from bridge.hub.client import Chunk, Client
from bridge.hub.encoding import gap_message

if TYPE_CHECKING:
    from bridge.hub.hub import Hub

REASON: Final[GapReason] = "slow_client"

IsBefore = Callable[[Position, Position], bool | None]
"""Whether one position comes before another one; None where they are not related."""


class Missed:
    """What one client has missed so far."""

    __slots__ = ("_goes_back", "_is_before", "_opened", "after", "gaps", "moves")

    def __init__(self, is_before: IsBefore, gaps: Iterable[OpenGap] = ()) -> None:
        self.moves = False
        """Whether anything was missed that may move the client."""
        self.after: Position | None = None
        """If so, where it stood before that; None where nobody knows."""
        self.gaps: dict[tuple[Bounds, str | None], OpenGap] = {}
        """The open gaps of which something was missed, as they were before; by what a client tells them apart by."""
        self._is_before = is_before
        self._goes_back = False
        self._opened: set[tuple[Bounds, str | None]] = set()
        """Those of which the client has not heard."""
        for gap in gaps:
            self._open(gap)

    def add(self, chunk: Chunk) -> None:
        """This was missed too, after everything else."""
        if chunk.before is not None:
            self._begin(chunk.before, goes_back=chunk.goes_back)
        known = len(chunk.gaps) - chunk.opens
        for index, gap in enumerate(chunk.gaps):
            self._open(gap, is_new=index >= known)
        if chunk.missed is not None:
            self.follow(chunk.missed)

    def add_rest(self, chunk: Chunk, had: Cursor) -> None:
        """What follows this cursor of a chunk was missed too, after everything else."""
        if chunk.before is not None:
            self._begin(had.position, goes_back=chunk.goes_back)
        open_gaps = {(gap.bounds, gap.sub): gap for gap in had.open_gaps}
        known = len(chunk.gaps) - chunk.opens
        for index, gap in enumerate(chunk.gaps):
            then = open_gaps.get((gap.bounds, gap.sub))
            if then is not None or index >= known:  # else it has ended before
                self._open(then or gap, is_new=then is None)

    def follow(self, later: "Missed") -> None:
        """All of this was missed too, after everything else."""
        if later.moves:
            self._begin(later.after, goes_back=later._goes_back)
        for key, gap in later.gaps.items():
            self._open(gap, is_new=key in later._opened)

    @classmethod
    def since(cls, after: Position | None, is_before: IsBefore) -> "Missed":
        """Everything after this position of the client's own, in order."""
        missed = cls(is_before)
        missed._begin(after, goes_back=True)
        return missed

    def ends(self, bounds: Bounds) -> "Missed":
        """The part of it that is one open gap."""
        return Missed(self._is_before, (gap for gap in self.gaps.values() if gap.bounds == bounds))

    def moved(self) -> "Missed":
        """The part of it that came in order."""
        part = Missed(self._is_before, (gap for gap in self.gaps.values() if self.covers(gap)))
        part._opened = self._opened.intersection(part.gaps)
        part.moves, part.after, part._goes_back = self.moves, self.after, self._goes_back
        return part

    def covers(self, gap: OpenGap) -> bool:
        """Whether the whole gap is newer than where the client stood: it has not heard of it, or comes before it."""
        if (gap.bounds, gap.sub) in self._opened:
            return True
        after = self.after
        return after is not None and (after == gap.after or self._is_before(after, gap.after) is True)

    def _begin(self, before: Position | None, *, goes_back: bool) -> None:
        if not self.moves:
            self.after = before
        elif goes_back and self.after is not None:
            is_earlier = None if before is None else self._is_before(before, self.after)
            if is_earlier is not False:
                self.after = before if is_earlier else None
        self.moves = True
        self._goes_back = self._goes_back or goes_back

    def _open(self, gap: OpenGap, *, is_new: bool = False) -> None:
        key = gap.bounds, gap.sub
        if key not in self.gaps:
            self.gaps[key] = gap
            if is_new:
                self._opened.add(key)


def tell_missed(hub: "Hub", client: Client, missed: Missed) -> None:
    """Tell a client what it missed: it lacks none of that any more."""
    member, here = hub.members.find(client), hub.position
    if member is None or here is None:
        return
    ended = {bounds for bounds, _ in missed.gaps}
    open_gaps = hub.members.end_lacks(client, ended, REASON)
    position = until = here
    wish = member.next_wish[1] if member.next_wish is not None and not member.heard else None
    if wish is not None and wish.cursor is not None:  # it is being replayed what it lacks, in order
        position = wish.cursor.position
        if missed.after is not None and hub.is_before(missed.after, position):
            until = position
        open_gaps = tuple(gap for gap in wish.cursor.open_gaps if gap.bounds not in ended)
        wish.cursor = Cursor(position, open_gaps)
    lost = [gap for gap in missed.gaps.values() if not missed.covers(gap)]

    def tell(gap: Gap, part: Missed) -> None:
        untold = {(one.bounds, one.sub) for one in lost}
        left = (one for one in open_gaps if (one.bounds, one.sub) not in untold)
        hub.fanout.say_lost(client, gap_message(gap, Cursor(position, (*lost, *left))), part)

    if missed.moves and missed.after != until:
        tell(Gap(missed.after, until.plus(1), REASON), missed.moved())
    while lost:
        after, before = bounds = lost[0].bounds
        lost = [gap for gap in lost if gap.bounds != bounds]
        tell(Gap(after, before, REASON), missed.ends(bounds))


def tell_lost(hub: "Hub", client: Client, lost: Sequence[OpenGap], last: Gap, base: Cursor, end: Cursor) -> None:
    """Final gaps for these open ones, and then the `last` one, to a client that stands at `base` but for what is lost.

    It stands at `end` after all of it. Each cursor says what has been told by then.
    """
    reason: GapReason = "failover" if last.reason == "history_trimmed" else last.reason
    for index, gap in enumerate(lost):
        cursor = Cursor(base.position, (*lost[index + 1 :], *base.open_gaps))
        hub.fanout.say_lost(client, gap_message(Gap(*gap.bounds, reason), cursor), Missed(hub.is_before, (gap,)))
    hub.fanout.say_lost(client, gap_message(last, end), Missed.since(last.after, hub.is_before))
