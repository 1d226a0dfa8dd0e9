"""What a client still lacks: an open gap, and the pending gaps of this process that may fill it."""

from dataclasses import dataclass

from bridge.core.cursor import OpenGap
from bridge.core.events import GapReason
from bridge.core.history import Bounds


@dataclass(eq=False)
class Lack:
    """One open gap, shared by all clients that have it. It ends when the last pending gap that it is tied to ends."""

    gap: OpenGap
    ties: set[Bounds]
    lost: GapReason | None = None
    """Why one of those has ended as a final gap; None where none has."""
    told: GapReason | None = None
    """Why the gap was lost for another subscription, of which the client has been told."""
    replaying: bool = False
    """Whether it is being filled from the history: what comes late goes there too, and is not told twice."""
