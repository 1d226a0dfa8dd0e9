"""From the tape to the log in Redis: one connection, one append at a time, in order.

Safety needs no lease: every append names the tail it expects, and Redis compares. *Initiative* only avoids waste. The
relay that appended last has it and appends at once; the others poll the tail while they hold entries that it lacks,
and one of them steps in when the tail has stood still for `PATIENCE_SECONDS`.
"""

import random
from contextlib import suppress
from dataclasses import dataclass

import anyio

from bridge import telemetry
from bridge.core.backoff import Backoff
from bridge.core.events import Body
from bridge.core.position import Position, Relation, Timeline
from bridge.errors import ForeignLog, LogRefused, RedisLost, RedisUnusable
from bridge.links.openers import Log, OpenLog
from bridge.links.redis_log import MAX_BATCH_BYTES, MAX_BATCH_ENTRIES, Appended, LogState
from bridge.links.sessions import TERM_SHIFT
from bridge.relay.listener import Listener
from bridge.relay.placement import Append, Break, Remark, UpToDate, place
from bridge.relay.tape import Tape, size_bytes
from bridge.telemetry import Metrics, Observable

BEAT_SECONDS = 1.0
PATIENCE_SECONDS = 0.2
"""A tail that stands still for so long, while entries wait, has lost its appender; jittered up to twice of it."""
POLL_SECONDS = 0.05
FAREWELL_SECONDS = 0.2
GONE_SECONDS = 0.6
"""The same where no other listener beats, or the tail is this relay's own: one that could continue it exactly would
have stepped in by now."""
TAKEOVER_SECONDS = 2.0
"""How long a relay that can only leave a gap waits for one that continues the log exactly."""


@dataclass
class Watch:
    """How long the log has stood at one tail while entries waited."""

    tail: Position | None
    since: float
    jitter: float


class Publisher:
    """Keeps the log up to date with the tape. Needs the listener's timeline to convert positions."""

    def __init__(
        self,
        open_log: OpenLog,
        listener: Listener,
        tape: Tape,
        timeline: Timeline,
        nonce: str,
        retry_seconds: float,
        heartbeat_timeout_seconds: float,
        metrics: Metrics,
    ) -> None:
        self.connected = False
        self.caught_up = Observable(False)
        """Whether, when last looked at, the log held everything on the tape."""
        self.appending = False
        """Whether this relay has the initiative."""
        self.holding_back = False
        """Whether entries wait because they could only follow the log after a gap."""
        self.error: Exception | None = None
        """Why the log does not take entries now."""
        self.tail: Position | None = None
        """Where the log ended when last seen; it is also the numbering to continue when Redis comes back empty."""
        self.round_trip_seconds: float | None = None
        """How long Redis took for the last append, or the last look at the log."""
        self._open_log = open_log
        self._listener = listener
        self._tape = tape
        self._timeline = timeline
        self._nonce = nonce
        self._retry_seconds = retry_seconds
        self._heartbeat_timeout_seconds = heartbeat_timeout_seconds
        self._metrics = metrics
        self._state = LogState(None, None)
        self._watch: Watch | None = None
        self._next_beat = 0.0
        self._beating = False
        self._incarnation: str | None = None
        self._shared: set[int] = set()
        """Terms whose relation was written into the log's `:terms`."""
        self._shared_version = -1
        metrics.observe_with(self._observe)

    async def run(self) -> None:
        """Never returns. Cancelling tells the others that this relay is gone, where that is possible at once."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wake_for_beats)
            await self._run()

    async def _wake_for_beats(self) -> None:
        """One timer for all waits: a wait for the tape comes with every notification, a beat once a second."""
        while True:
            await anyio.sleep_until(max(self._next_beat, anyio.current_time() + POLL_SECONDS))
            if self.connected and self._beat_due:
                self._tape.wake()

    async def _run(self) -> None:
        backoff = Backoff(self._retry_seconds)
        while True:
            try:
                async with self._open_log() as log:
                    await self._keep_up(log, backoff)
            except (RedisLost, LogRefused, ForeignLog) as error:
                self.error = error
                self._metrics.reconnects.labels("redis").inc()
                telemetry.connection_error(error, first=backoff.failures == 0)
                delay = backoff.next(random.random(), lasting=isinstance(error, RedisUnusable | ForeignLog))
                telemetry.reconnecting(delay)
                await anyio.sleep(delay)

    async def _keep_up(self, log: Log, backoff: Backoff) -> None:
        self._saw(await log.open())
        self.appending = await self._is_alone(log)
        telemetry.connected_to_redis()
        self.error, self._next_beat, self.connected = None, 0.0, True
        self._watch = None
        self._listener.draining.set(True)
        refusals = Backoff(self._retry_seconds)
        try:
            while True:
                try:
                    await self._step(log)
                    self.error = None
                    refusals.reset()
                    backoff.reset()
                except LogRefused as error:
                    self.error = error
                    telemetry.connection_error(error, first=refusals.failures == 0)
                    self._listener.draining.set(False)  # a log that takes nothing must not make PostgreSQL's queue wait
                    await anyio.sleep(refusals.next(random.random()))
                    self._listener.draining.set(True)
                    self._saw(await self._look(log))
        finally:
            self.connected, self.round_trip_seconds = False, None
            self.caught_up.set(False)
            self._listener.draining.set(False)
            with anyio.move_on_after(FAREWELL_SECONDS, shield=True), suppress(RedisLost):
                await log.stop_beating(self._nonce)

    async def _step(self, log: Log) -> None:
        """One look at the tape and the tail, and what follows from it."""
        await self._withdraw_if_deaf(log)
        await self._learn(log)
        placement = place(self._tape, self._timeline, self._state.tail, self.tail)
        self.holding_back = isinstance(placement, Break | Remark)
        match placement:
            case UpToDate():
                self.caught_up.set(True)
                self._tape.mark_written(self._tape.end)
                self._watch = None
                if self._beat_due:
                    await self._beat_if_true(log)
                    return
                await self._tape.grown(self._tape.end)
            case Append(index, at):
                self.caught_up.set(False)
                self._tape.mark_written(index)
                emptied = self._state.tail is None and self.tail is not None  # whoever comes now would begin it anew
                if self.appending or emptied or self._stood_still(PATIENCE_SECONDS, jittered=True):
                    await self._append(log, index, at)
                    if self._beat_due:
                        await self._beat(log)
                else:
                    await self._look_again(log)
            case Break(index, at):
                alone = await self._is_alone(log)
                if self._stood_still(GONE_SECONDS if alone or self.appending else TAKEOVER_SECONDS):
                    if await self._append(log, index, at):
                        telemetry.log.warning(
                            "The log could not be continued exactly: it goes on at %s after a gap", at
                        )
                else:
                    await self._look_again(log)
            case Remark():
                self._listener.mark_again()
                await self._look_again(log)

    def _observe(self) -> None:
        self._metrics.backlog_entries.set(self._tape.end - self._tape.written)
        self._metrics.backlog_bytes.set(self._tape.backlog_bytes)

    async def _append(self, log: Log, index: int, at: Position) -> bool:
        """Append what fits into one batch; False where the log was not as expected, and took nothing."""
        tape = self._tape
        bodies: list[Body] = []
        size = 0
        for heard in tape.run(index, MAX_BATCH_ENTRIES):
            size += size_bytes(heard)
            if size > MAX_BATCH_BYTES and bodies:
                break
            bodies.append(heard.body)
        begin = max(0, tape.published - index)  # the rest was in the log before
        fresh = tape.read(index + begin, 1) if begin < len(bodies) else ()
        arrived = self._listener.arrivals.at(fresh[0].position) if fresh else None
        started = anyio.current_time()
        result = await log.append(self._state, at, bodies, publish_from=begin)
        self.round_trip_seconds = anyio.current_time() - started
        self._metrics.append_seconds.observe(self.round_trip_seconds)
        if isinstance(result, Appended):
            if arrived is not None:
                self._metrics.latency.observe("received_to_appended", arrived)
            self._timeline.relate(at, tape.read(index, 1)[0].position)
            self._metrics.appended.inc(len(bodies))
            self.appending = True
            self._saw(result.state)
            tape.mark_written(index + len(bodies))
            for error in result.troubles:
                telemetry.log.error("Appended to the log, but could not publish: %s", error)
            return True
        self.appending = False
        self._saw(result)
        return False

    async def _learn(self, log: Log) -> None:
        """Read the relations of a tail that is not related to the session, and write ours into a new log."""
        tail, session = self._state.tail, self._listener.session.value
        if tail and session and self._timeline.convert(tail, session.term) is None:
            for term, heard_at in await log.terms():
                if self._timeline.relate(Position(term, 0), heard_at) is Relation.CONTRADICTION:
                    telemetry.log.warning("Ignored a relation in the log that contradicts an earlier one: %d", term)
        if self._state.nonce != self._incarnation and self._state.nonce is not None:
            self._shared.clear()
            await self._share(log)
            self._incarnation = self._state.nonce

    async def _share(self, log: Log) -> None:
        """Write the relations that are new here: workers need them for positions that other workers gave."""
        self._shared_version = self._timeline.version
        relations = list(self._timeline.relations())
        await log.save_terms([pair for pair in relations if pair[0].term not in self._shared])
        self._shared = {one.term for one, _ in relations}

    def _saw(self, state: LogState) -> None:
        self._state = state
        if state.tail is not None:
            if self.tail is not None and self.tail.term != state.tail.term:
                self._timeline.pinned.discard(self.tail.term)
            self.tail = state.tail
            self._timeline.pinned.add(state.tail.term)
            self._listener.keep_above(state.tail.term)

    async def _is_alone(self, log: Log) -> bool:
        """Whether no other listener has beaten of late: the last beat may be of this one's life before."""
        return await log.listeners_beating() in (None, self._nonce)

    def _stood_still(self, seconds: float, *, jittered: bool = False) -> bool:
        """Whether the tail has been the same for so long (jittered: up to twice as long) while entries waited."""
        now, tail = anyio.current_time(), self._state.tail
        if self._watch is None or self._watch.tail != tail:
            self._watch = Watch(tail, now, random.random())
        return now - self._watch.since >= seconds * (1 + self._watch.jitter if jittered else 1)

    async def _look(self, log: Log) -> LogState:
        started = anyio.current_time()
        state = await log.state()
        self.round_trip_seconds = anyio.current_time() - started
        return state

    async def _look_again(self, log: Log) -> None:
        await anyio.sleep(POLL_SECONDS)
        self._saw(await self._look(log))

    @property
    def _beat_due(self) -> bool:
        return anyio.current_time() >= self._next_beat

    async def _beat_if_true(self, log: Log) -> None:
        """Look whether the log still is what it was: an idle listener notices here that Redis came back empty."""
        before = self._state
        self._saw(await self._look(log))
        if self._state == before:
            await self._beat(log)
        else:
            await anyio.sleep(POLL_SECONDS)

    async def _beat(self, log: Log) -> None:
        """Say that this listener hears and appends. Only to be called when the log was just seen to work."""
        self._next_beat = anyio.current_time() + BEAT_SECONDS
        if self._timeline.version != self._shared_version:
            with suppress(LogRefused):  # what is appended tells whether the log takes anything
                await self._share(log)
        session = self._listener.session.value
        if session is not None and session.proven:
            self._beating = True
            process = session.term % 2**TERM_SHIFT
            await log.beat(
                self._state.tail,
                self._nonce,
                self._heartbeat_timeout_seconds,
                process=process,
                appending=self.appending,
            )

    async def _withdraw_if_deaf(self, log: Log) -> None:
        """Without a proven session this listener can continue nothing: the others need not wait for it."""
        if self._beating and not self._listener.proven:
            self._beating = False
            await log.stop_beating(self._nonce)
