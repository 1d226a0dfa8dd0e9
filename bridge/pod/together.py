"""One answer for all who ask at the same time."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Together(Generic[T]):
    """Makes one answer after the other; an answer is for all who asked before it was begun."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._lock = trio.Lock()
        self._begun = 0
        self._answer: tuple[int, T] | None = None

    async def get(self) -> T:
        """An answer that was begun after this call. Cancelling harms nobody else."""
        wanted = self._begun + 1
        async with self._lock:
            if self._answer is None or self._answer[0] < wanted:
                self._begun += 1
                self._answer = self._begun, await self._make()
            return self._answer[1]
