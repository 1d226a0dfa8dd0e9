"""Shared memory in which each worker writes its own numbers, and all read those of the others.

One row a worker, written by that worker alone (and cleared by the supervisor when the worker is gone), in aligned
words of 8 bytes: a reader sees the old value or the new one, and nothing waits for anybody.
"""

import mmap
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

FRESH_SECONDS = 0.25
"""A worker that has not beaten for so long is taken for stopped: nobody waits for it."""
BEAT_SECONDS = 0.05

_ROW = 8
_PID, _ACCEPTING, _OPEN, _CLIENTS, _BEAT = range(5)


class Table:
    """The rows of all workers, by their numbers from 0."""

    def __init__(self, descriptor: int, rows: int) -> None:
        self.descriptor = descriptor
        self.rows = rows
        self._map = mmap.mmap(descriptor, rows * _ROW * 8)
        self._words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self.descriptor)

    def begin(self, row: int) -> None:
        """This process is the worker of this row now."""
        self.clear(row)
        self._words[row * _ROW + _PID] = os.getpid()

    def clear(self, row: int) -> None:
        """The worker of this row is gone."""
        for word in range(row * _ROW, (row + 1) * _ROW):
            self._words[word] = 0

    def beat(self, row: int, *, connections: int, accepting: bool) -> None:
        """Say that this worker runs, how many connections it has open, and whether it takes more."""
        begin = row * _ROW
        self._words[begin + _OPEN] = connections
        self._words[begin + _ACCEPTING] = accepting
        self._words[begin + _BEAT] = time.monotonic_ns()

    def set_clients(self, row: int, clients: int) -> None:
        self._words[row * _ROW + _CLIENTS] = clients

    def clients(self) -> int:
        """Of all workers."""
        return sum(self._words[_CLIENTS::_ROW])

    def connections(self, row: int) -> int:
        return self._words[row * _ROW + _OPEN]

    def others_accepting(self, row: int) -> Iterator[int]:
        """How many connections each of the other workers has that run and take more."""
        oldest = time.monotonic_ns() - int(FRESH_SECONDS * 1e9)
        words = self._words
        for begin in range(0, self.rows * _ROW, _ROW):
            if begin != row * _ROW and words[begin + _ACCEPTING] and words[begin + _BEAT] >= oldest:
                yield words[begin + _OPEN]

    def pids(self) -> Iterable[int]:
        """Of the workers that have begun."""
        return [pid for pid in self._words[_PID::_ROW] if pid]


@contextmanager
def new_table(rows: int) -> Iterator[Table]:
    """A table for so many workers; its descriptor is what they inherit."""
    descriptor = os.memfd_create("notify-bridge-pod", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, rows * _ROW * 8)
    table = Table(descriptor, rows)
    try:
        yield table
    finally:
        table.close()
