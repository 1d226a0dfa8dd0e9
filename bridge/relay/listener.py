"""The LISTEN session of this process, kept open: what it hears goes onto the tape, what it learns onto the timeline.

The session itself ends with the first error; this is the loop around it. Between two sessions something may be missed,
and the tape knows: the new session's marker begins a new segment.
"""

import random
from collections.abc import Sequence

import anyio

from bridge import telemetry
from bridge.core.backoff import Backoff
from bridge.core.events import Heard, Marker
from bridge.core.position import Position, Relation, Timeline
from bridge.errors import PostgresLost
from bridge.links.openers import OpenSession, Session
from bridge.relay.tape import Tape
from bridge.telemetry import Metrics, Observable

TERM_SHIFT = 22
"""A term is ``(clock in units of 10 ms) * 2**22 + backend pid``: PID_MAX_LIMIT of Linux is 2**22."""

FULL_SECONDS = 1.0
"""How often a full backlog looks whether Redis is still there to drain it."""


class Listener:
    """Runs one session after another. `session` is the open one, or None; its changes can be awaited."""

    def __init__(
        self, open_session: OpenSession, tape: Tape, timeline: Timeline, retry_seconds: float, metrics: Metrics
    ) -> None:
        self.session: Observable[Session | None] = Observable(None)
        self.error: PostgresLost | None = None
        """Why there is no session now."""
        self.draining = Observable(False)
        """Whether somebody takes entries off the tape: set by the publisher while Redis is there."""
        self._open_session = open_session
        self._tape = tape
        self._timeline = timeline
        self._retry_seconds = retry_seconds
        self._metrics = metrics
        self._floor = 0
        self._restart: anyio.CancelScope | None = None

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

    def mark_again(self, floor_term: int) -> None:
        """End the session and open one whose term lies above this one."""
        self._floor = max(self._floor, (floor_term >> TERM_SHIFT) + 1)
        if self._restart is not None:
            self._restart.cancel()

    async def run(self) -> None:
        """Never returns. Cancelling closes the session."""
        backoff = Backoff(self._retry_seconds)
        while True:
            try:
                await self._one_session(backoff)
            except PostgresLost as error:
                self.error = error
                telemetry.connection_error(error, first=backoff.failures == 0)
                delay = backoff.next(random.random())
                telemetry.reconnecting(delay)
                await anyio.sleep(delay)

    async def _one_session(self, backoff: Backoff) -> None:
        try:
            with anyio.CancelScope() as self._restart:
                async with self._open_session(floor=self._floor) as session:
                    telemetry.connected_to_postgres()
                    self.error = None
                    self._take(session, [Heard(Position(session.term, 0), session.marker)])
                    self.session.set(session)
                    try:
                        while True:
                            await self._make_room()
                            self._take(session, await session.receive())
                            backoff.reset()
                    finally:
                        self.session.set(None)
                        self._timeline.pinned.discard(session.term)
        finally:
            self._restart = None

    def _take(self, session: Session, heard: Sequence[Heard]) -> None:
        for one in heard:
            if isinstance(one.body, Marker):
                self._relate(session, one.position, one.body)
        self._metrics.received.inc(len(heard))
        self._tape.extend(heard)

    def _relate(self, session: Session, position: Position, marker: Marker) -> None:
        if marker.term == session.term:
            self._timeline.pinned.add(session.term)
            self._timeline.add(session.term)
        elif marker.digest == session.marker.digest:
            relation = self._timeline.relate(Position(marker.term, 0), position)
            if relation is Relation.CONTRADICTION:
                telemetry.log.warning("Ignored a session marker that contradicts an earlier one: term %d", marker.term)

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
