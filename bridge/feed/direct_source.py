"""Straight from PostgreSQL: a LISTEN session of this process alone, without Redis."""

from collections.abc import Sequence

from bridge import telemetry
from bridge.core import events
from bridge.core.events import Event, Heard, Marker, Notification
from bridge.core.position import Position, Relation, Timeline
from bridge.feed.delivery import Delivery
from bridge.feed.source import FeedState, Report
from bridge.links.openers import OpenSession


class DirectSource:
    """One session a run. Between two sessions something may be missed: that is announced once the new one listens."""

    def __init__(self, open_session: OpenSession, delivery: Delivery) -> None:
        self._open_session = open_session
        self._delivery = delivery

    async def run(self, report: Report) -> None:
        """Bring what the session hears, from its marker on. Never returns; raises PostgresLost."""
        async with self._open_session(floor=0) as session:
            telemetry.connected_to_postgres()
            begin_session(self._delivery, Position(session.term, 0))
            report(FeedState("direct"))
            while True:
                deliver_heard(self._delivery, await session.receive(), session.marker.digest)


def begin_session(delivery: Delivery, marker: Position) -> None:
    """A session starts at its marker: announce what may have been missed since the one before."""
    before = delivery.position
    delivery.begin(marker)
    if before is not None and before.term != marker.term:
        delivery.gap(before, marker, "postgres_session_lost")


def deliver_heard(delivery: Delivery, heard: Sequence[Heard], digest: str) -> None:
    """Deliver what a session heard, at its own positions; learn from the markers of others."""
    batch: list[Event] = []
    for one in heard:
        if isinstance(one.body, Notification):
            batch.append(events.event(one.position, one.body))
            continue
        if isinstance(one.body, Marker) and one.body.digest == digest:
            learn(delivery.timeline, Position(one.body.term, 0), one.position)
        delivery.events(batch)
        batch = []
        delivery.passed(one.position)
    delivery.events(batch)


def learn(timeline: Timeline, one: Position, other: Position) -> None:
    """Both positions are the same notification, says a marker; one that contradicts what is known is ignored."""
    if timeline.relate(one, other) is Relation.CONTRADICTION:
        telemetry.log.warning("Ignored a session marker that contradicts an earlier one: term %d", one.term)
