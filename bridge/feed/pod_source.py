"""From the listener process of the same pod, and from sessions of this process alone only while that is of no use.

    away ──a link, and a place on the tape──▶ following ──caught up──▶ joined
     ▲                                            │                      │ link lost, or a session of our own begins
     └────────────── the link is lost ────────────┴──────────────────────┘

    the listener has not been heard for 3 s ──▶ own session ──joined again, beside it──▶ closed

Make before break: the own session stays until the listener's tape has been followed to where that session was. Of two
sessions the older one hears the marker of the newer one before anything that both hear, so what is followed in order
without a hole is never taken for something else. Only where a tape is entered anew (another process, another session)
while an own session is open does it have to be related first. What the listener heard while it could not be asked
comes late; without Redis that settles the holes, with Redis the log does.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from bridge import telemetry
from bridge.core.backoff import Backoff
from bridge.core.events import Entry, Event
from bridge.core.pod_wire import Answer, Relation, SessionState, View
from bridge.core.position import Position
from bridge.errors import PodLost
from bridge.feed.delivery import Delivery, Origin
from bridge.feed.direct_source import DirectSource, learn
from bridge.feed.pod_place import Earlier, Place, first_place
from bridge.feed.source import FeedState, Report
from bridge.links.openers import Session
from bridge.links.pod import OpenPod, PodLink
from bridge.stream import Mode
from bridge.telemetry import Observable

PATIENCE_SECONDS = 3.0
"""A listener that was not heard for so long, or has not heard anything itself, is not waited for any longer."""
LAST_LOOK_SECONDS = 0.05
"""A process that was paused finds the listener's answers in its socket: it looks before it opens a session."""
LONGEST_RETRY_SECONDS = 0.5
"""Between attempts to reach the listener: a socket on the same machine costs nothing."""
RELATE_POLL_SECONDS = 0.1
RELATE_SECONDS = 15.0
"""How long a tape may stay unrelated to the session of our own, before that one is given up with a gap."""


@dataclass(frozen=True)
class PodView:
    """What is seen of the pod's listener. Times are on the clock of `anyio.current_time`, None before the first."""

    connected: bool
    session: SessionState
    feeding: bool
    """Whether events come from it now, and not from a session of this process."""
    heard_at: float | None


class PodSource:
    """Follows the tape of the pod's listener from where delivery stands; `direct` is the last resort.

    `beside_log`: whether the log may bring what neither brought.
    """

    def __init__(
        self, open_pod: OpenPod, digest: str, delivery: Delivery, direct: DirectSource, *, beside_log: bool
    ) -> None:
        self._open_pod = open_pod
        self._digest = digest
        self._delivery = delivery
        self._direct = direct
        self._beside_log = beside_log
        self._report: Report = _to_nobody
        self._told: tuple[Mode, bool] | None = None
        self._place: Place | None = None
        self._earlier = Earlier(delivery)
        self._connected = False
        self._session: SessionState = "lost"
        self._hears = Observable(False)
        """Whether the listener said, when it was last asked, that its session hears."""
        self._heard_at: float | None = None
        self._joined = Observable(False)
        """Whether the tape was followed to where a session of our own was."""
        self._joining_to: Position | None = None
        self._live = False
        """Whether the tape was followed to its end, since there is a link."""
        self._unrelated_since: float | None = None
        self._standing_in = False
        self._direct_state = FeedState("none")
        self._trouble = "the pod's listener was not heard yet"

    @property
    def view(self) -> Session | None:
        """The session of this process itself, where it has one now."""
        return self._direct.view

    @property
    def pod_view(self) -> PodView:
        feeding = self._feeding and self._direct_state.mode != "direct"
        return PodView(self._connected, self._session, feeding, self._heard_at)

    async def run(self, report: Report) -> None:
        """Bring what is heard. Never returns; cancelling closes the link and the session."""
        self._report, self._told, self._place = report, None, None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_following)
                await self._stand_in()
        finally:
            self._report = _to_nobody
            self._away("the pod's listener is not asked")

    # The last resort

    async def _stand_in(self) -> None:
        while True:
            await self._missed()
            telemetry.log.warning(
                "The pod's listener has not been heard for %g s (%s): this process listens itself",
                PATIENCE_SECONDS,
                self._trouble,
            )
            if not self._beside_log:
                self._delivery.open_beside()
            self._joined.set(False)
            self._joining_to, self._standing_in = None, True
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._direct.run, self._report_direct)
                    await self._joined.wait_for(lambda joined: joined)
                    tasks.cancel_scope.cancel()
            finally:
                self._standing_in, self._direct_state = False, FeedState("none")
                if not self._beside_log:
                    self._delivery.close_beside()
            telemetry.log.info("The pod's listener is heard again: this process has closed its own session")

    async def _missed(self) -> None:
        """Wait until the listener is of no use for so long that it is not waited for any longer."""
        begun = anyio.current_time()
        while True:
            await self._hears.wait_for(lambda hears: not hears)
            with anyio.CancelScope(deadline=max(begun, self._heard_at or begun) + PATIENCE_SECONDS):
                await self._hears.wait_for(lambda hears: hears)
                continue
            await anyio.sleep(LAST_LOOK_SECONDS)
            if not self._hears.value:
                return

    def _report_direct(self, state: FeedState) -> None:
        self._direct_state = state
        self._tell()

    # The pod's listener

    async def _keep_following(self) -> None:
        backoff = Backoff(LONGEST_RETRY_SECONDS)
        while True:
            try:
                async with self._open_pod() as link:
                    await self._follow(link, backoff)
                return
            except PodLost as error:
                self._away(telemetry.error_text(error))
                telemetry.connection_error(error, first=backoff.failures == 0)
                delay = backoff.next(random.random())
                telemetry.reconnecting(delay)
                await anyio.sleep(delay)

    async def _follow(self, link: PodLink, backoff: Backoff) -> None:
        """Bring what the listener hears, until the log has joined."""
        if link.hello.digest != self._digest:
            raise PodLost("the pod's listener has other channels than this worker: start all with the same settings")
        self._connected, self._unrelated_since = True, None
        place = await self._begin(link)
        while True:
            answer = await link.pull(place.index, place.last)
            backoff.reset()
            self._hear(answer.session, answer.relations)
            if self._over:
                return
            entries = _entries(answer)
            if not entries:
                place = Place(place.nonce, answer.index, place.last)
            elif place.last is not None and entries[0].position == place.last.plus(1):
                place = self._take(place, answer, entries)
            elif not self._unrelated(entries[0].position.term):
                self._unrelated_since = None
                self._continue_with(entries[0].position)
                place = self._take(place, answer, entries)
            elif self._patient:
                await anyio.sleep(RELATE_POLL_SECONDS)
            else:
                place = self._give_up(place.nonce, await link.look())
            self._place = place
            self._join(place, answer.end)
            self._tell()
            await anyio.lowlevel.checkpoint()

    async def _begin(self, link: PodLink) -> Place:
        """Where to go on; waits until the tape is related to the session of our own, if there is one."""
        while True:
            view = await link.look()
            self._hear(view.session, view.relations)
            self._tell()
            place = self._place
            if place is None or place.nonce != link.hello.nonce:
                place = self._enter(link.hello.nonce, view)
            if place is not None:
                return place
            if not self._patient:
                return self._give_up(link.hello.nonce, view)
            await anyio.sleep(RELATE_POLL_SECONDS)

    @property
    def _over(self) -> bool:
        """Whether the log has joined meanwhile, and this source is about to be cancelled."""
        return self._beside_log and not self._delivery.beside_open

    @property
    def _patient(self) -> bool:
        """Whether a relation that is not known may still come: the listener hears, and has for long enough."""
        if not self._hears.value:
            self._unrelated_since = None
            return True
        now = anyio.current_time()
        self._unrelated_since = now if self._unrelated_since is None else self._unrelated_since
        return now < self._unrelated_since + RELATE_SECONDS

    def _enter(self, nonce: str, view: View) -> Place | None:
        """Where to begin on a tape of which nothing was read yet; None where that cannot be known yet.

        One that is not related to anything began after everything that was delivered, or is the log's to continue.
        """
        place = first_place(nonce, view, self._delivery)
        if place is not None or self._unrelated(view.segments[-1].term):
            return place
        return Place(nonce, view.end if self._beside_log else view.segments[0].start, None)

    def _unrelated(self, term: int) -> bool:
        """Whether a session of our own is open, or was a moment ago, that this term is not related to yet."""
        own = self._direct.term if self._standing_in else None
        return own is not None and self._delivery.timeline.convert(Position(own, 0), term) is None

    def _give_up(self, nonce: str, view: View) -> Place:
        """Go on at the end of the tape, and without the session of our own; what may be missing is announced."""
        telemetry.log.warning("What the pod's listener hears cannot be compared with what this process heard itself")
        self._direct.be_silent()
        if not self._beside_log:
            self._delivery.joined()
        last = view.segments[-1].before(view.end) if view.segments else None
        if last is not None and not self._over:
            self._continue_with(last.plus(1))
        self._joined.set(True)
        self._live, self._unrelated_since = True, None
        return Place(nonce, view.end, last)

    def _take(self, place: Place, answer: Answer, entries: Sequence[Entry]) -> Place:
        """Deliver these entries; what was delivered before is skipped."""
        delivery = self._delivery
        origin = None
        if answer.age_seconds is not None:
            origin = Origin("received_to_delivered", anyio.current_time() - answer.age_seconds)
        if self._beside_log:
            self._is_heard_beside(entries[0].position.term)
        elif delivery.past is not None:
            self._earlier.take(entries)
        batch: list[Event] = []
        for entry in entries:
            if entry.event is not None:
                batch.append(entry.event)
                continue
            delivery.offer(batch, origin)
            batch = []
            if entry.marker is not None and entry.marker.digest == self._digest:
                learn(delivery.timeline, Position(entry.marker.term, 0), entry.position)
            delivery.passed(entry.position)
        delivery.offer(batch, origin)
        return Place(place.nonce, answer.index + len(entries), entries[-1].position)

    def _continue_with(self, first: Position) -> None:
        if self._beside_log:
            self._is_heard_beside(first.term)
        self._delivery.continue_with(first, "postgres_session_lost", fillable=self._beside_log)

    def _is_heard_beside(self, term: int) -> None:
        """This session is the newest one that is heard beside the log, also where one of our own came between."""
        beside = self._delivery.beside
        if next(reversed(beside), None) != term:
            beside.pop(term, None)
            beside[term] = None

    def _join(self, place: Place, end: int) -> None:
        """Note whether the tape was followed to its end; beside a session of our own, to where that one was."""
        self._live = self._live or place.index >= end > 0
        if self._joined.value or end == 0:
            return
        if not self._standing_in or self._direct.term is None:
            if place.index < end or (self._standing_in and not self._hears.value):
                return
        elif not self._has_caught_up(place.last, self._direct.term):
            return
        if self._standing_in:
            self._direct.be_silent()
            if not self._beside_log:
                self._delivery.joined()
        self._joined.set(True)

    def _has_caught_up(self, last: Position | None, own: int) -> bool:
        """Whether the tape, read through `last`, holds what our own session `own` had brought when joining began, and
        its marker: what came before a marker, only the tape can bring."""
        timeline = self._delivery.timeline
        if last is None or not self._hears.value:
            return False
        if self._joining_to is None:
            if timeline.convert(Position(own, 0), last.term) is None:
                return False
            self._joining_to = self._delivery.newest(last.term)
        marker = timeline.convert(Position(own, 0), last.term)
        target = timeline.convert(self._joining_to, last.term) if self._joining_to is not None else None
        return marker is not None and last >= marker and (target is None or last >= target)

    # What is known of it

    def _hear(self, session: SessionState, relations: Sequence[Relation]) -> None:
        """The listener has answered."""
        for one in relations:
            learn(self._delivery.timeline, Position(one.term, 0), Position(one.other, one.seq))
        self._session = session
        if session == "proven":
            self._heard_at = anyio.current_time()
        else:
            self._trouble = f"its LISTEN session is {session}"
        self._hears.set(session == "proven")

    def _away(self, trouble: str) -> None:
        """There is no link now."""
        self._trouble = trouble
        self._connected, self._session, self._joining_to = False, "lost", None
        self._live = False
        self._joined.set(False)
        self._hears.set(False)
        self._tell()

    @property
    def _feeding(self) -> bool:
        return self._live and self._session != "lost"

    def _tell(self) -> None:
        """Report where events come from, where that has changed: not every trouble of one absence."""
        mode: Mode = "direct" if self._feeding or self._direct_state.mode == "direct" else "none"
        if self._told == (mode, self._feeding):
            return
        self._told = mode, self._feeding
        if self._feeding:
            self._report(FeedState(mode))
        elif mode == "direct":
            self._report(FeedState(mode, f"this process listens itself: {self._trouble}"))
        else:
            self._report(FeedState(mode, self._direct_state.reason or self._trouble))


def _entries(answer: Answer) -> Sequence[Entry]:
    try:
        return answer.entries()
    except ValueError as error:
        raise PodLost(f"the pod's listener said what cannot be understood: {error}") from error


def _to_nobody(_: FeedState) -> None: ...
