"""From the log in Redis: subscribe first, then read the stream, then live; a hole in live is filled from the stream.

Inside one term the log has no holes, so a reader that knows the last position it saw knows whether the next one
follows. A message that does not is a hole in pub/sub only, and the stream has what is missing. A hole in the stream
itself was trimmed, and a new term is what the log's writers say when something may have been lost.
"""

import math
from collections.abc import Sequence

import anyio

from bridge import telemetry
from bridge.core.events import Entry, Event
from bridge.core.position import Position
from bridge.feed.delivery import Delivery
from bridge.feed.direct_source import learn
from bridge.feed.source import FeedState, Report
from bridge.links.openers import Links, Log
from bridge.links.redis_log import read_beat


class LogSource:
    """Follows the log from its tail on, and after a loss from where it was. One connection hears, another one reads."""

    def __init__(self, links: Links, delivery: Delivery, heartbeat_timeout_seconds: float) -> None:
        self.tail: Position | None = None
        """The newest position of the log that was seen."""
        self._links = links
        self._delivery = delivery
        self._heartbeat_timeout_seconds = heartbeat_timeout_seconds
        self._beat_deadline = -math.inf
        self._started = False

    async def run(self, report: Report) -> None:
        """Bring the log's events. Never returns; raises RedisLost. Live while some listener's heartbeat is heard."""
        async with self._links.ear() as ear, self._links.log() as log:
            await ear.subscribe(log.live_channel, log.control_channel)
            await self._start(log)
            telemetry.connected_to_redis()
            if await log.listeners_beating() is not None:
                self._heard_beat(report)
            else:
                report(FeedState("none", "no listener has been heard yet"))
            live, control = log.live_channel.encode(), log.control_channel.encode()
            while True:
                messages: Sequence[tuple[bytes, bytes]] = ()
                with anyio.CancelScope(deadline=self._beat_deadline) if self._awaits_beat else anyio.CancelScope():
                    messages = await ear.messages()
                for channel, data in messages:
                    if channel == live:
                        await self._hear(log, log.live_entries(data))
                    elif channel == control and (beat := read_beat(data)) is not None:
                        if beat.tail is not None and beat.tail != self.tail:
                            await self._catch_up(log)
                        self._heard_beat(report)
                if anyio.current_time() >= self._beat_deadline and self._awaits_beat:
                    self._beat_deadline = -math.inf
                    silence = f"no listener has been heard for {self._heartbeat_timeout_seconds:g} s"
                    telemetry.log.warning("The log in Redis is not being written: %s", silence)
                    report(FeedState("none", silence))

    @property
    def _awaits_beat(self) -> bool:
        return self._beat_deadline > -math.inf

    def _heard_beat(self, report: Report) -> None:
        self._beat_deadline = anyio.current_time() + self._heartbeat_timeout_seconds
        report(FeedState("redis"))

    async def _start(self, log: Log) -> None:
        self._beat_deadline = -math.inf
        if self._started:
            await self._catch_up(log)
            return
        self.tail = (await log.open()).tail
        self._started = True
        if self.tail is not None:
            self._delivery.begin(self.tail)

    async def _hear(self, log: Log, entries: Sequence[Entry]) -> None:
        """Take live entries. Where one does not follow, the stream has it and all after it: XADD comes first."""
        if not self._take(entries):
            await self._catch_up(log)

    async def _catch_up(self, log: Log) -> None:
        """Read the stream from the last position seen to its end."""
        end = (await log.state()).tail
        if end is None:
            return  # emptied: what is appended next will show where it goes on
        if self.tail is not None and end < self.tail:
            if end.term == self.tail.term:
                return  # the log lost its newest entries, which were delivered; a listener appends them again
            self._jump(None, end.plus(1))
            return
        while self.tail is None or self.tail < end:
            entries = await log.read(self.tail)
            if not entries:
                return
            while not self._take(entries):
                entries = [entry for entry in entries if self.tail is None or entry.position > self.tail]
                self._jump(self.tail, entries[0].position)

    def _jump(self, after: Position | None, before: Position) -> None:
        """The stream goes on at `before`, which does not follow what was seen last: something is missing."""
        last = self._delivery.timeline.convert(self.tail, before.term) if self.tail is not None else None
        if last is None or last.seq < before.seq - 1:
            same_term = self.tail is not None and self.tail.term == before.term
            self._delivery.gap(after, before, "history_trimmed" if same_term else "postgres_session_lost")
        self.tail = before.plus(-1)
        self._delivery.begin(self.tail)

    def _take(self, entries: Sequence[Entry]) -> bool:
        """Deliver the entries that follow, skip those seen before; False where one does neither, and all after it."""
        fresh: list[Event] = []
        tail, complete = self.tail, True
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
            elif entry.marker is not None:
                learn(self._delivery.timeline, Position(entry.marker.term, 0), position)
        self.tail = tail
        self._delivery.events(fresh)
        if tail is not None:
            self._delivery.position = tail
        return complete
