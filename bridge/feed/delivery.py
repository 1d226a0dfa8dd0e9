"""The last step of every source: what was delivered already is dropped, everything else goes to the sink in order."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bridge.core.events import Event, Filled, Gap, GapReason
from bridge.core.ledger import Ledger
from bridge.core.position import Position, Timeline
from bridge.telemetry import Metrics, log

Item = Event | Gap | Filled
Sink = Callable[[Sequence[Item]], None]

RECENT = 20
"""Gaps and changes of mode that /status still shows."""


@dataclass(frozen=True)
class AnnouncedGap:
    """A gap that clients were told of, and when (seconds since 1970)."""

    at: float
    gap: Gap


class Delivery:
    """Where sources put what they have. One for a process, over all sources that it ever had."""

    def __init__(self, sink: Sink, metrics: Metrics) -> None:
        self.timeline = Timeline()
        self.position: Position | None = None
        """The newest position delivered or passed, in the numbering of the source that brought it."""
        self.recent_gaps: deque[AnnouncedGap] = deque(maxlen=RECENT)
        self._ledger = Ledger(self.timeline)
        self._sink = sink
        self._metrics = metrics

    def begin(self, position: Position) -> None:
        """Nobody wants what is not newer than this: a source starts here."""
        self._ledger.claim_through(position)
        self.position = position

    def events(self, events: Sequence[Event]) -> None:
        """Deliver those of these events that are new."""
        claim = self._ledger.claim
        fresh = [event for event in events if claim(event.position)]
        if not fresh:
            return
        self.position = fresh[-1].position
        self._sink(fresh)

    def passed(self, position: Position) -> None:
        """A position that holds nothing for clients, such as a session's marker."""
        self._ledger.claim(position)
        self.position = position

    def gap(self, after: Position | None, before: Position | None, reason: GapReason) -> None:
        """Tell every client that something may be missing between these positions, for good."""
        log.warning("Gap: notifications between %s and %s may be missing (%s)", after, before, reason)
        self._metrics.gaps.labels(reason).inc()
        gap = Gap(after, before, reason)
        self.recent_gaps.append(AnnouncedGap(time.time(), gap))
        self._sink([gap])
