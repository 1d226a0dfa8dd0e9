"""Where the tape stands against the log: the pure decision behind every append.

The log keeps its numbering: whoever appends converts its own positions into the term of the log's tail. Only what
cannot be related to the tail, or does not follow it, starts a new term, and a new term in the log means a gap.
"""

from dataclasses import dataclass

from bridge.core.position import Position, Timeline
from bridge.relay.tape import Segment, Tape


@dataclass(frozen=True)
class Append:
    """The entries from `index` on go into the log at `at`: they follow its tail, and nothing is missing."""

    index: int
    at: Position


@dataclass(frozen=True)
class UpToDate:
    """The log holds everything on the tape."""


@dataclass(frozen=True)
class Break:
    """The entries from `index` on cannot follow the tail: appended at `at`, a new term of the log, they leave a gap."""

    index: int
    at: Position


@dataclass(frozen=True)
class Remark:
    """The entries cannot follow the tail, nor begin a term above the log's: the session has to mark itself again."""


Placement = Append | UpToDate | Break | Remark


def place(tape: Tape, timeline: Timeline, tail: Position | None, numbering: Position | None) -> Placement:
    """What to do when the log ends at `tail` (None: it is empty).

    `numbering` is the newest position that the log was ever seen to hold: an emptied log continues its numbers.
    """
    if not tape.segments:
        return UpToDate()
    if tail is None:
        return _begin(tape, timeline, numbering)
    want = tail.plus(1)
    newest = tape.segments[-1]
    for segment in reversed(tape.segments):
        own = timeline.convert(want, segment.term)
        if own is None or own.seq < segment.first_seq:
            continue
        if own.seq <= segment.last.seq:
            return Append(segment.start + own.seq - segment.first_seq, want)
        if segment is newest:
            return UpToDate()
        break  # the log holds all of this older segment, and what follows is not related to it
    return _new_term(tape, timeline, tail)


def _begin(tape: Tape, timeline: Timeline, numbering: Position | None) -> Placement:
    if numbering is not None:
        for segment in tape.segments:
            first = timeline.convert(segment.first, numbering.term)
            if first is None:
                continue
            skip = max(0, -first.seq)  # a stream's ids begin at seq 0, and the log may have begun after this segment
            if segment.start + skip < segment.end:
                return Append(segment.start + skip, first.plus(skip))
    for segment in tape.segments:
        if numbering is None or segment.term > numbering.term:
            return Append(segment.start, segment.first)
    return Remark()


def _new_term(tape: Tape, timeline: Timeline, tail: Position) -> Placement:
    """Begin a new term with the oldest entries that the log does not hold."""
    for segment in tape.segments:
        index = max(segment.start, tape.written)
        if index >= segment.end or _inside(segment, timeline, tail):
            continue
        if segment.term > tail.term:
            return Break(index, segment.first.plus(index - segment.start))
        if segment is tape.segments[-1]:
            return Remark()  # an older one of a lower term is part of the gap that the newest one leaves
    return UpToDate()


def _inside(segment: Segment, timeline: Timeline, tail: Position) -> bool:
    """Whether the log, ending at `tail`, holds all of this segment."""
    own = timeline.convert(tail, segment.term)
    return own is not None and own.seq >= segment.last.seq
