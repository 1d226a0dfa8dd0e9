"""What every child does beside its work: it answers the supervisor, hears its orders, and says why it fails."""

import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
import trio

from bridge.errors import BridgeError, SettingsError
from bridge.pod import snapshot
from bridge.pod.assignment import Assignment
from bridge.pod.control import Control, Kind
from bridge.pod.snapshot import Snapshot
from bridge.pod.together import Together
from bridge.signals import received
from bridge.telemetry import Metrics, error_text, log

ASK_SECONDS = 0.95
"""For two looks of the supervisor at all others. Who comes while one question is under way waits for two of these."""
ORDERS = 16
"""That wait to be obeyed. To read files again is not worth more."""
FLUSH_SECONDS = 1.0
_ORDERS: Final[dict[str, tuple[int, ...]]] = {
    "reload": (signal.SIGHUP,),
    "drain": (signal.SIGTERM,),
    "end": (signal.SIGTERM, signal.SIGTERM),
}


class Failure(msgspec.Struct):
    """Why a child cannot work, for a person; `setting`: a setting or a file that it names is to blame."""

    text: str
    setting: bool


class Member:
    """This process as a part of its pod."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.listener_works = not assignment.with_listener
        """Whether the pod's listener works, as the supervisor told; also where there is none."""
        self.orphaned = trio.Event()
        """Set when the supervisor is gone."""
        self.observe: Callable[[], Snapshot] | None = None
        """What this process says of itself; the work sets it."""
        self._orders, self._ordered = trio.open_memory_channel[int](ORDERS)
        self.ending = False
        """Whether an order to end has come."""
        end = socket.socket(fileno=assignment.control)
        end.setblocking(False)
        self._control = Control(end, self._told, self._answer)
        self._status = Together(partial(self._control.ask, "status", ASK_SECONDS))
        self._metrics = Together(partial(self._control.ask, "metrics", ASK_SECONDS))

    @property
    def signals(self) -> AsyncIterator[int]:
        """Orders, as the signals that would mean the same: the first SIGTERM drains, the second ends at once."""
        return self._ordered

    def ready(self, url: str = "") -> None:
        """The work has begun; a worker accepts connections at this URL."""
        self._control.tell("ready", url.encode())

    async def failed(self, error: BridgeError) -> None:
        failure = Failure(error_text(error), isinstance(error, SettingsError))
        self._control.tell("failed", msgspec.msgpack.encode(failure))
        await self._control.flush(FLUSH_SECONDS)

    def says_whether_it_works(self, works: bool) -> bool:
        """Whether a listener brings what it hears into the log; False where this could not be told now."""
        return self._control.tell("works", b"1" if works else b"")

    async def ask(self, kind: Kind) -> bytes | None:
        """What the whole pod says; None where the supervisor does not answer in time. A crowd asks it as one."""
        return await (self._metrics if kind == "metrics" else self._status).get() or None

    async def run(self) -> None:
        """Talk with the supervisor. Returns when it is gone."""
        await self._control.run()
        self.orphaned.set()
        log.error("The supervisor of this process is gone, ending")
        self.order("drain")

    async def obey_signals(self) -> None:
        """A signal to this process alone is an order, too, but nobody ends it the hard way by repeating SIGTERM."""
        with received(signal.SIGTERM) as numbers:
            async for number in numbers:
                self.order("reload" if number == signal.SIGHUP else "drain")

    def order(self, kind: Kind) -> None:
        if kind == "drain" and self.ending:
            return
        self.ending = self.ending or kind in ("drain", "end")
        for number in _ORDERS.get(kind, ()):
            with suppress(trio.WouldBlock):
                self._orders.send_nowait(number)

    def _told(self, kind: Kind, body: bytes) -> None:
        if kind == "works":
            self.listener_works = bool(body)
        else:
            self.order(kind)

    async def _answer(self, kind: Kind) -> bytes:
        if kind != "snapshot" or self.observe is None:
            return b""
        return snapshot.encode(self.observe())


async def run(assignment: Assignment, work: Callable[[Member], Awaitable[None]]) -> int:
    """Work until an order ends it; the exit code."""
    member = Member(assignment)
    failures: list[BridgeError] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.run)
        try:
            await work(member)
        except* BridgeError as group:
            failures.append(_first(group))
        if failures:
            await member.failed(failures[0])
        nursery.cancel_scope.cancel()
    return 1 if failures else 0


def taken(metrics: Metrics, status: dict[str, object]) -> Snapshot:
    """A snapshot of this process now."""
    metrics.observe()
    return Snapshot(status, snapshot.families(metrics.registry))


def _first(group: BaseExceptionGroup[BridgeError]) -> BridgeError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
