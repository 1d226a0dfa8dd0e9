"""Draining: a process that is to end sends its clients away, a few at a time, and takes no new ones.

After a deploy all clients come back. Were they closed together they would come back together, so the closes are spread
evenly over `BRIDGE_DRAIN_SECONDS`, and each says when to retry, at random. Who is not closed yet still hears events.
Health checks are answered to the end.
"""

from collections import deque
from collections.abc import Iterable

import trio

from bridge.hub import Hub
from bridge.hub.client import Client, State
from bridge.hub.retry import retry_seconds
from bridge.server.limits import Places
from bridge.telemetry import fields, log

GOING_AWAY = 1001
STEP_SECONDS = 0.05
LAST_SECONDS = 2.0
"""How long the last ones may take to answer their close frame."""


async def drain(hub: Hub, places: Places, seconds: float) -> None:
    """Take no more clients, and close those that are here, spread over so many seconds.

    Returns when the last one is gone, at once without any. Never raises but for cancellation, which leaves those that
    are not closed yet to whoever ends the server.
    """
    places.closed = True
    left = deque(_open(hub.clients))
    count, started = len(left), trio.current_time()
    extra = fields(clients=count, seconds=seconds)
    log.info("Draining: %d clients are sent away within %g seconds", count, seconds, extra=extra)
    while left and places.taken:
        share = (trio.current_time() - started) / seconds if seconds > 0 else 1.0
        while left and count - len(left) <= share * count:
            send_away(left.popleft())
        await trio.sleep(STEP_SECONDS)
    for client in _open(hub.clients):  # who was in the door when this began
        send_away(client)
    with trio.move_on_after(LAST_SECONDS):
        while places.taken:  # noqa: ASYNC110, as above: a step is short, and this is done once in a process's life
            await trio.sleep(STEP_SECONDS)


def send_away(client: Client) -> None:
    """Close with 1001 and a hint when to come back, after all that the client is still to hear."""
    client.end(GOING_AWAY, f"retry={retry_seconds()}")


def _open(clients: Iterable[Client]) -> list[Client]:
    return [client for client in clients if client.state is State.OPEN]
