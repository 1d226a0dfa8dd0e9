"""What the listener heard, in order: history that is in the log already, then the backlog that is not.

Entries have an absolute index that never changes. A *segment* is an unbroken run of positions of one session; a new
session begins a new one, and between two segments something may be missing. The history is bounded by its length (it
is there to be appended again when Redis came back empty or behind), the backlog by its bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from bridge.core.events import Heard, Notification
from bridge.core.position import Position, Timeline

ENTRY_OVERHEAD_BYTES = 250
"""Memory of an entry beside its payload: two structs, a position, two integers, and its place in the list."""


@dataclass(slots=True)
class Segment:
    """Positions ``(term, first_seq) …`` at the indexes ``start … end - 1``."""

    term: int
    first_seq: int
    start: int
    end: int

    @property
    def first(self) -> Position:
        return Position(self.term, self.first_seq)

    @property
    def last(self) -> Position:
        return Position(self.term, self.first_seq + self.end - self.start - 1)


class Tape:
    """History and backlog of one listener. Only the listener extends it; the publisher moves `written`."""

    def __init__(self, history_entries: int, backlog_bytes: int) -> None:
        self.segments: list[Segment] = []
        self.end = 0
        """Index after the newest entry."""
        self.written = 0
        """Index of the backlog's first entry: everything before it is in the log, as far as is known."""
        self.published = 0
        """Index up to which entries have been in the log at some time, and so need not be published again."""
        self.backlog_bytes = 0
        self._history_entries = history_entries
        self._limit_bytes = backlog_bytes
        self._entries: list[Heard] = []
        self._start = 0
        self._grown = anyio.Event()
        self._room = anyio.Event()

    @property
    def start(self) -> int:
        """Index of the oldest entry still here."""
        return self._start

    @property
    def last(self) -> Position | None:
        """Position of the newest entry."""
        return self.segments[-1].last if self.segments else None

    @property
    def full(self) -> bool:
        return self.backlog_bytes >= self._limit_bytes

    def extend(self, heard: Sequence[Heard]) -> None:
        """Add what a session heard. A position that does not follow the last one begins a new segment."""
        if not heard:
            return
        first = heard[0].position
        segment = self.segments[-1] if self.segments else None
        if segment is None or segment.last.plus(1) != first:
            segment = Segment(first.term, first.seq, self.end, self.end)
            self.segments.append(segment)
        self._entries.extend(heard)
        self.end += len(heard)
        segment.end = self.end
        self.backlog_bytes += sum(map(size_bytes, heard))
        self._grown.set()

    def read(self, index: int, count: int) -> Sequence[Heard]:
        """At most `count` entries from this index on; none past the end. The index must not lie before `start`."""
        offset = index - self._start
        if offset < 0:
            raise IndexError(f"entry {index} has left the tape, which begins at {self._start}")
        return self._entries[offset : offset + count]

    def run(self, index: int, count: int) -> Sequence[Heard]:
        """At most `count` entries from this index on, all of one segment."""
        end = next((segment.end for segment in self.segments if segment.start <= index < segment.end), index)
        return self.read(index, min(count, end - index))

    def mark_written(self, index: int) -> None:
        """Everything before this index is in the log; history beyond its bound is dropped.

        An index before `written` makes history backlog again: the log has lost it.
        """
        index = min(max(index, self._start), self.end)
        if index == self.written:
            return
        if index > self.written:
            self.backlog_bytes -= sum(map(size_bytes, self.read(self.written, index - self.written)))
        else:
            self.backlog_bytes += sum(map(size_bytes, self.read(index, self.written - index)))
        self.written = index
        self.published = max(self.published, index)
        self._drop_history()
        if not self.full:
            self._room.set()

    def give_up(self) -> int:
        """Drop the newer half of the backlog, to stay within the bound; how many entries were dropped.

        What is heard next must not continue the dropped run: the caller begins a new session.
        """
        excess, at = self.backlog_bytes - self._limit_bytes // 2, self.end
        while excess > 0 and at > self.written:
            at -= 1
            size = size_bytes(self._entries[at - self._start])
            excess -= size
            self.backlog_bytes -= size
        dropped = self.end - at
        del self._entries[at - self._start :]
        self.end = at
        self.published = min(self.published, at)
        while self.segments and self.segments[-1].start >= at:
            self.segments.pop()
        if self.segments:
            self.segments[-1].end = at
        return dropped

    def after(self, position: Position, timeline: Timeline) -> int | None:
        """The index of the first entry here that is newer than this position; None where no segment is related."""
        for segment in reversed(self.segments):
            own = timeline.convert(position, segment.term)
            if own is not None:
                return segment.start + min(max(0, own.seq + 1 - segment.first_seq), segment.end - segment.start)
        return None

    def go_on(self, index: int, last: Position | None, timeline: Timeline) -> int:
        """Where to go on after the entry `last`: at `index`, unless a full backlog was cut and others have taken its
        place, or that entry has left the history."""
        cut = self.segments[-1].start if self.segments else self.end
        if last is not None and index > self._start and [one.position for one in self.read(index - 1, 1)] != [last]:
            after = self.after(last, timeline)
            return cut if after is None else after
        return cut if index > self.end else max(index, self._start)

    async def grown(self, index: int) -> None:
        """Wait until there is an entry at this index, or until `wake`. Cancelling is harmless."""
        if self.end <= index:
            if self._grown.is_set():
                self._grown = anyio.Event()
            await self._grown.wait()

    def wake(self) -> None:
        """Have those who wait for growth look again: something else has changed."""
        self._grown.set()

    async def room(self) -> None:
        """Wait until the backlog is below its bound. Cancelling is harmless."""
        while self.full:
            self._room = anyio.Event()
            await self._room.wait()

    def _drop_history(self) -> None:
        surplus = self.written - self._history_entries - self._start
        if surplus < max(1, self._history_entries // 4):  # deleting from a list's front is done rarely
            return
        del self._entries[:surplus]
        self._start += surplus
        while self.segments and self.segments[0].end <= self._start:
            self.segments.pop(0)
        if self.segments and self.segments[0].start < self._start:
            first = self.segments[0]
            first.first_seq += self._start - first.start
            first.start = self._start


def size_bytes(heard: Heard) -> int:
    """What an entry costs in memory, roughly."""
    body = heard.body
    return ENTRY_OVERHEAD_BYTES + (len(body.payload) if isinstance(body, Notification) else 0)
