"""What applications publish beside the log: read to the letter and handed on at once; anything else is dropped.

Whoever may PUBLISH in Redis can write there, so nothing else may suffer from what is no such event.
"""

import logging
import math
from collections.abc import Collection

import anyio

from bridge.core.events import read_published
from bridge.feed.delivery import Delivery

log = logging.getLogger("bridge")

WARN_SECONDS = 60.0
"""The time between two log lines about what was dropped."""


class Publications:
    """Reads what comes on the channel `where` in Redis, for a process that serves these channels of PostgreSQL."""

    def __init__(self, channels: Collection[str], delivery: Delivery) -> None:
        self._channels = frozenset(channels)
        self._delivery = delivery
        self._dropped = 0
        self._warn_at = -math.inf

    def take(self, message: bytes, where: str) -> None:
        """Deliver one message, or drop it. Never raises for what it holds."""
        try:
            event = read_published(message)
            if event.channel not in self._channels:
                raise ValueError(f"no configured channel: {event.channel[:80]!r}")
        except ValueError as error:
            self._drop(where, str(error))
        else:
            self._delivery.publish(event)

    def _drop(self, where: str, reason: str) -> None:
        self._dropped += 1
        now = anyio.current_time()
        if now >= self._warn_at:
            self._warn_at = now + WARN_SECONDS
            log.warning(
                "What somebody has published on %s in Redis is no event of this bridge and left out (%s; %d so far)",
                where,
                reason,
                self._dropped,
            )
