"""What all sources share: how they say whether they feed this process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bridge.core.position import Position
from bridge.links.openers import Session
from bridge.stream import Mode


@dataclass(frozen=True)
class FeedState:
    """Where events come from now: `none` while no source is proven to bring them."""

    mode: Mode
    reason: str = ""
    """Why the mode is `none`, or is `direct` although Redis is used."""


Report = Callable[[FeedState], None]


@dataclass(frozen=True)
class LogView:
    """What the reader of the log sees of it. Times are on the clock of `anyio.current_time`, None before the first."""

    joined: bool
    tail: Position | None
    beat_at: float | None
    round_trip_seconds: float | None
    """How long Redis took for the last command of a beat."""


class Source(Protocol):
    """Brings events in order until it is cancelled, or fails."""

    @property
    def view(self) -> LogView | Session | None:
        """What it is connected to, for those who ask how it is; None where that is told by somebody else."""
        ...

    async def run(self, report: Report) -> None:
        """Never returns; may raise LinkLost. Reports its mode once it is live, and `none` when it no longer is."""
