"""From the log in Redis: subscribe first, then read the stream, then live; a hole in live is filled from the stream.

Inside one term the log has no holes, so a reader that knows the last position it saw knows whether the next one
follows. A message that does not is a hole in pub/sub only, and the stream has what is missing. A hole in the stream
itself was trimmed, and a new term is what the log's writers say when something may have been lost.

    silent ──a listener beats──▶ related? ──▶ joining: reads what it missed ──caught up──▶ joined: live
       ▲                                                                                    │
       └─────────────────────────── no beat within the timeout ────────────────────────────┘

Until it has joined it delivers nothing live: while another source feeds this process, the log's entries might repeat
what was delivered, so they wait (in the stream) until both are related. Then what nobody brought comes late, the rest
is skipped, and when the log has caught up with the other source, that one can go.

What applications publish is in no log: it is delivered when it is heard, in every state, and proves nothing.
"""

import math
from collections.abc import Collection, Sequence

import anyio

from bridge import telemetry
from bridge.core.events import Entry, Event, GapReason, read_run
from bridge.core.position import Position
from bridge.feed.delivery import Delivery, Origin
from bridge.feed.direct_source import learn
from bridge.feed.publications import Publications
from bridge.feed.source import FeedState, LogView, Report
from bridge.links.openers import Ear, Links, Log
from bridge.links.redis_log import read_beat

LAST_LOOK_SECONDS = 0.05
"""A process that was paused finds the beats of the pause in its socket: it looks before it calls the log silent."""

RELATE_POLL_SECONDS = 0.1
RELATE_SECONDS = 3.0
"""How long a log that is alive may stay unrelated to earlier sessions heard beside it. Listeners write the relation
with the marker of a session, and beat once a second at the latest after that."""
BEHIND_SECONDS = 15.0
"""The same for the session that is heard now: listeners may first bring the log up to date, one break after another."""


class LogSource:
    """Follows the log from its tail on, and after a loss from where it was. One connection hears, another one reads."""

    def __init__(
        self,
        links: Links,
        delivery: Delivery,
        digest: str,
        heartbeat_timeout_seconds: float,
        channels: Collection[str] = (),
    ) -> None:
        self.tail: Position | None = None
        """The newest position of the log that was seen."""
        self._links = links
        self._delivery = delivery
        self._digest = digest
        self._heartbeat_timeout_seconds = heartbeat_timeout_seconds
        self._publications = Publications(channels, delivery)
        self._joined = False
        self._joining_to: Position | None = None
        self._beat_deadline = -math.inf
        self._beaten = False
        self._unrelated_since = math.inf
        self._beat_at: float | None = None
        self._terms_count = 0
        self._torn_term: int | None = None
        """Of the log, in which something was missing while nothing related it to what is heard beside it."""
        self._round_trip_seconds: float | None = None

    @property
    def view(self) -> LogView:
        return LogView(self._joined, self.tail, self._beat_at, self._round_trip_seconds)

    async def run(self, report: Report) -> None:
        """Bring the log's events. Never returns; raises RedisLost. Live while some listener's heartbeat is heard."""
        try:
            await self._follow(report)
        finally:
            self._joined, self._round_trip_seconds = False, None

    async def _follow(self, report: Report) -> None:
        connected = False
        while True:
            self._joined, self._joining_to = False, None
            self._beaten, self._unrelated_since = False, math.inf
            async with self._links.ear() as ear, self._links.log() as log:
                await ear.subscribe(log.live_channel, log.control_channel, log.published_channel)
                await log.open()
                await self._learn_terms(log)
                if not connected:
                    telemetry.connected_to_redis()
                    connected = True
                self._beat_deadline = anyio.current_time() + self._heartbeat_timeout_seconds
                if await log.listeners_beating() is not None:
                    await self._join(log, report)
                while await self._hear(ear, log, report):
                    pass
            # Silent: nobody beats, or the subscription is deaf. New connections tell.

    async def _hear(self, ear: Ear, log: Log, report: Report) -> bool:
        """Take what comes next; False where no beat comes any more."""
        live, published = log.live_channel.encode(), log.published_channel.encode()
        messages = await ear.messages(self._next_look())
        silent = anyio.current_time() >= self._beat_deadline and _all_on(published, messages)
        if silent:
            messages += await self._last_look(ear, published)
            silent = _all_on(published, messages)
        read_at = anyio.current_time()
        beaten = False
        for channel, data in messages:
            if channel == live:
                if self._joined or self._joining_to is not None:
                    await self._take_live(log, data, Origin("log_to_delivered", read_at))
            elif channel == published:
                self._publications.take(data, log.published_channel)
            elif (beat := read_beat(data)) is not None:
                beaten = True
                if (self._joined or self._joining_to) and beat.tail is not None and beat.tail != self.tail:
                    await self._catch_up(log)
        if silent:
            report(FeedState("none", f"no listener has been heard for {self._heartbeat_timeout_seconds:g} s"))
            return False
        if beaten:
            asked_at = anyio.current_time()
            count = await log.terms_count()
            self._round_trip_seconds = anyio.current_time() - asked_at
            if count != self._terms_count:
                await self._learn_terms(log)
            self._beaten = True
            self._beat_at = anyio.current_time()
            self._beat_deadline = anyio.current_time() + self._heartbeat_timeout_seconds
        if not self._joined and (beaten or self._joining_to or self._unrelated_since < math.inf):
            await self._join(log, report)
        return True

    async def _last_look(self, ear: Ear, published: bytes) -> list[tuple[bytes, bytes]]:
        """What has arrived all the same, to the first message that is a listener's."""
        deadline = anyio.current_time() + LAST_LOOK_SECONDS
        arrived: list[tuple[bytes, bytes]] = []
        while True:
            more = await ear.messages(deadline)
            arrived += more
            if not more or not _all_on(published, more) or anyio.current_time() >= deadline:
                return arrived

    def _next_look(self) -> float:
        if self._unrelated_since < math.inf:
            return anyio.current_time() + RELATE_POLL_SECONDS
        return self._beat_deadline

    async def _join(self, log: Log, report: Report) -> None:
        """One step towards joining: be related, read what was missed, catch up with what is heard beside the log."""
        if self.tail is not None and self._delivery.unrelated(self.tail.term):
            self._joining_to = None  # another session was opened beside the log while it was joining
        if self._joining_to is None:
            end = (await log.state()).tail
            if end is None or not await self._related(log, end):
                return
            if not await self._start_at(log, end):
                return
            if self._delivery.beside:
                telemetry.switching_to_redis()
            await self._catch_up(log)
            self._joining_to = self._delivery.newest(end.term) or end
        if self.tail is not None and self._caught_up(self.tail):
            self._joined, self._joining_to = True, None
            self._delivery.joined()
            report(FeedState("redis"))

    def _caught_up(self, tail: Position) -> bool:
        """Whether the log was read to where it ended when joining began, and to the marker of every session beside it,
        also of one that was opened meanwhile: what came before a marker, only the log can bring."""
        convert = self._delivery.timeline.convert
        end = convert(self._joining_to, tail.term) if self._joining_to else None
        markers = [convert(Position(term, 0), tail.term) for term in self._delivery.beside]
        return (end is None or tail >= end) and all(marker is not None and tail >= marker for marker in markers)

    async def _related(self, log: Log, end: Position) -> bool:
        """Whether the log's numbering is related to all that was heard beside it; past a limit, give that up."""
        delivery = self._delivery
        if delivery.unrelated(end.term):
            await self._learn_terms(log)
        unrelated = delivery.unrelated(end.term)
        if not unrelated:
            self._unrelated_since = math.inf
            return True
        now, newest = anyio.current_time(), list(delivery.beside)[-1]
        if self._beaten:
            self._unrelated_since = min(self._unrelated_since, now)
        if now < self._unrelated_since + (BEHIND_SECONDS if newest in unrelated else RELATE_SECONDS):
            return False
        self._unrelated_since = math.inf
        self._give_up(newest, end)
        return True

    def _give_up(self, newest: int, end: Position) -> None:
        """Deliver nothing from the log that might repeat what was heard beside it; what may be missing is final."""
        delivery = self._delivery
        delivery.settle()
        delivery.beside.clear()
        begun = delivery.timeline.convert(Position(newest, 0), end.term)
        if begun is None:
            delivery.close_beside()
            delivery.continue_with(end.plus(1), "failover", fillable=False)
            self.tail = end
        else:  # only sessions before the newest one are unrelated, so what came after its marker can be told apart
            delivery.beside[newest] = None
            self.tail = begun

    async def _learn_terms(self, log: Log) -> None:
        """The relations beside the log: its markers may have been trimmed, or lie before where this source began."""
        relations = await log.terms()
        self._terms_count = len(relations)
        for term, heard_at in relations:
            learn(self._delivery.timeline, Position(term, 0), heard_at)

    async def _start_at(self, log: Log, end: Position) -> bool:
        """Where to begin to read: where this source was, or else where the other one began.

        Or else where the log's term begins: nobody hears anything yet, and clients of other workers may go on here.
        False where the log, ending at `end`, has not come to where the other one began.
        """
        if self.tail is not None:
            return True
        began = [self._delivery.timeline.convert(Position(term, 0), end.term) for term in self._delivery.beside]
        positions = [position for position in began if position is not None]
        if positions:
            if not await self._remember(log, end):
                return False
            self.tail = min(positions)
            return True
        self.tail = await self._begin_of_term(log, end) if self._delivery.position is None else end
        self._delivery.continue_with(self.tail.plus(1), "failover", fillable=False)
        return True

    async def _begin_of_term(self, log: Log, end: Position) -> Position:
        """Before the oldest entry of the term that the log ends in."""
        oldest = await log.read(Position(end.term, -1), 1)
        return oldest[0].position.plus(-1) if oldest and oldest[0].position <= end else end

    async def _remember(self, log: Log, end: Position) -> bool:
        """Read what the log's term holds of what came before delivery began; False where it has not come so far."""
        past = self._delivery.past
        began = self._delivery.timeline.convert(past.before, end.term) if past is not None else None
        if past is None or began is None:
            return True
        if end.plus(1) < began:
            return False
        at = Position(end.term, -1)
        floor = at if at.plus(1) < began else None
        events: list[Event] = []
        while at.plus(1) < began:
            entries = await log.read(at)
            if not entries:
                return False
            for entry in entries:
                at, follows = entry.position, at.plus(1)
                if at != follows:  # the oldest ones were trimmed, or the log's term has ended before
                    floor = at.plus(-1) if at < began else None
                    events.clear()
                if at >= began:
                    break
                if entry.event is not None:
                    events.append(entry.event)
        self._delivery.remember(past.before.plus(-1) if floor is None else floor, events)
        return True

    async def _take_live(self, log: Log, message: bytes, origin: Origin) -> None:
        """Take live entries. Where one does not follow, the stream has it and all after it: XADD comes first."""
        lines = message.split(b"\n")
        run = read_run(lines) if len(lines) > 1 else ()
        if run and self.tail is not None and run[0].position == (self.tail.term, self.tail.seq + 1):
            self.tail = run[-1].position
            self._delivery.offer(run, origin)
        elif not self._take(log.live_entries(message), origin):
            await self._catch_up(log)

    async def _catch_up(self, log: Log) -> None:
        """Read the stream from the last position seen to its end."""
        end = (await log.state()).tail
        if end is None:
            return  # emptied: what is appended next will show where it goes on
        if self.tail is not None and end < self.tail:
            begun_anew = end.term < self.tail.term
            begin = await self._begin_of_term(log, end) if begun_anew else end
            known = self._delivery.knows(end)
            if begun_anew and (known or self._delivery.beside):
                self.tail = begin
            elif not known:
                self._jump(begin.plus(1))
            # Else the log lost its newest entries, which were read before, and a listener appends them again.
        while self.tail is None or self.tail < end:
            entries = await log.read(self.tail)
            if not entries:
                return
            while not self._take(entries):
                entries = [entry for entry in entries if self.tail is None or entry.position > self.tail]
                self._jump(entries[0].position)

    def _jump(self, before: Position) -> None:
        """The stream goes on at `before`, which does not follow what was seen last: the log misses something.

        What it misses was heard beside it, where something was; else it is lost. A pending hole that the log cannot
        fill ends as a final gap when it is settled.
        """
        delivery, tail = self._delivery, self.tail
        if tail is not None and delivery.position is not None:
            after = delivery.position if delivery.beside else tail
            missing = delivery.missing(after, before)
            if missing or (missing is None and not delivery.beside):
                reason: GapReason = "history_trimmed" if tail.term == before.term else "postgres_session_lost"
                delivery.settle()
                delivery.continue_with(before, reason, fillable=False)
            if tail.term == before.term and delivery.unrelated(before.term):
                self._torn_term = before.term
        self.tail = before.plus(-1)

    def _take(self, entries: Sequence[Entry], origin: Origin | None = None) -> bool:
        """Deliver the entries that follow, skip those seen before; False where one does neither, and all after it."""
        fresh: list[Event] = []
        delivery, tail, complete = self._delivery, self.tail, True
        for entry in entries:
            position = entry.position
            if tail is not None and position != (tail.term, tail.seq + 1):
                if position <= tail:
                    continue
                complete = False
                break
            tail = position
            if entry.event is not None:
                fresh.append(entry.event)
                continue
            self._offer(fresh, origin)
            fresh = []
            if entry.marker is not None and entry.marker.digest == self._digest:
                learn(delivery.timeline, Position(entry.marker.term, 0), position)
            delivery.passed(position)
        self.tail = tail
        self._offer(fresh, origin)
        return complete

    def _offer(self, fresh: Sequence[Event], origin: Origin | None) -> None:
        """Deliver events of one term of the log.

        But not of a torn one: the marker of a session beside it may be what is missing, and then nobody can tell what
        that session has brought already. The gap that the session left behind stays one.
        """
        torn = self._torn_term
        if torn is not None and fresh and fresh[0].position.term == torn and self._delivery.unrelated(torn):
            return
        self._delivery.offer(fresh, origin)


def _all_on(channel: bytes, messages: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether no message has come on another channel."""
    return all(one == channel for one, _ in messages)
