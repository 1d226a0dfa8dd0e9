"""What a client gives to go on where it was: the last event that was not late, and the gaps that are still open.

A cursor says exactly what its client has: everything through `position` but for the open gaps, and of each of these the
runs of late events that have come. So any worker can tell what a client lacks, and a resumed client gets each event
once. To clients a cursor is opaque, and safe in a URL.
"""

import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from bridge.core.events import Event
from bridge.core.position import Position, Timeline
from bridge.core.topics import Subscription, Where

MAX_OPEN_GAPS = 24
"""Open gaps in one cursor: it must fit into the head of a request."""
MAX_RUNS = 12
"""Runs in one gap that a cursor tells apart; of more, the oldest are forgotten, and their events may come again."""

MAX_HAD_BYTES = 1024
"""What one gap says of other subscriptions; of more, the rest is left out, and their events may come again."""

_SUB = re.compile(r"([0-9a-f]{8})(s?)")
_subscription = msgspec.json.Decoder(tuple[frozenset[str], Where])


class Run(NamedTuple):
    """Everything after the one position and through the other one."""

    after: Position
    last: Position


class Had(NamedTuple):
    """What came of an open gap because another subscription of the client wanted it: all that matches, in the runs."""

    runs: tuple[Run, ...]
    subscription: Subscription


@dataclass(frozen=True, slots=True)
class OpenGap:
    """A gap that may still be filled, but for the runs of late events that have come."""

    after: Position
    before: Position
    runs: tuple[Run, ...] = ()
    sub: str | None = None
    """The digest of the only subscription it concerns (see `sub_digest`), for which it stands in place of one of the
    same bounds that concerns all; None: all of the client's."""
    silent: bool = False
    """Whether only the cursor shows it, so that its end needs no word; only with `sub`."""
    had: tuple[Had, ...] = ()
    """Only with `sub`."""

    @property
    def bounds(self) -> tuple[Position, Position]:
        return self.after, self.before

    def advanced(self, late: Position, timeline: Timeline, *, begins: bool = False) -> "OpenGap":
        """The same, when this late event has come too. It continues the run that is next before it, because late events
        come in order, unless it `begins` one: nobody knows what may still come before it, if there is room.

        The run is in the numbering of the gap's beginning, where that is known: whoever can place the gap then knows
        what has come of it, also where nothing relates it to the session that brought the event."""
        there = timeline.convert(late, self.after.term)
        if there is not None and there > self.after:
            late = there
        best: tuple[Position, int] | None = None
        for index, run in enumerate(self.runs):
            end = timeline.convert(run.last, late.term)
            if end is None or end >= late or (begins and end != late.plus(-1)):
                continue
            if best is None or end > best[0]:
                best = end, index
        if best is None:
            return replace(self, runs=(*self.runs[1 - MAX_RUNS :], Run(late.plus(-1), late)))
        runs = list(self.runs)
        runs[best[1]] = runs[best[1]]._replace(last=late)
        return replace(self, runs=tuple(runs))

    def spans(self, position: Position, timeline: Timeline) -> bool | None:
        """Whether the position lies between the bounds, as far as it is related to them; None where to neither."""
        low, high = timeline.convert(self.after, position.term), timeline.convert(self.before, position.term)
        if low is None and high is None:
            return None
        return (low is None or low < position) and (high is None or position < high)

    def has(self, late: Position, timeline: Timeline) -> bool:
        """Whether this position lies in a run."""
        return in_runs(late, self.runs, timeline)

    def was_had(self, event: Event, timeline: Timeline) -> bool:
        """Whether another subscription has brought this event, which lies in the gap."""
        return any(in_runs(event.position, one.runs, timeline) and one.subscription.matches(event) for one in self.had)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything through `position`, but for what lies in the open gaps."""

    position: Position
    open_gaps: tuple[OpenGap, ...] = ()

    def __str__(self) -> str:
        """``POSITION[~AFTER_BEFORE[_RUN.….RUN[_SUB[s][_HAD!…!HAD]]]]…``: a run is ``AFTER.LAST``, ``s`` is for silent,
        and what was had ``RUN.….RUN:SUBSCRIPTION``, which is JSON in URL-safe base64."""
        return "~".join([str(self.position), *map(_gap_text, self.open_gaps)])

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """The cursor of this text, also of a bare id. Raises ValueError for anything else."""
        position, *gaps = text.split("~", MAX_OPEN_GAPS)
        return cls(Position.parse(position), tuple(map(_parse_gap, gaps)))


def sub_digest(name: str | None) -> str:
    """Eight hex digits for the name of a subscription; None is that of the URL, and no name gives the same."""
    text = b"" if name is None else name.encode(errors="surrogatepass") or b"\xff"
    return hashlib.sha256(text).hexdigest()[:8]


def concerning(gaps: Sequence[OpenGap], name: str | None) -> list[OpenGap]:
    """Those of these open gaps that concern the subscription of this name."""
    digest = sub_digest(name)
    own = {gap.bounds for gap in gaps if gap.sub == digest}
    return [gap for gap in gaps if gap.sub == digest or (gap.sub is None and gap.bounds not in own)]


def in_runs(position: Position, runs: tuple[Run, ...], timeline: Timeline) -> bool:
    """Whether the position lies in one of these runs."""
    for run in runs:
        after, last = timeline.convert(run.after, position.term), timeline.convert(run.last, position.term)
        if after is not None and last is not None and after < position <= last:
            return True
    return False


def fitting(had: list[Had]) -> tuple[Had, ...]:
    """As many of these as fit into one gap of a cursor."""
    size = 0
    taken = []
    for one in had:
        size += len(_had_text(one)) + 1
        if size <= MAX_HAD_BYTES:
            taken.append(one)
    return tuple(taken)


def _gap_text(gap: OpenGap) -> str:
    sub = f"{gap.sub}s" if gap.sub and gap.silent else gap.sub or ""
    parts = [str(gap.after), str(gap.before), _runs_text(gap.runs), sub, "!".join(map(_had_text, gap.had))]
    while not parts[-1]:
        parts.pop()
    return "_".join(parts)


def _runs_text(runs: tuple[Run, ...]) -> str:
    return ".".join(str(bound) for run in runs for bound in run)


def _had_text(had: Had) -> str:
    channels, where = had.subscription.channels, had.subscription.where
    coded = urlsafe_b64encode(msgspec.json.encode((sorted(channels), where))).rstrip(b"=")
    return f"{_runs_text(had.runs)}:{coded.decode()}"


def _parse_gap(text: str) -> OpenGap:
    after, before, *rest = text.split("_", 4)
    runs, sub, had = (*rest, "", "", "")[:3]
    who = _SUB.fullmatch(sub)
    if (sub or had) and who is None:
        raise ValueError(f"not a subscription's digest: {sub!r}")
    if len(had) > MAX_HAD_BYTES:
        raise ValueError(f"not what a subscription brought: {len(had)} characters")
    return OpenGap(
        Position.parse(after),
        Position.parse(before),
        _parse_runs(runs),
        who[1] if who else None,
        bool(who and who[2]),
        tuple(map(_parse_had, had.split("!"))) if had else (),
    )


def _parse_runs(text: str) -> tuple[Run, ...]:
    bounds = [Position.parse(bound) for bound in text.split(".")] if text else []
    if len(bounds) % 2 or len(bounds) > 2 * MAX_RUNS:
        raise ValueError(f"not a row of runs: {len(bounds)} bounds")
    return tuple(map(Run, bounds[::2], bounds[1::2]))


def _parse_had(text: str) -> Had:
    runs, _, coded = text.partition(":")
    try:
        channels, where = _subscription.decode(urlsafe_b64decode(coded + "=" * (-len(coded) % 4)))
    except msgspec.DecodeError as error:
        raise ValueError(f"not a subscription: {error}") from error
    return Had(_parse_runs(runs), Subscription(channels, where))
