"""The feed of a process: the log in Redis while it is live, PostgreSQL directly while it is not.

    none ──the log is live──▶ redis ──lost, silent──▶ none ──the other source is live──▶ direct
                                ▲                                                          │
                                └──── the log has joined beside the other source ──────────┘

Make before break: the direct source stays until the log has caught up with it, and goes then. Two cancel scopes are
the switch: one around the direct source, one around everything.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from bridge import telemetry
from bridge.core.backoff import Backoff
from bridge.errors import LinkLost, LogRefused, RedisLost, RedisUnusable
from bridge.feed.delivery import RECENT, Delivery
from bridge.feed.pod_source import PodSource, PodView
from bridge.feed.source import FeedState, LogView, Source
from bridge.links.openers import Session
from bridge.telemetry import Metrics, Observable


@dataclass(frozen=True)
class Change:
    """The feed came into this state at this time (seconds since 1970)."""

    at: float
    state: FeedState


class Feed:
    """Runs the log's source (None: there is no Redis) and, while that is not live, the direct one (None: there is no
    database to fall back to, and events wait in the log). One of the two is needed.

    `state` says where events come from, and its changes can be awaited. `on_change` is called at each change of it.
    `grace_seconds` is how long a log that can be reached may take to become live at the start, before the direct source
    opens.
    """

    def __init__(
        self,
        log: Source | None,
        direct: Source | None,
        retry_seconds: float,
        grace_seconds: float,
        delivery: Delivery,
        on_change: Callable[[FeedState], None],
        metrics: Metrics,
    ) -> None:
        self.state: Observable[FeedState] = Observable(FeedState("none", "starting"))
        self.changes: deque[Change] = deque([Change(time.time(), self.state.value)], maxlen=RECENT)
        self._log = log
        self._direct = direct
        self._grace_seconds = grace_seconds
        self._delivery = delivery
        self._on_change = on_change
        self._metrics = metrics
        self._log_state: Observable[FeedState] = Observable(FeedState("none"))
        self._backoff = Backoff(retry_seconds)
        self._lost = ""

    @property
    def log_view(self) -> LogView | None:
        """What is seen of the log; None where Redis is not used."""
        view = self._log.view if self._log is not None else None
        return view if isinstance(view, LogView) else None

    @property
    def session(self) -> Session | None:
        """The LISTEN session of the feed itself, where it has one now."""
        view = self._direct.view if self._direct is not None else None
        return None if isinstance(view, LogView) else view

    @property
    def pod_view(self) -> PodView | None:
        """What is seen of the pod's listener; None where there is none that another process runs."""
        return self._direct.pod_view if isinstance(self._direct, PodSource) else None

    async def run(self) -> None:
        """Never returns. Cancelling closes the sources."""
        if self._log is None:
            if self._direct is not None:
                await self._direct.run(self._report)
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_following, self._log)
            with anyio.move_on_after(self._grace_seconds):
                await self._log_state.wait_for(lambda state: state.mode == "redis" or bool(state.reason))
            while True:
                if self._log_state.value.mode != "redis":
                    await self._fall_back()
                self._report(FeedState("redis"))
                await self._log_state.wait_for(lambda state: state.mode != "redis")

    async def _fall_back(self) -> None:
        """Feed from PostgreSQL until the log has joined beside it."""
        lost = self._log_state.value.reason or f"no listener has been heard for {self._grace_seconds:g} s"
        self._lost = lost
        self._report(FeedState("none", lost))
        if self._direct is None:
            telemetry.log.warning("Redis feeds this process no longer: %s. Events wait in the log", lost)
            await self._log_state.wait_for(lambda state: state.mode == "redis")
            return
        telemetry.redis_failed(RedisLost(lost))
        telemetry.switching_to_direct()
        self._metrics.switches.inc()
        self._delivery.open_beside()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._direct.run, self._report_direct)
                await self._log_state.wait_for(lambda state: state.mode == "redis")
                tasks.cancel_scope.cancel()
        finally:
            self._delivery.close_beside()
        self._metrics.switches.inc()
        telemetry.switched_to_redis()

    async def _keep_following(self, log: Source) -> None:
        """The log's source, opened again after each loss."""
        while True:
            try:
                await log.run(self._report_log)
            except (LinkLost, LogRefused) as error:
                self._log_state.set(FeedState("none", telemetry.error_text(error)))
                self._metrics.reconnects.labels("redis").inc()
                telemetry.connection_error(error, first=self._backoff.failures == 0)
                delay = self._backoff.next(random.random(), lasting=isinstance(error, RedisUnusable))
                telemetry.reconnecting(delay)
                await anyio.sleep(delay)

    def _report_log(self, state: FeedState) -> None:
        if state.mode == "redis":
            self._backoff.reset()
        self._log_state.set(state)

    def _report_direct(self, state: FeedState) -> None:
        if state.mode == "direct":
            if self.state.value.mode != "direct":
                telemetry.switched_to_direct()
            state = FeedState("direct", self._lost)
        self._report(state)

    def _report(self, state: FeedState) -> None:
        if state != self.state.value:
            self.changes.append(Change(time.time(), state))
            self._on_change(state)
            self.state.set(state)
