"""Straight from PostgreSQL: LISTEN sessions of this process alone, without Redis."""

import random
from collections.abc import Sequence
from functools import partial

import anyio

from bridge import telemetry
from bridge.core import events
from bridge.core.events import Event, GapReason, Heard, Marker, Notification
from bridge.core.position import Position, Relation, Timeline
from bridge.feed.delivery import Delivery, Origin
from bridge.feed.source import FeedState, Report
from bridge.links.openers import OpenSession, Session
from bridge.links.sessions import Sessions
from bridge.telemetry import Metrics

SPREAD_SECONDS = 0.05
"""Workers that lose Redis together do not knock at PostgreSQL in the same millisecond."""


class DirectSource:
    """Sessions one after another. Where something may be missed between two, another source may still bring it if
    there is one (`beside_log`): the log, or the listener of the pod."""

    def __init__(
        self,
        open_session: OpenSession,
        delivery: Delivery,
        retry_seconds: float,
        metrics: Metrics,
        *,
        beside_log: bool,
    ) -> None:
        self._open_session = open_session
        self._delivery = delivery
        self._retry_seconds = retry_seconds
        self._metrics = metrics
        self._beside_log = beside_log
        self._reason: GapReason = "postgres_session_lost"
        self._sessions: Sessions | None = None
        self._silent = False
        self.term: int | None = None
        """Of the newest session of this run; None before the first one."""

    @property
    def view(self) -> Session | None:
        return self._sessions.current.value if self._sessions is not None else None

    async def run(self, report: Report) -> None:
        """Bring what sessions hear, from the first marker on. Never returns; cancelling closes the session."""
        self._reason = "failover" if self._beside_log else "postgres_session_lost"
        self._silent, self.term = False, None
        if self._beside_log:
            await anyio.sleep(SPREAD_SECONDS * random.random())
        self._sessions = Sessions(
            self._open_session,
            self._retry_seconds,
            partial(self._opened, report),
            self._heard,
            lambda reason: report(FeedState("none", reason)),
            partial(learn, self._delivery.timeline),
            failed=self._metrics.reconnects.labels("postgres").inc,
        )
        try:
            await self._sessions.run()
        finally:
            self._sessions = None

    def be_silent(self) -> None:
        """Deliver nothing more in this run: another source has caught up, and this one is about to be cancelled."""
        self._silent = True

    def _opened(self, report: Report, session: Session) -> None:
        telemetry.connected_to_postgres()
        if self._over:
            return
        self.term = session.term
        marker = Position(session.term, 0)
        self._delivery.continue_with(marker, self._reason, fillable=self._beside_log)
        self._delivery.passed(marker)
        if self._beside_log:
            self._delivery.beside[session.term] = None
        self._reason = "postgres_session_lost"
        report(FeedState("direct"))

    def _heard(self, session: Session, heard: Sequence[Heard]) -> None:
        self._metrics.received.inc(sum(isinstance(one.body, Notification) for one in heard))
        if not self._over:
            origin = Origin("received_to_delivered", session.last_proof)
            deliver_heard(self._delivery, heard, session.marker.digest, origin)

    @property
    def _over(self) -> bool:
        """Whether another source has caught up meanwhile, and this one is about to be cancelled."""
        return self._silent or (self._beside_log and not self._delivery.beside_open)


def deliver_heard(delivery: Delivery, heard: Sequence[Heard], digest: str, origin: Origin | None = None) -> None:
    """Deliver what a session heard, at its own positions; learn from the markers of others."""
    batch: list[Event] = []
    for one in heard:
        if isinstance(one.body, Notification):
            batch.append(events.event(one.position, one.body))
            continue
        delivery.offer(batch, origin)
        batch = []
        if isinstance(one.body, Marker) and one.body.digest == digest:
            learn(delivery.timeline, Position(one.body.term, 0), one.position)
        delivery.passed(one.position)
    delivery.offer(batch, origin)


def learn(timeline: Timeline, one: Position, other: Position) -> None:
    """Both positions are the same notification, says a marker; one that contradicts what is known is ignored."""
    if timeline.relate(one, other) is Relation.CONTRADICTION:
        telemetry.log.warning("Ignored a session marker that contradicts an earlier one: term %d", one.term)
