"""Trio under virtual time, with an order of its tasks that the seed decides."""

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from unittest import mock

import trio
from outcome import Outcome
from trio._core import _run
from trio.testing import MockClock

from tests.sim.freezer import current_process

_reschedule = _run.Runner.reschedule


def run_on_trio(seed: int, main: Callable[[], Awaitable[None]], longest_seconds: float) -> None:
    """Run `main`. Raises trio.TrioInternalError where it does not end in so much virtual time."""

    async def watched() -> None:
        trio.lowlevel.spawn_system_task(_end_at, longest_seconds)
        await main()

    with (
        mock.patch.object(_run, "_r", random.Random(seed)),
        mock.patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        mock.patch.object(_run.Runner, "reschedule", _reschedule_unless_paused),
    ):
        trio.run(watched, clock=MockClock(autojump_threshold=0))


def _reschedule_unless_paused(runner: Any, task: trio.lowlevel.Task, *outcome: Outcome[object]) -> None:
    _reschedule(runner, task, *outcome)
    freezer = task.context.get(current_process)
    if freezer is not None and freezer.paused:
        freezer.park(partial(runner.runq.append, runner.runq.pop()))


async def _end_at(seconds: float) -> None:
    await trio.sleep(seconds)
    raise TimeoutError(f"the run has not ended after {seconds:g} s of virtual time")
