"""One source for as long as it lives, then the same again: the feed of a process, with its log lines."""

import random

import anyio

from bridge import telemetry
from bridge.core.backoff import Backoff
from bridge.errors import LinkLost, PostgresUnusable, RedisUnusable
from bridge.feed.source import FeedState, Source
from bridge.telemetry import Observable


class Feed:
    """Runs the source that was chosen at start. `state` says whether events come, and its changes can be awaited."""

    def __init__(self, source: Source, retry_seconds: float) -> None:
        self.state: Observable[FeedState] = Observable(FeedState("none", "starting"))
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
            self.state.set(state)
