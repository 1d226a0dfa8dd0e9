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
    soon = _from_signals()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            before[number] = signal.getsignal(number)
            signal.signal(number, _chained(partial(soon, desk.drain), before[number]))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        desk.drain()


def _chained(first: Callable[[], None], handler: object) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        first()
        if callable(handler):
            handler(number, frame)
        elif handler is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    return handle


def _from_signals() -> Callable[[Callable[[], None]], None]:
    """What runs a function in this event loop, and may be called by a signal handler."""
    if trio.lowlevel.in_trio_run():
        token = trio.lowlevel.current_trio_token()
        return lambda work: token.run_sync_soon(work)
    loop = asyncio.get_running_loop()

    def soon(work: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(work)

    return soon
