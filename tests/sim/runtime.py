"""One run that repeats: an event loop under virtual time, and every choice from one seed."""

import heapq
import itertools
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args
from unittest import mock

import anyio

from tests.sim.on_asyncio import run_on_asyncio
from tests.sim.on_trio import run_on_trio

Loop = Literal["trio", "asyncio"]
LOOPS: tuple[Loop, ...] = get_args(Loop)
LONGEST_SECONDS = 2000.0
"""Of virtual time: no run takes a tenth of it."""


def run(seed: int, main: Callable[[random.Random], Awaitable[None]], loop: Loop = "trio") -> None:
    """Run `main` in virtual time, which starts at 0 and jumps whenever nobody can go on.

    Raises where it does not end, so that its plan is known.
    """
    start = run_on_trio if loop == "trio" else run_on_asyncio
    with _repeatable(seed) as (scheduling, choices):
        start(scheduling, lambda: main(choices), LONGEST_SECONDS)


@contextmanager
def _repeatable(seed: int) -> Iterator[tuple[int, random.Random]]:
    """Every choice of the product and of the caller follows from the seed; and a seed for the event loop."""
    state, choices = random.getstate(), random.Random(seed)
    scheduling = choices.getrandbits(32)
    random.seed(choices.getrandbits(32))
    with mock.patch.object(secrets, "token_hex", lambda size: choices.randbytes(size).hex()):
        try:
            yield scheduling, random.Random(choices.getrandbits(32))
        finally:
            random.setstate(state)


class Agenda:
    """What happens outside of all processes, and when: packets that arrive, servers that act."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._sooner = anyio.Event()

    def at(self, when: float, act: Callable[..., None], *arguments: Any) -> None:
        """Call `act` at this time; what is due at the same time is done in the order of the calls to `at`."""
        entry = (when, next(self._numbers), act, arguments)
        heapq.heappush(self._due, entry)
        if self._due[0] is entry:
            self._sooner.set()

    @property
    def next_at(self) -> float:
        """When something happens next; now, where nothing is due."""
        return self._due[0][0] if self._due else anyio.current_time()

    async def run(self) -> None:
        due = self._due
        while True:
            now = anyio.current_time()
            while due and due[0][0] <= now:
                _, _, act, arguments = heapq.heappop(due)
                act(*arguments)
            self._sooner = anyio.Event()
            with anyio.CancelScope(deadline=due[0][0]) if due else anyio.CancelScope():
                await self._sooner.wait()
