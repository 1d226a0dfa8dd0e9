"""The LISTEN session of this process: what it hears goes onto the tape, what it learns onto the timeline.

Between two sessions something may be missed, and the tape knows: the new session's marker begins a new segment.
"""

from collections.abc import Sequence

import anyio

from bridge import telemetry
from bridge.core.events import Heard, Marker, Notification
from bridge.core.position import Position, Relation, Timeline
from bridge.errors import PostgresLost
from bridge.links.openers import OpenSession, Session
from bridge.links.sessions import Sessions
from bridge.relay.tape import Tape
from bridge.telemetry import Arrivals, Metrics, Observable

FULL_SECONDS = 1.0
"""How often a full backlog looks whether Redis is still there to drain it."""


class Listener:
    """Keeps a session open. `session` is the current one, or None; its changes can be awaited."""

    def __init__(
        self, open_session: OpenSession, tape: Tape, timeline: Timeline, retry_seconds: float, metrics: Metrics
    ) -> None:
        self.draining = Observable(False)
        """Whether somebody takes entries off the tape: set by the publisher while Redis is there."""
        self._tape = tape
        self._timeline = timeline
        self._metrics = metrics
        self._pinned: int | None = None
        self.arrivals = Arrivals(timeline)
        self._sessions = Sessions(
            open_session,
            retry_seconds,
            self._opened,
            self._take,
            self._lost,
            self._learn,
            self._make_room,
            metrics.reconnects.labels("postgres").inc,
        )
        self.session = self._sessions.current

    @property
    def error(self) -> PostgresLost | None:
        """Why there is no session now."""
        return self._sessions.error

    @property
    def proven(self) -> bool:
        """Whether a session is open and has proved that notifications reach it."""
        session = self.session.value
        return session is not None and session.proven

    async def opened(self) -> Session:
        """The open session; waits for the next one where there is none."""
        while True:
            session = await self.session.wait_for(lambda session: session is not None)
            if session is not None:
                return session

    def keep_above(self, term: int) -> None:
        """Sessions that open from now on have terms above this one: they can begin a new term of the log."""
        self._sessions.keep_above(term)

    def mark_again(self) -> None:
        """End the session and open another one, whose term lies above all that it was to keep above."""
        self._sessions.begin_again()

    async def run(self) -> None:
        """Never returns. Cancelling closes the session."""
        await self._sessions.run()

    def _opened(self, session: Session) -> None:
        telemetry.connected_to_postgres()
        if self._pinned is not None:
            self._timeline.pinned.discard(self._pinned)
        self._pinned = session.term
        self._timeline.pinned.add(session.term)
        self._timeline.add(session.term)
        self._tape.extend([Heard(Position(session.term, 0), session.marker)])

    def _lost(self, _reason: str) -> None:
        """The next session's marker shows on the tape that something may be missing; until then, nothing is proven."""
        self._tape.wake()

    def _take(self, session: Session, heard: Sequence[Heard]) -> None:
        notifications = 0
        for one in heard:
            if isinstance(one.body, Notification):
                notifications += 1
            elif isinstance(one.body, Marker):
                self._relate(session, one.position, one.body)
        self._metrics.received.inc(notifications)
        self.arrivals.note(heard[0].position, heard[-1].position, session.last_proof)
        self._tape.extend(heard)

    def _relate(self, session: Session, position: Position, marker: Marker) -> None:
        if marker.digest == session.marker.digest:
            self._learn(Position(marker.term, 0), position)

    def _learn(self, one: Position, other: Position) -> None:
        if self._timeline.relate(one, other) is Relation.CONTRADICTION:
            telemetry.log.warning("Ignored what contradicts an earlier marker or probe of term %d", one.term)

    async def _make_room(self) -> None:
        """With Redis there, a full backlog is PostgreSQL's queue that waits; with Redis away it must not."""
        while self._tape.full:
            if not self.draining.value:
                dropped = self._tape.give_up()
                telemetry.log.error(
                    "Backlog full while Redis is away: dropped the newest %d of its entries. Clients will be told of "
                    "a gap. BRIDGE_BACKLOG_BYTES bounds the backlog.",
                    dropped,
                )
                raise PostgresLost("the backlog was full, so the session starts again")
            with anyio.move_on_after(FULL_SECONDS):
                await self._tape.room()
