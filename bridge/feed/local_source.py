"""From the listener of the same process: what it heard is on its tape, so no second connection is needed."""

from collections.abc import Sequence
from typing import Protocol

import anyio

from bridge.core.events import Heard, Marker
from bridge.core.position import Position
from bridge.feed.delivery import Delivery
from bridge.feed.direct_source import begin_session, deliver_heard
from bridge.feed.source import FeedState, Report
from bridge.links.openers import Session
from bridge.telemetry import Observable

BATCH_ENTRIES = 500


class Tape(Protocol):
    """What the listener heard, by index, as `bridge.relay.tape.Tape` keeps it."""

    end: int

    @property
    def last(self) -> Position | None: ...
    async def grown(self, index: int) -> None: ...
    def run(self, index: int, count: int) -> Sequence[Heard]: ...
    def mark_written(self, index: int) -> None: ...


class Listener(Protocol):
    """The LISTEN session of this process."""

    session: Observable[Session | None]
    draining: Observable[bool]


class LocalSource:
    """Follows the tape from its end on. The tape has no publisher: what was delivered counts as written."""

    def __init__(self, listener: Listener, tape: Tape, digest: str, delivery: Delivery) -> None:
        self._listener = listener
        self._tape = tape
        self._digest = digest
        self._delivery = delivery

    async def run(self, report: Report) -> None:
        """Bring what the listener hears. Never returns, never fails: the listener opens its sessions itself."""
        self._listener.draining.set(True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_for_loss, report)
            await self._follow(report)

    async def _follow(self, report: Report) -> None:
        tape, index = self._tape, self._tape.end
        if self._listener.session.value is not None and tape.last is not None:
            self._delivery.begin(tape.last)
            report(FeedState("direct"))
        while True:
            await tape.grown(index)
            heard = tape.run(index, BATCH_ENTRIES)
            index += len(heard)
            if _is_own_marker(heard[0]):
                begin_session(self._delivery, heard[0].position)
                heard = heard[1:]
                report(FeedState("direct"))
            deliver_heard(self._delivery, heard, self._digest)
            tape.mark_written(index)
            await anyio.lowlevel.checkpoint()

    async def _watch_for_loss(self, report: Report) -> None:
        while True:
            session = await self._listener.session.wait_for(lambda now: now is not None)
            await self._listener.session.wait_for(lambda now, was=session: now is not was)  # type: ignore[misc]
            report(FeedState("none", "the LISTEN session is lost"))


def _is_own_marker(heard: Heard) -> bool:
    return isinstance(heard.body, Marker) and heard.body.term == heard.position.term
