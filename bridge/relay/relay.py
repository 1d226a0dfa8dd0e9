"""The relay of a process: one listener, its tape, and the publisher that brings the tape into the log."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from bridge.core.position import Timeline
from bridge.links.openers import open_log_writer, session_opener
from bridge.links.redis import RedisTarget
from bridge.links.redis_log import RedisLog
from bridge.relay.listener import Listener
from bridge.relay.publisher import Publisher
from bridge.relay.tape import Tape
from bridge.settings import Settings
from bridge.telemetry import Metrics


class Relay:
    """Runs until it is cancelled. Without Redis (`target` None) it has no publisher: the feed takes from the tape."""

    def __init__(self, settings: Settings, target: RedisTarget | None, metrics: Metrics) -> None:
        timeline = Timeline()
        self.tape = Tape(settings.history_entries, settings.backlog_bytes)
        self.listener = Listener(
            session_opener(settings, "listener"), self.tape, timeline, settings.retry_seconds, metrics
        )
        self.publisher: Publisher | None = None
        if target is not None:
            self.publisher = Publisher(
                lambda: self._open_log(settings, target),
                self.listener,
                self.tape,
                timeline,
                secrets.token_hex(8),
                settings.retry_seconds,
                settings.heartbeat_timeout_seconds,
                metrics,
            )

    async def run(self) -> None:
        """Never returns. Cancelling ends the publisher and the listener."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.listener.run)
            if self.publisher is not None:
                tasks.start_soon(self.publisher.run)

    @asynccontextmanager
    async def _open_log(self, settings: Settings, target: RedisTarget) -> AsyncIterator[RedisLog]:
        """The log says which database it belongs to, and only a session knows that: wait for one."""
        session = await self.listener.opened()
        async with open_log_writer(settings, target, session.database) as log:
            yield log
