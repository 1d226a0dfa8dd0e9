"""One source for as long as it lives, then the same again: the feed of a process, with its log lines."""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from bridge import telemetry
from bridge.core.backoff import Backoff
from bridge.errors import LinkLost, PostgresUnusable, RedisUnusable
from bridge.feed.delivery import RECENT
from bridge.feed.source import FeedState, Source
from bridge.telemetry import Observable


@dataclass(frozen=True)
class Change:
    """The feed came into this state at this time (seconds since 1970)."""

    at: float
    state: FeedState


class Feed:
    """Runs the source that was chosen at start. `state` says whether events come, and its changes can be awaited.

    `on_change` is called at each change of it, before anything else is delivered.
    """

    def __init__(self, source: Source, retry_seconds: float, on_change: Callable[[FeedState], None]) -> None:
        self.state: Observable[FeedState] = Observable(FeedState("none", "starting"))
        self.changes: deque[Change] = deque([Change(time.time(), self.state.value)], maxlen=RECENT)
        self._on_change = on_change
        self._source = source
        self._retry_seconds = retry_seconds
        self._backoff = Backoff(retry_seconds)

    async def run(self) -> None:
        """Never returns. Cancelling closes the source."""
        while True:
            try:
                await self._source.run(self._report)
            except LinkLost as error:
                self._report(FeedState("none", telemetry.error_text(error)))
                telemetry.connection_error(error, first=self._backoff.failures == 0)
                delay = self._backoff.next(random.random())
                if isinstance(error, RedisUnusable | PostgresUnusable):
                    delay = self._retry_seconds
                telemetry.reconnecting(delay)
                await anyio.sleep(delay)

    def _report(self, state: FeedState) -> None:
        if state.mode != "none":
            self._backoff.reset()
        if state != self.state.value:
            self.changes.append(Change(time.time(), state))
            self._on_change(state)
            self.state.set(state)
