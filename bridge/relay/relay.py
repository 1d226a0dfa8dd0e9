"""The relay of a process: one listener, its tape, and the publisher that brings the tape into the log."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio

from bridge.core.position import Timeline
from bridge.links.openers import Links, Log
from bridge.relay.listener import Listener
from bridge.relay.publisher import Publisher
from bridge.relay.tape import Tape
from bridge.settings import Settings
from bridge.telemetry import Metrics


class Relay:
    """Runs until it is cancelled. Without Redis it has no publisher: the feed takes from the tape.

    `nonce` names it to other listeners; one that takes the place of another that is known to have ended has its nonce.
    """

    def __init__(
        self, settings: Settings, links: Links, metrics: Metrics, *, with_redis: bool, nonce: str | None = None
    ) -> None:
        self.timeline = timeline = Timeline()
        self.tape = Tape(settings.history_entries, settings.backlog_bytes)
        self.listener = Listener(
            partial(links.session, "listener"), self.tape, timeline, settings.retry_seconds, metrics
        )
        self.publisher: Publisher | None = None
        if with_redis:
            self.publisher = Publisher(
                partial(self._open_log, links),
                self.listener,
                self.tape,
                timeline,
                nonce or secrets.token_hex(8),
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
    async def _open_log(self, links: Links) -> AsyncIterator[Log]:
        """The log says which database it belongs to, and only a session knows that: wait for one."""
        session = await self.listener.opened()
        async with links.log_writer(session.database) as log:
            yield log
