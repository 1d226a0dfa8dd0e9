"""Which errors are the peer's own, said in one place.

Whatever a peer does (garbage, a TLS hello, half a request, a reset), it ends its own connection and leaves a line at
debug level. Anything else that fails in a connection is a bug: it is logged with its stack, and costs that one alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import h11
import trio
from trio_websocket import ConnectionClosed
from wsproto.utilities import ProtocolError

from bridge.telemetry import error_text, log

_PEERS_FAULT = (
    OSError,  # reset, broken pipe, unreachable, timed out: all that a socket raises
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    h11.RemoteProtocolError,
    ProtocolError,
    ConnectionClosed,
)


@contextmanager
def contained(peer: Callable[[], object]) -> Iterator[None]:
    """What fails within ends here, and is said; cancellation goes on. `peer` gives the address, for the log."""
    try:
        yield
    except* Exception as group:
        report(group, peer())


def report(error: Exception, peer: object) -> None:
    """Say what failed a connection with this address, which has ended by that."""
    group = error if isinstance(error, ExceptionGroup) else ExceptionGroup("a connection failed", [error])
    faults, bugs = group.split(_PEERS_FAULT)
    if faults is not None:
        log.debug("A connection of %s failed: %s", peer, _text(faults))
    if bugs is not None:
        log.error("A connection failed, which should not happen", exc_info=bugs)


def _text(error: Exception) -> str:
    if isinstance(error, ExceptionGroup):
        return _text(error.exceptions[0])
    return error_text(error.__cause__ or error)
