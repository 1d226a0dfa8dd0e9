"""Asyncio under virtual time, with an order of its callbacks that the seed decides.

The loop selects without ever waiting: when nothing can go on, its clock jumps to the next timer. Of two runs, one keeps
asyncio's own order, in which only what happens at the same time (timers, sockets) is shuffled; the other one shuffles
everything that is ready, so that nothing can rely on that order: other event loops, and other versions, have another.
"""

import asyncio
import contextvars
import heapq
import select
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from random import Random
from typing import Any, Generic, TypeVar, TypeVarTuple, Unpack
from unittest import mock

from anyio._backends import _asyncio as anyio_on_asyncio

from tests.sim.freezer import current_process

MOST_AT_ONCE = 300_000
"""Callbacks without a moment passing: more is a loop that never waits."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run_on_asyncio(seed: int, main: Callable[[], Awaitable[None]], longest_seconds: float) -> None:
    """Run `main`. Raises TimeoutError where it does not end in so much virtual time, and RuntimeError where it spins,
    where nothing can ever happen any more, and where a callback raises."""

    async def watched() -> None:
        await main()

    with (
        mock.patch.object(anyio_on_asyncio, "set", OrderedSet, create=True),
        asyncio.Runner(loop_factory=partial(VirtualLoop, Random(seed), longest_seconds)) as runner,
    ):
        runner.run(watched())


class VirtualLoop(asyncio.BaseEventLoop):
    """Time begins at 0. Sockets can be read from; there are no threads and no signals."""

    def __init__(self, choices: Random, longest_seconds: float) -> None:
        super().__init__()
        self._choices = choices
        self._longest_seconds = longest_seconds
        self._keeps_order = choices.random() < 0.5
        self._now = 0.0
        self._count_now = 0
        self._upcoming: list[asyncio.Handle] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._poll = select.poll()
        self._readers: dict[int, asyncio.Handle] = {}
        self._failures: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, failure: self._failures.append(failure))

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._upcoming.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, timer)
        return timer

    def add_reader(self, fd: Any, callback: Callable[[Unpack[Ts]], Any], *args: *Ts) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        self._readers[number] = asyncio.Handle(callback, args, self, None)
        self._poll.register(number, select.POLLIN)

    def remove_reader(self, fd: Any) -> bool:
        number = fd if isinstance(fd, int) else fd.fileno()
        handle = self._readers.pop(number, None)
        if handle is None:
            return False
        handle.cancel()
        self._poll.unregister(number)
        return True

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def _run_once(self) -> None:
        sockets = self._readable()
        self._drop_cancelled_timers()
        if not (sockets or self._upcoming):
            self._jump()
        new = [*sockets, *self._due()]
        self._choices.shuffle(new)
        batch, self._upcoming = [*self._upcoming, *new], []
        if not self._keeps_order:
            self._choices.shuffle(batch)
        for handle in batch:
            self._run_unless_paused(handle)
        self._count_now += len(batch)
        if self._count_now > MOST_AT_ONCE:
            self._count_now = 0
            raise RuntimeError(f"{MOST_AT_ONCE} callbacks at {self._now:g} s of virtual time: somebody never waits")
        if self._failures:
            failure = self._failures.pop()
            raise RuntimeError(failure["message"]) from failure.get("exception")

    def _run_unless_paused(self, handle: Any) -> None:
        if handle._cancelled:
            return
        freezer = handle._context.get(current_process)
        if freezer is not None and freezer.paused:
            freezer.park(partial(self._give_back, handle))
        else:
            handle._run()

    def _give_back(self, handle: asyncio.Handle) -> None:
        self._upcoming.append(handle)

    def _readable(self) -> list[asyncio.Handle]:
        """Readers of sockets that have something to read, but for those of paused processes."""
        if not self._readers:
            return []
        ready = []
        for fd, _ in self._poll.poll(0):
            handle: Any = self._readers[fd]
            freezer = handle._context.get(current_process)
            if freezer is None or not freezer.paused:
                ready.append(handle)
        return ready

    def _drop_cancelled_timers(self) -> None:
        while self._timers and self._timers[0].cancelled():
            heapq.heappop(self._timers)

    def _jump(self) -> None:
        if not self._timers:
            raise RuntimeError(f"nothing can ever happen any more at {self._now:g} s of virtual time")
        self._now = max(self._now, self._timers[0].when())
        self._count_now = 0
        if self._now > self._longest_seconds:
            self._longest_seconds *= 2  # what is left is cancelled, and may take its time
            raise TimeoutError(f"the run has not ended after {self._now:g} s of virtual time")

    def _due(self) -> list[asyncio.Handle]:
        due: list[asyncio.Handle] = []
        while self._timers and self._timers[0].when() <= self._now:
            due.append(heapq.heappop(self._timers))
        return due


class OrderedSet(Generic[T]):
    """A set for anyio's tasks and scopes that is gone through in the order of insertion, not of addresses."""

    def __init__(self) -> None:
        self._items: dict[T, None] = {}

    def add(self, item: T) -> None:
        self._items[item] = None

    def discard(self, item: T) -> None:
        self._items.pop(item, None)

    def remove(self, item: T) -> None:
        del self._items[item]

    def __contains__(self, item: T) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
