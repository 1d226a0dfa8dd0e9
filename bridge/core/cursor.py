"""What a client gives to go on where it was: the last event that was not late, and the gaps that are still open.

A cursor says exactly what its client has: everything through `position` but for the open gaps, and of each of these the
runs of late events that have come. So any worker can tell what a client lacks, and a resumed client gets each event
once. To clients a cursor is opaque, and safe in a URL.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from bridge.core.position import Position, Timeline

MAX_OPEN_GAPS = 24
"""Open gaps in one cursor: it must fit into the head of a request."""
MAX_RUNS = 12
"""Runs in one gap that a cursor tells apart; of more, the oldest are forgotten, and their events may come again."""

_SUB = re.compile(r"[0-9a-f]{8}")


class Run(NamedTuple):
    """Everything after the one position and through the other one."""

    after: Position
    last: Position


@dataclass(frozen=True, slots=True)
class OpenGap:
    """A gap that may still be filled, but for the runs of late events that have come."""

    after: Position
    before: Position
    runs: tuple[Run, ...] = ()
    sub: str | None = None
    """The digest of the only subscription it concerns (see `sub_digest`); None: all of the client's."""

    @property
    def bounds(self) -> tuple[Position, Position]:
        return self.after, self.before

    def advanced(self, late: Position, timeline: Timeline, *, begins: bool = False) -> "OpenGap":
        """The same, when this late event has come too. It continues the run that is next before it, because late events
        come in order, unless it `begins` one: nobody knows what may still come before it."""
        best: tuple[Position, int] | None = None
        for index, run in enumerate(() if begins else self.runs):
            end = timeline.convert(run.last, late.term)
            if end is not None and end < late and (best is None or end > best[0]):
                best = end, index
        if best is None:
            return replace(self, runs=(*self.runs[1 - MAX_RUNS :], Run(late.plus(-1), late)))
        runs = list(self.runs)
        runs[best[1]] = runs[best[1]]._replace(last=late)
        return replace(self, runs=tuple(runs))

    def has(self, late: Position, timeline: Timeline) -> bool:
        """Whether this position lies in a run."""
        for run in self.runs:
            after, last = timeline.convert(run.after, late.term), timeline.convert(run.last, late.term)
            if after is not None and last is not None and after < late <= last:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything through `position`, but for what lies in the open gaps."""

    position: Position
    open_gaps: tuple[OpenGap, ...] = ()

    def __str__(self) -> str:
        """``POSITION[~AFTER_BEFORE[_RUN.….RUN[_SUB]]]…``, where a run is ``AFTER.LAST``."""
        return "~".join([str(self.position), *map(_gap_text, self.open_gaps)])

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """The cursor of this text, also of a bare id. Raises ValueError for anything else."""
        position, *gaps = text.split("~", MAX_OPEN_GAPS)
        return cls(Position.parse(position), tuple(map(_parse_gap, gaps)))


def sub_digest(name: str | None) -> str:
    """Eight hex digits for the name of a subscription."""
    return hashlib.sha256((name or "").encode(errors="surrogatepass")).hexdigest()[:8]


def _gap_text(gap: OpenGap) -> str:
    parts = [str(gap.after), str(gap.before), ".".join(str(bound) for run in gap.runs for bound in run), gap.sub or ""]
    return "_".join(parts).rstrip("_")


def _parse_gap(text: str) -> OpenGap:
    after, before, *rest = text.split("_", 3)
    bounds = [Position.parse(bound) for bound in rest[0].split(".", 2 * MAX_RUNS)] if rest and rest[0] else []
    sub = rest[1] if len(rest) == 2 else ""
    if len(bounds) % 2:
        raise ValueError(f"not a row of runs: {len(bounds)} bounds")
    if sub and not _SUB.fullmatch(sub):
        raise ValueError(f"not a subscription's digest: {sub!r}")
    return OpenGap(
        Position.parse(after),
        Position.parse(before),
        tuple(map(Run, bounds[::2], bounds[1::2])),
        sub or None,
    )
