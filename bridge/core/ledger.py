"""What has been delivered already, over all numberings, as intervals.

The ledger is what makes overlapping sources harmless: whoever brings a notification, `claim` says whether it is new.
It costs constant memory for a contiguous stream, however long, and one interval more for every hole.
"""

from bisect import bisect_right
from collections.abc import Iterable

from bridge.core.position import Position, Timeline

MAX_SPANS = 4096
"""Intervals kept for one component. Past that the oldest hole is given up and counts as delivered."""

_BEGINNING = -(2**63)

Spans = list[int]
"""Sorted, alternating bounds of half-open intervals: ``[lo, hi, lo, hi, …]``, with no two touching."""


class Ledger:
    """Which positions were claimed. Relations that the timeline learns later join what was claimed on both sides."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._version = timeline.version
        self._spans: dict[int, Spans] = {}

    def claim(self, position: Position) -> bool:
        """Take this position; True the first time, False if it was taken before (under whatever name)."""
        root = self._locate(position)
        spans = self._spans.setdefault(root.term, [])
        if spans and spans[-1] == root.seq:  # the common case: the next one of a contiguous stream
            spans[-1] += 1
            return True
        return _add(spans, root.seq, root.seq + 1) == 1

    def claim_run(self, first: Position, count: int) -> int:
        """Take this position and those that follow it, `count` in all; how many of them were not taken before."""
        root = self._locate(first)
        spans = self._spans.setdefault(root.term, [])
        if spans and spans[-1] == root.seq:
            spans[-1] += count
            return count
        return _add(spans, root.seq, root.seq + count)

    def claim_through(self, position: Position) -> None:
        """Take this position and everything before it in its component: nobody wants what is older."""
        root = self._locate(position)
        _add(self._spans.setdefault(root.term, []), _BEGINNING, root.seq + 1)

    def claim_between(self, first: Position, last: Position) -> None:
        """Take every position from `first` to `last`, both included, of one term: a loss that was announced."""
        low, high = self._locate(first), self._locate(last)
        _add(self._spans.setdefault(low.term, []), low.seq, high.seq + 1)

    def __contains__(self, position: Position) -> bool:
        root = self._locate(position)
        return bisect_right(self._spans.get(root.term, []), root.seq) % 2 == 1

    def missing(self, term: int) -> list[tuple[Position, Position]]:
        """The holes between claimed positions, oldest first, as (first, last) in the numbering of `term`."""
        root = self._locate(Position(term, 0))
        spans = self._spans.get(root.term, [])
        return [
            (Position(term, low - root.seq), Position(term, high - 1 - root.seq))
            for low, high in zip(spans[1:-1:2], spans[2::2], strict=True)
        ]

    def count_missing(self, after: Position, before: Position) -> int:
        """How many positions between these two of one term, both excluded, were not claimed."""
        low, high = self._locate(after).seq + 1, self._locate(before).seq
        spans = self._spans.get(self._locate(after).term, [])
        claimed = sum(max(0, min(b, high) - max(a, low)) for a, b in _pairs(spans))
        return max(0, high - low) - claimed

    def newest(self, term: int) -> Position | None:
        """The newest claimed position that is related to `term`, in its numbering.

        Anybody may ask, for any term: one that is not known is not remembered.
        """
        if term not in self._timeline:
            return None
        root = self._locate(Position(term, 0))
        spans = self._spans.get(root.term)
        return Position(term, spans[-1] - 1 - root.seq) if spans else None

    def _locate(self, position: Position) -> Position:
        timeline = self._timeline
        if position.term not in timeline:
            timeline.add(position.term)
        if self._version != timeline.version:
            self._rebase()
        return timeline.root(position)

    def _rebase(self) -> None:
        """Move the spans of terms that are no longer roots to their new roots, and drop the forgotten ones."""
        self._version = self._timeline.version
        for term in [t for t in self._spans if self._timeline.root(Position(t, 0)).term != t]:
            shift = self._timeline.root(Position(term, 0))
            target = self._spans.setdefault(shift.term, [])
            for low, high in _pairs(self._spans.pop(term)):
                _add(target, low if low == _BEGINNING else low + shift.seq, high + shift.seq)
        for term in [t for t in self._spans if t not in self._timeline]:
            del self._spans[term]


def _pairs(spans: Spans) -> Iterable[tuple[int, int]]:
    return zip(spans[::2], spans[1::2], strict=True)


def _add(spans: Spans, low: int, high: int) -> int:
    """Join [low, high) to the spans; how many of its positions were not in them (capped where it is unbounded)."""
    first = bisect_right(spans, low - 1)
    last = bisect_right(spans, high)
    if first % 2 == 0 and first == last:  # free on both sides
        spans[first:first] = [low, high]
        if len(spans) > 2 * MAX_SPANS:
            del spans[1:3]
        return high - low
    # An odd index lies inside a span (or touches its end): that span's own bound is the outer one.
    covered = sum(min(b, high) - max(a, low) for a, b in _pairs(spans[first - first % 2 : last + last % 2]))
    new_bounds = ([] if first % 2 else [low]) + ([] if last % 2 else [high])
    spans[first:last] = new_bounds
    return high - low - covered
