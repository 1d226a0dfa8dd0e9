"""One run that repeats: trio under virtual time, every choice from one seed, and processes that can be paused.

A simulated process is a tree of trio tasks that share a context variable. Pausing it parks its tasks where trio would
run them next: as with SIGSTOP, timers go on and bytes arrive, and nobody looks before it is resumed.
"""

import contextvars
import heapq
import itertools
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import trio
from outcome import Outcome
from trio._core import _run
from trio.testing import MockClock

current_process: contextvars.ContextVar["Freezer | None"] = contextvars.ContextVar("process", default=None)
"""To be set in the first task of a process."""
LONGEST_SECONDS = 2000.0
"""Of virtual time: no run takes a tenth of it."""
_reschedule = _run.Runner.reschedule


class Freezer:
    """The tasks of one process do not go on between `pause` and `resume`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self._parked: list[trio.lowlevel.Task] = []

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        parked, self._parked = self._parked, []
        _run.GLOBAL_RUN_CONTEXT.runner.runq.extend(parked)

    def park(self, task: trio.lowlevel.Task) -> None:
        self._parked.append(task)


def _reschedule_unless_paused(runner: Any, task: trio.lowlevel.Task, *outcome: Outcome[object]) -> None:
    _reschedule(runner, task, *outcome)
    freezer = task.context.get(current_process)
    if freezer is not None and freezer.paused:
        freezer.park(runner.runq.pop())


@contextmanager
def repeatable(seed: int) -> Iterator[random.Random]:
    """Every choice of trio, of the product and of the caller follows from the seed."""
    state, choices = random.getstate(), random.Random(seed)
    scheduling = _run._r.getstate()
    _run._r.seed(choices.getrandbits(32))
    random.seed(choices.getrandbits(32))
    with (
        mock.patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        mock.patch.object(_run.Runner, "reschedule", _reschedule_unless_paused),
        mock.patch.object(secrets, "token_hex", lambda size: choices.randbytes(size).hex()),
    ):
        try:
            yield random.Random(choices.getrandbits(32))
        finally:
            random.setstate(state)
            _run._r.setstate(scheduling)


def run(seed: int, main: Callable[[random.Random], Awaitable[None]]) -> None:
    """Run `main` in virtual time, which starts at 0 and jumps whenever nobody can go on.

    Raises trio.TrioInternalError where it does not end, so that its plan is known.
    """

    async def watched(choices: random.Random) -> None:
        trio.lowlevel.spawn_system_task(_end_at, LONGEST_SECONDS)
        await main(choices)

    with repeatable(seed) as choices:
        trio.run(watched, choices, clock=MockClock(autojump_threshold=0))


async def _end_at(seconds: float) -> None:
    await trio.sleep(seconds)
    raise TimeoutError(f"the run has not ended after {seconds:g} s of virtual time")


class Agenda:
    """What happens outside of all processes, and when: packets that arrive, servers that act."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._sooner = trio.Event()

    def at(self, when: float, act: Callable[..., None], *arguments: Any) -> None:
        """Call `act` at this time; what is due at the same time is done in the order of the calls to `at`."""
        entry = (when, next(self._numbers), act, arguments)
        heapq.heappush(self._due, entry)
        if self._due[0] is entry:
            self._sooner.set()

    async def run(self) -> None:
        due = self._due
        while True:
            now = trio.current_time()
            while due and due[0][0] <= now:
                _, _, act, arguments = heapq.heappop(due)
                act(*arguments)
            self._sooner = trio.Event()
            with trio.CancelScope(deadline=due[0][0]) if due else trio.CancelScope():
                await self._sooner.wait()
