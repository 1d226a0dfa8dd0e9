"""What was received and not yet taken: in order, bounded, and with it how far the consumer is.

Who puts something in asks for room first (`wait_for_room`), so what waits is at most the limit, and what one read from
the socket brings.
"""

from collections import deque
from typing import Final, Generic, TypeVar

import anyio
import anyio.lowlevel

T = TypeVar("T")

OVERHEAD_BYTES: Final = 256
"""What an item costs beside its text, so that many small ones are bounded too."""
TURN: Final = 32
"""So many items are given in a row before other tasks get a turn."""


class Closed(Exception):
    """Nobody is to take anything any more. Raised by nothing else, whatever the user's own functions do."""


class Buffer(Generic[T]):
    """From the task that reads to the one that takes. Only one may take at a time."""

    def __init__(self, limit_bytes: int, cursor: str | None) -> None:
        self._limit_bytes = limit_bytes
        self._items: deque[tuple[T, int, str | None]] = deque()
        self._held_bytes = 0
        self._given = 0
        self._taker: anyio.Event | None = None
        self._reader: anyio.Event | None = None
        self._is_busy = False
        self._end: Exception | None = None
        self.cursor = cursor
        """Everything through here was taken."""
        self.received = cursor
        """Everything through here was put in."""

    @property
    def is_full(self) -> bool:
        return self._held_bytes >= self._limit_bytes

    def put(self, item: T, size_bytes: int, cursor: str | None) -> None:
        """Keep an item, after which the stream stands at `cursor`; None where it says nothing of that."""
        if self._end is not None:
            return
        size_bytes += OVERHEAD_BYTES
        self._items.append((item, size_bytes, cursor))
        self._held_bytes += size_bytes
        self.received = cursor or self.received
        if self._taker is not None:
            self._taker.set()

    def move(self, cursor: str) -> None:
        """The stream stands here, after all that was put in."""
        self.received = cursor
        if self._items:
            item, size_bytes, _ = self._items[-1]
            self._items[-1] = item, size_bytes, cursor
        else:
            self.cursor = cursor

    def end(self, error: Exception) -> None:
        """Nothing more comes: who takes gets what is here, and then this error, every time."""
        if self._end is None:
            self._end = error
        if self._taker is not None:
            self._taker.set()

    def close(self) -> None:
        """Nobody is to take anything any more: who tries gets Closed."""
        self._items.clear()
        self._held_bytes = 0
        self._end = Closed()
        if self._taker is not None:
            self._taker.set()

    async def take(self) -> T:
        """The next item. Raises what `end` was given, after the last one.

        Cancelling takes nothing. Raises anyio.BusyResourceError where another task is taking.
        """
        if self._is_busy:
            raise anyio.BusyResourceError("taking events (open one client for each task) from")
        self._is_busy = True
        try:
            await self._wait_for_item()
        finally:
            self._is_busy = False
        if not self._items and self._end is not None:
            raise self._end
        item, size_bytes, cursor = self._items.popleft()
        self._held_bytes -= size_bytes
        self.cursor = cursor or self.cursor
        if self._reader is not None and not self.is_full:
            self._reader.set()
        return item

    async def wait_for_room(self) -> None:
        """Wait until less is held than the limit. Cancelling is harmless."""
        while self.is_full:
            self._reader = anyio.Event()
            await self._reader.wait()
        self._reader = None

    async def _wait_for_item(self) -> None:
        self._given += 1
        if self._items and self._given % TURN:
            await anyio.lowlevel.checkpoint_if_cancelled()
        else:
            await anyio.lowlevel.checkpoint()
        while not self._items and self._end is None:
            self._taker = anyio.Event()
            await self._taker.wait()
        self._taker = None
