"""A server that is told to end: by SIGTERM to this very process, where the server's own handler is the test's."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.asgi import Socket, Stream


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals that the server's own handler got."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def sent_away(client: Socket, events: Stream, heard: list[int]) -> None:
    """A signal sends both away, each properly ended, and goes on to the server, which waits for its clients."""
    terminate()
    await client.ended()
    await events.ended()
    assert (client.close_code, events.whole, heard) == (1001, True, [signal.SIGTERM])
