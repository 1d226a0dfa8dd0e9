"""A value whose changes can be awaited."""

from collections.abc import Callable
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


class Observable(Generic[T]):
    """A value whose changes can be awaited, by tasks of one event loop.

    No value is missed, however briefly it was set: conditions are evaluated when it is set, not when a task wakes.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._waiting: list[_Wait[T]] = []

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        self._value = value
        for wait in self._waiting:
            wait.offer(value)

    async def wait_for(self, predicate: Callable[[T], bool]) -> T:
        """The present value if it fulfils the predicate, else the first later one that does. Cancelling is harmless."""
        wait = _Wait(predicate)
        wait.offer(self._value)
        self._waiting.append(wait)
        try:
            await wait.found.wait()
        finally:
            self._waiting.remove(wait)
        return wait.values[0]


class _Wait(Generic[T]):
    """One task that waits, and the first value it waited for."""

    def __init__(self, predicate: Callable[[T], bool]) -> None:
        self.predicate = predicate
        self.found = anyio.Event()
        self.values: list[T] = []

    def offer(self, value: T) -> None:
        if not self.values and self.predicate(value):
            self.values.append(value)
            self.found.set()
