"""Before a server ends: clients are sent away with a word of when to come back, and streams of events end.

Servers wait for running responses before they end the lifespan, and a stream of events has no end of its own. So the
first to know has to be told: the signal is taken note of, and then left to the handler that the server has for it.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import trio

from bridge.asgi.desk import desk_of
from bridge.inprocess import EventFeed

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def draining(feed: EventFeed) -> Iterator[None]:
    """While inside, SIGTERM and SIGINT end all endpoints of this feed, beside whatever else they do.

    WebSockets are closed with 1001 and streams end, each with when to come back, and nobody comes in any more. To be
    entered in the lifespan, after the server has set its own handlers. Outside of the main thread, where there are no
    signals, it does nothing until the body ends, when everybody is sent away as well.
    """
    desk = desk_of(feed)
    in_main_thread = threading.current_thread() is threading.main_thread()
    notes = [_Note(number, partial(_from_signals(), desk.drain)) for number in SIGNALS if in_main_thread]
    try:
        yield
    finally:
        for note in notes:
            note.remove()
        desk.drain()


class _Note:
    """Stands before the handler that a signal has, if that is a function."""

    def __init__(self, number: signal.Signals, act: Callable[[], None]) -> None:
        self._number = number
        self._act = act
        self._handler = signal.getsignal(number)
        self._removed = False
        if callable(self._handler):
            signal.signal(number, self._take)

    def remove(self) -> None:
        """Leave the signal to its handler alone, also where somebody has put another one before this by now."""
        self._removed = True
        if signal.getsignal(self._number) == self._take:
            signal.signal(self._number, self._handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if not self._removed:
            self._act()
        if callable(self._handler):
            self._handler(number, frame)


def _from_signals() -> Callable[[Callable[[], None]], None]:
    """What runs a function in this event loop, and may be called by a signal handler."""
    if trio.lowlevel.in_trio_run():
        token = trio.lowlevel.current_trio_token()
        return lambda work: token.run_sync_soon(work)
    loop = asyncio.get_running_loop()

    def soon(work: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(work)

    return soon
