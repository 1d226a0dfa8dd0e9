"""Signals for a process that serves. SIGTERM and SIGINT wake it; SIGHUP waits until it is asked for.

A SIGHUP may come at any time, as often as somebody sends it: also while handlers are put in place and taken away again,
and while the interpreter ends, where one too many ends the process or writes to a socket that is closed. So it has no
handler: it is blocked for the whole process, and looked for now and then.
"""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import trio

LOOK_SECONDS = 0.2
"""How soon a SIGHUP is noticed; nobody waits for it."""


def block_hangup() -> None:
    """From here on SIGHUP waits, in this thread, those that it starts, and processes that these start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


@contextmanager
def received(*numbers: int) -> Iterator[AsyncIterator[int]]:
    """These signals and SIGHUP, as they come, during the block; for SIGHUP it has to be blocked."""
    with trio.open_signal_receiver(*numbers) as others:
        yield _WithHangups(others)


class _WithHangups:
    """SIGHUP beside the others."""

    def __init__(self, others: AsyncIterator[int]) -> None:
        self._others = others

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        while True:
            with trio.move_on_after(LOOK_SECONDS):
                return await anext(self._others)
            if signal.sigtimedwait({signal.SIGHUP}, 0) is not None:
                return signal.SIGHUP
