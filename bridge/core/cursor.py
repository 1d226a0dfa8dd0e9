"""What a client gives to go on where it was: the last event that was not late, and the gaps that are still open.

A cursor says exactly what its client has: everything through `position` but for the open gaps, and of each of these
the late events through the last one. They come in order; where the log breaks within the gap, nobody knows what is
missing at the break, so there is a last one on either side. So any worker can tell what a client lacks, and a resumed
client gets each event once. To clients a cursor is opaque, and safe in a URL.
"""

import hashlib
import re
from dataclasses import dataclass, replace

from bridge.core.position import Position, Timeline

MAX_OPEN_GAPS = 24
"""Open gaps in one cursor: it must fit into the head of a request."""
MAX_THROUGH = 8
"""Breaks in one gap that a cursor tells apart: restarts of PostgreSQL while Redis was away."""

_SUB = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class OpenGap:
    """A gap that may still be filled. Late events that are related to one of `through` have come through that one."""

    after: Position
    before: Position
    through: tuple[Position, ...] = ()
    sub: str | None = None
    """The digest of the only subscription it concerns (see `sub_digest`); None: all of the client's."""

    @property
    def bounds(self) -> tuple[Position, Position]:
        return self.after, self.before

    def advanced(self, late: Position, timeline: Timeline) -> "OpenGap":
        """The same, when this late event has come too."""
        others = [one for one in self.through if timeline.convert(one, late.term) is None]
        return replace(self, through=(*others[1 - MAX_THROUGH :], late))


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything through `position`, but for what lies in the open gaps."""

    position: Position
    open_gaps: tuple[OpenGap, ...] = ()

    def __str__(self) -> str:
        """``POSITION[~AFTER_BEFORE[_THROUGH.….THROUGH[_SUB]]]…``"""
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
    parts = [str(gap.after), str(gap.before), ".".join(map(str, gap.through)), gap.sub or ""]
    return "_".join(parts).rstrip("_")


def _parse_gap(text: str) -> OpenGap:
    after, before, *rest = text.split("_", 3)
    through = rest[0] if rest else ""
    sub = rest[1] if len(rest) == 2 else ""
    if sub and not _SUB.fullmatch(sub):
        raise ValueError(f"not a subscription's digest: {sub!r}")
    return OpenGap(
        Position.parse(after),
        Position.parse(before),
        tuple(map(Position.parse, through.split(".", MAX_THROUGH))) if through else (),
        sub or None,
    )
