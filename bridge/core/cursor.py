"""What a client gives to go on where it was: the last event that was not late, and the gaps that are still open.

A cursor says exactly what its client has: everything through `position` but for the open gaps, and of each of these
everything through its last late event, because late events of a gap come in order. So any worker can tell what is
missing, and a resumed client gets each event once. To clients a cursor is opaque, and safe in a URL.
"""

import hashlib
import re
from dataclasses import dataclass

from bridge.core.position import Position

MAX_OPEN_GAPS = 24
"""Open gaps in one cursor: it must fit into the head of a request."""

_SUB = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class OpenGap:
    """A gap that may still be filled; late events through `through` have come (None: none yet)."""

    after: Position
    before: Position
    through: Position | None = None
    sub: str | None = None
    """The digest of the only subscription it concerns (see `sub_digest`); None: all of the client's."""

    @property
    def low(self) -> Position:
        """What comes after this position is missing."""
        return self.through or self.after


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything through `position`, but for what lies in the open gaps."""

    position: Position
    open_gaps: tuple[OpenGap, ...] = ()

    def __str__(self) -> str:
        """``POSITION[~AFTER_BEFORE[_THROUGH[_SUB]]]…``"""
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
    through = str(gap.through) if gap.through else ""
    parts = [str(gap.after), str(gap.before), through, gap.sub or ""]
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
        Position.parse(through) if through else None,
        sub or None,
    )
