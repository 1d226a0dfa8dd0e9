"""One child as the supervisor sees it: started, talked with, waited for, and never left behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import trio

from bridge.errors import BridgeError, SettingsError
from bridge.pod import snapshot
from bridge.pod.assignment import Assignment
from bridge.pod.control import Control, Kind
from bridge.pod.member import Failure
from bridge.pod.merge_status import State
from bridge.pod.snapshot import Snapshot

PATIENCE_SECONDS = 30.0
"""For the listener, which begins before the workers: on a busy machine a process takes many seconds to begin."""
LAST_WORDS_SECONDS = 1.0
"""For what a child told before it ended."""

_ROOT = str(Path(__file__).parents[2])


@dataclass(frozen=True)
class Ended:
    """How a child ended. `error` is what it said of that, if anything."""

    pid: int
    returncode: int
    error: BridgeError | None

    def __str__(self) -> str:
        if self.returncode < 0:
            try:
                return f"was ended by {signal.Signals(-self.returncode).name}"
            except ValueError:
                return f"was ended by signal {-self.returncode}"
        return f"ended with code {self.returncode}"


class NotStartedError(BridgeError):
    """There was no process to be had, or no descriptors for it; later there may be."""


class Charge:
    """One of the supervisor's children, through all its lives."""

    def __init__(
        self,
        assignment: Assignment,
        descriptors: Sequence[int],
        told: Callable[["Charge", Kind, bytes], None],
        answer: Callable[[Kind], Awaitable[bytes]],
    ) -> None:
        self.name = assignment.name
        self.role: Literal["listener", "worker"] = assignment.role
        self.restarts = 0
        self.ready = trio.Event()
        """Whether it works now; a new one for each life."""
        self.url = ""
        self.works = False
        """What it told last of its work."""
        self.snapshot: Snapshot | None = None
        """The last of this life."""
        self.silent = False
        """Whether it did not answer the last question in time."""
        self._assignment = assignment
        self._descriptors = tuple(descriptors)
        self._tell_supervisor = told
        self._answer = answer
        self._process: trio.Process | None = None
        self._control: Control | None = None
        self._error: BridgeError | None = None
        self._unwanted = False
        """Whether it was killed for good."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def state(self) -> State:
        if not self.ready.is_set():
            return "starting"
        return "silent" if self.silent else "up"

    async def live(self, after: trio.Event) -> Ended:
        """One life: start it and wait for its end. Cancelling kills it.

        It gets ready to work at once, and begins after this event (or does not wait for it any longer). Raises
        NotStartedError.
        """
        process, control, assignment = await self._begin()
        try:
            if self._unwanted:
                process.kill()
            async with trio.open_nursery() as nursery:
                heard_all = trio.Event()
                nursery.start_soon(_hand_over, process, assignment.to_bytes(), after)
                nursery.start_soon(_talk, control, heard_all)
                await process.wait()
                with trio.move_on_after(LAST_WORDS_SECONDS):
                    await heard_all.wait()
                nursery.cancel_scope.cancel()
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()  # a killed process ends
            self._process = self._control = None
        ended = Ended(process.pid, process.returncode or 0, self._error)
        self.ready, self.works, self.silent, self._error = trio.Event(), False, False, None
        return ended

    async def _begin(self) -> tuple[trio.Process, Control, Assignment]:
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    process = await _start(self.role, [theirs.fileno(), *self._descriptors])
                except BaseException:
                    ours.close()
                    raise
                assignment = replace(self._assignment, control=theirs.fileno())
        except OSError as error:
            raise NotStartedError(f"cannot start {self.name}: {error.strerror or error}") from error
        ours.setblocking(False)
        self._process, self._control = process, Control(ours, self._told, self._answer)
        return process, self._control, assignment

    def take_snapshot(self) -> Snapshot | None:
        """The last of a life that has ended, once."""
        snapshot, self.snapshot = self.snapshot, None
        return snapshot

    def tell(self, kind: Kind, body: bytes = b"") -> None:
        if self._control is not None:
            self._control.tell(kind, body)

    def kill(self) -> None:
        """End it at once, for good; one that is just being started ends as soon as it is."""
        self._unwanted = True
        if self._process is not None:
            self._process.kill()

    async def look(self, seconds: float) -> None:
        """Ask what it says of itself; where it does not answer, what it said before stays."""
        if self._control is None or not self.ready.is_set():
            return
        life = self.ready
        body = await self._control.ask("snapshot", seconds)
        if life is not self.ready:
            return
        self.silent = body is None
        if body:
            self.snapshot = snapshot.decode(body)

    def _told(self, kind: Kind, body: bytes) -> None:
        if kind == "ready":
            self.url = body.decode()
            self.ready.set()
        elif kind == "failed":
            failure = msgspec.msgpack.decode(body, type=Failure)
            self._error = (SettingsError if failure.setting else BridgeError)(f"{self.name}: {failure.text}")
        elif kind == "works":
            self.works = bool(body)
        self._tell_supervisor(self, kind, body)


async def _start(role: str, descriptors: Sequence[int]) -> trio.Process:
    """A process in a group of its own, which a terminal's signals do not reach. It writes to our standard error."""
    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    return await trio.lowlevel.open_process(
        [sys.executable, "-P", "-m", "bridge.pod.child", role],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=descriptors,
        process_group=0,
        env=os.environ | {"PYTHONPATH": path},
    )


async def _hand_over(process: trio.Process, assignment: bytes, after: trio.Event) -> None:
    with trio.move_on_after(PATIENCE_SECONDS):
        await after.wait()
    assert process.stdin is not None  # noqa: S101 - it was started with a pipe
    async with process.stdin:
        with suppress(trio.BrokenResourceError):  # it has ended already, which is noticed elsewhere
            await process.stdin.send_all(assignment)


async def _talk(control: Control, heard_all: trio.Event) -> None:
    await control.run()
    heard_all.set()
