"""How long notifications take: what is known exactly, because one clock saw both ends.

Clocks of two machines are not compared. So each process times its own part of the way, a *leg*, and says which it is.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import anyio

from bridge.core.position import Position, Timeline

Leg = Literal["received_to_delivered", "log_to_delivered", "received_to_appended"]
LEGS: Final[tuple[Leg, ...]] = get_args(Leg)

WINDOW_SECONDS = 60.0
MAX_SAMPLES = 4096
"""Of each leg, that /status keeps: where more came in the last minute, the newest."""
MAX_ARRIVALS = 4096


@dataclass(frozen=True)
class Quantiles:
    """Of one leg over the last minute, in milliseconds; None without samples."""

    leg: Leg
    p50_ms: float | None
    p99_ms: float | None
    samples: int


class Latency:
    """Observations, one a batch; each goes to a histogram too. Times are those of `anyio.current_time`."""

    def __init__(self, observers: Mapping[Leg, Callable[[float], None]]) -> None:
        self.observers = observers
        self._recent: dict[Leg, deque[tuple[float, float]]] = {leg: deque(maxlen=MAX_SAMPLES) for leg in observers}

    def observe(self, leg: Leg, since: float) -> None:
        """A batch has come to the end of this leg; its oldest notification was at the beginning at `since`."""
        now = anyio.current_time()
        self.observers[leg](now - since)
        self._recent[leg].append((now, now - since))

    def quantiles(self, leg: Leg) -> Quantiles:
        """Of the last minute."""
        recent, begin = self._recent[leg], anyio.current_time() - WINDOW_SECONDS
        while recent and recent[0][0] < begin:
            recent.popleft()
        seconds = sorted(seconds for _, seconds in recent)
        return Quantiles(leg, _milliseconds(seconds, 0.5), _milliseconds(seconds, 0.99), len(seconds))


class Arrivals:
    """When notifications came from PostgreSQL, by their positions in the sessions of this process; bounded.

    One time for each batch. Where there are too many, batches long ago are taken as one, with the time of the first: so
    nothing is ever said to have come later than it did.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._firsts: list[Position] = []
        self._times: list[float] = []
        self._last: Position | None = None
        self._between = (0, 0, -1)
        """Two terms, and the state of the timeline when it was asked for their relation."""
        self._marker: Position | None = None
        """The marker of the first in the numbering of the second."""

    def note(self, first: Position, last: Position, at: float) -> None:
        """A batch came, the positions from `first` through `last`."""
        if self._last is not None and first < self._last:  # a clock was set back, and a term with it
            self._firsts.clear()
            self._times.clear()
        elif len(self._firsts) >= MAX_ARRIVALS:
            old = slice(1, MAX_ARRIVALS // 2, 2)
            del self._firsts[old], self._times[old]
        self._firsts.append(first)
        self._times.append(at)
        self._last = last

    def at(self, position: Position) -> float | None:
        """When this notification came, in whichever numbering; None where it has not, or where that is not known."""
        if self._last is None:
            return None
        own = self._own(position, self._last.term)
        if own is None or own > self._last:
            return None
        index = len(self._firsts) - 1
        if own < self._firsts[index]:
            index = bisect_right(self._firsts, own) - 1
        return self._times[index] if index >= 0 and self._firsts[index].term == own.term else None

    def _own(self, position: Position, term: int) -> Position | None:
        """The position in the numbering of this term; how far the two are apart is asked for once."""
        if position.term == term:
            return position
        between = (position.term, term, self._timeline.version)
        if between != self._between:
            self._between, self._marker = between, self._timeline.convert(Position(position.term, 0), term)
        return None if self._marker is None else self._marker.plus(position.seq)


def _milliseconds(seconds: list[float], quantile: float) -> float | None:
    return round(seconds[min(len(seconds) - 1, int(quantile * len(seconds)))] * 1000, 3) if seconds else None
