"""From the listener of the same process: what it heard is on its tape, so no second connection is needed."""

from collections.abc import Sequence
from typing import Protocol

import anyio

from bridge.core.events import Heard
from bridge.core.position import Position, Timeline
from bridge.feed.delivery import Delivery
from bridge.feed.direct_source import deliver_heard
from bridge.feed.source import FeedState, Report
from bridge.links.openers import Session
from bridge.telemetry import Observable

BATCH_ENTRIES = 500


class Segment(Protocol):
    """An unbroken run of positions on the tape, from the index `start` on."""

    start: int


class Tape(Protocol):
    """What the listener heard, by index, as `bridge.relay.tape.Tape` keeps it."""

    end: int

    @property
    def segments(self) -> Sequence[Segment]: ...
    @property
    def start(self) -> int: ...
    @property
    def last(self) -> Position | None: ...
    def after(self, position: Position, timeline: Timeline) -> int | None: ...
    def go_on(self, index: int, last: Position | None, timeline: Timeline) -> int: ...
    async def grown(self, index: int) -> None: ...
    def read(self, index: int, count: int) -> Sequence[Heard]: ...
    def run(self, index: int, count: int) -> Sequence[Heard]: ...
    def mark_written(self, index: int) -> None: ...


class Listener(Protocol):
    """The LISTEN session of this process."""

    session: Observable[Session | None]
    draining: Observable[bool]


class LocalSource:
    """Follows the tape from where delivery stands. Without a log, what was delivered counts as written."""

    def __init__(self, listener: Listener, tape: Tape, digest: str, delivery: Delivery, *, beside_log: bool) -> None:
        self._listener = listener
        self._tape = tape
        self._digest = digest
        self._delivery = delivery
        self._beside_log = beside_log

    @property
    def view(self) -> None:
        """The listener itself says how its session is."""
        return

    async def run(self, report: Report) -> None:
        """Bring what the listener hears. Never returns, never fails: the listener opens its sessions itself."""
        if not self._beside_log:
            self._listener.draining.set(True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_for_loss, report)
            await self._follow(report)

    async def _follow(self, report: Report) -> None:
        delivery, tape = self._delivery, self._tape
        index, last = self._join(), None
        joined = False
        while True:
            joined = joined or index >= tape.end
            if joined and self._listener.session.value is not None and tape.end > 0:
                report(FeedState("direct"))
            await tape.grown(index)
            if self._beside_log and not delivery.beside_open:
                return  # the log has joined meanwhile, and this source is about to be cancelled
            index = tape.go_on(index, last, delivery.timeline)
            heard = tape.run(index, BATCH_ENTRIES)
            if not heard:
                continue
            index += len(heard)
            last = heard[-1].position
            self._continue_with(heard[0].position)
            deliver_heard(delivery, heard, self._digest)
            if not self._beside_log:
                tape.mark_written(index)
            await anyio.lowlevel.checkpoint()

    def _join(self) -> int:
        """The index of the first entry to deliver: what follows the newest one delivered.

        Or else the session's first one: nobody hears anything yet, and clients of other workers may go on here.
        """
        tape, position = self._tape, self._delivery.position
        if position is not None:
            index = tape.after(position, self._delivery.timeline)
            return tape.end if index is None else index
        begin = max(tape.segments[-1].start, tape.start) if tape.segments else tape.end
        if begin >= tape.end and tape.last is not None:
            self._continue_with(tape.last.plus(1))
        return begin

    def _continue_with(self, first: Position) -> None:
        if self._beside_log:
            self._delivery.beside[first.term] = None
        self._delivery.continue_with(first, "postgres_session_lost", fillable=self._beside_log)

    async def _watch_for_loss(self, report: Report) -> None:
        while True:
            session = await self._listener.session.wait_for(lambda now: now is not None)
            await self._listener.session.wait_for(lambda now, was=session: now is not was)  # type: ignore[misc]
            if self._listener.session.value is None:
                report(FeedState("none", "the LISTEN session is lost"))
