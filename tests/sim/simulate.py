"""One run of a plan, and what was wrong with it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from unittest import mock

import anyio

from tests.sim.faults import Faults
from tests.sim.freezer import current_process
from tests.sim.plan import Plan
from tests.sim.runtime import Loop, run
from tests.sim.world import World
from tests.support.oracle import gaps, violations

START_SECONDS = 10.0
"""From the start of everything to the first event, at most."""
HEAL_SECONDS = 30.0
"""From the end of all faults to the usual mode with nothing missing, at most."""
SETTLE_SECONDS = 4.5
"""After the last fault: longer than probes and heartbeats take to notice it."""
LOOK_SECONDS = 0.1
PAUSE_SECONDS = 0.2
"""Between transactions, on average."""


class Result:
    """What came out: the broken promises, and the world for further questions."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.world: World | None = None

    @property
    def gaps(self) -> list[str]:
        """All gaps that clients were told of, pending ones too."""
        assert self.world is not None
        return [f"{view.name}: {gap}" for view in self.world.views for gap in gaps(view)]

    @property
    def final_gaps(self) -> list[str]:
        assert self.world is not None
        return [f"{v.name}: {gap}" for v in self.world.views for gap in gaps(v) if not gap.get("pending", False)]


def simulate(plan: Plan, loop: Loop = "trio", *, verbose: bool = False) -> Result:
    """Run it. With `verbose` the bridge's log goes to standard error, with virtual times."""
    result = Result()

    async def main(choices: Random) -> None:
        await _live_through(plan, World(plan, choices, loop), result, verbose)

    with _logging(verbose):
        run(plan.seed, main, loop)
    return result


async def _live_through(plan: Plan, world: World, result: Result, verbose: bool) -> None:
    result.world = world
    faults = Faults(world)
    with (
        mock.patch("bridge.links.redis._connect", world.connect),
        mock.patch("bridge.links.pod._connect", world.connect_pod),
    ):
        async with anyio.create_task_group() as tasks:
            world.start(tasks)
            if plan.waits and not await _well(world, START_SECONDS):
                result.violations.append(f"not live {START_SECONDS:g} s after the start: {_unwell(world)}")
            traffic = anyio.CancelScope()
            tasks.start_soon(_notify, world, traffic)
            for step in plan.steps:
                await anyio.sleep(step.after)
                if verbose:
                    print(f"{anyio.current_time():9.4f} {step}", file=sys.stderr)
                faults.do(step)
            while anyio.current_time() < faults.healed_at:  # noqa: ASYNC110 - it moves while we wait
                await anyio.sleep_until(faults.healed_at)
            if verbose:
                print(f"{anyio.current_time():9.4f} all faults have ended", file=sys.stderr)
            await anyio.sleep(SETTLE_SECONDS)
            if not await _well(world, HEAL_SECONDS):
                result.violations.append(f"not well {HEAL_SECONDS:g} s after the last fault: {_unwell(world)}")
            traffic.cancel()
            await world.settle()
            await _everything_arrived(world)
            for view in world.present_views:
                view.complete = True
            result.violations += violations(world.committed, world.views)
            tasks.cancel_scope.cancel()


async def _notify(world: World, scope: anyio.CancelScope) -> None:
    with scope:
        while True:
            await anyio.sleep(world.choices.random() * 2 * PAUSE_SECONDS)
            world.commit(world.choices.choice((1, 1, 1, 2, 5)))


async def _well(world: World, seconds: float) -> bool:
    """Wait until all processes are well; False where they are not in time."""
    with anyio.move_on_after(seconds):
        while _unwell(world):  # noqa: ASYNC110 - many small states, and looking costs no real time
            await anyio.sleep(LOOK_SECONDS)
        return True
    return False


def _unwell(world: World) -> list[str]:
    return [
        f"{process.name} {process.feed.state.value if process.feed else ''}"
        for process in world.processes
        if not (process.running and process.well)
    ]


async def _everything_arrived(world: World) -> None:
    """Notify a last time on each channel, and wait until all clients have it and know how their gaps ended."""
    last = dict(world.commit_last())
    with anyio.move_on_after(HEAL_SECONDS):
        for view in world.present_views:
            wanted = {last[channel] for channel in view.channels}
            read = 0
            pending: set[tuple[str, str]] = set()
            while True:
                for message in view.messages[read:]:
                    if message["type"] == "notification":
                        wanted.discard(message["payload"]["n"])
                    elif message["type"] in ("gap", "filled"):
                        bounds = (message["after"], message["before"])
                        (pending.add if message.get("pending") else pending.discard)(bounds)
                read = len(view.messages)
                if not wanted and not pending:
                    break
                await anyio.sleep(LOOK_SECONDS)
    await anyio.sleep(LOOK_SECONDS)


@contextmanager
def _logging(verbose: bool) -> Iterator[None]:
    log = logging.getLogger("bridge")
    before, handlers = log.level, log.handlers
    if verbose:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_VirtualTime("%(message)s"))
        log.handlers = [handler]
        log.setLevel(logging.INFO)
    else:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
        log.handlers = handlers


class _VirtualTime(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        process = current_process.get()
        record.exc_info = record.exc_text = None
        name = process.name if process else ""
        return f"{anyio.current_time():9.4f} {name:10} {record.levelname:8} {super().format(record)}"
