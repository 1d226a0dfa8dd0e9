"""What all sources share: how they say whether they feed this process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

Mode = Literal["redis", "direct", "none"]


@dataclass(frozen=True)
class FeedState:
    """Where events come from now: `none` while no source is proven to bring them."""

    mode: Mode
    reason: str = ""
    """Why the mode is `none`."""


Report = Callable[[FeedState], None]


class Source(Protocol):
    """Brings events in order until it is cancelled, or fails."""

    async def run(self, report: Report) -> None:
        """Never returns; may raise LinkLost. Reports its mode once it is live, and `none` when it no longer is."""
