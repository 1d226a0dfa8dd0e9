"""The hub with real sockets and nothing else of the bridge: no PostgreSQL, no feed, no server.

Told what to do by the same lines as `bare.c`. `python -m benchmarks.lib.hub_alone`.
"""

import os
import socket

import trio

from benchmarks.lib.bare_python import accept, open_listener
from benchmarks.lib.publisher import CHANNEL, payload
from bridge.core.events import Event, Notification, event
from bridge.core.position import Position, Timeline
from bridge.core.topics import Subscription
from bridge.hub import Buffers, Hub, SocketClient
from bridge.telemetry import Metrics

TERM = 749_166_000_000_000
CLIENT_BYTES, ALL_BYTES = 1 << 24, 1 << 29


class Alone:
    """A hub, its clients, and where the numbers stand."""

    def __init__(self, nursery: trio.Nursery) -> None:
        timeline = Timeline()
        self.hub = Hub([CHANNEL], Buffers(CLIENT_BYTES, ALL_BYTES), 10_000, Metrics(), timeline, lambda _: self.newest)
        self.newest = Position(TERM, 0)
        self.hub.set_live(self.newest)
        self._nursery = nursery
        self._sockets: list[socket.socket] = []

    def take(self, raw: socket.socket) -> None:
        raw.setblocking(False)
        self._sockets.append(raw)
        client = SocketClient(raw, self._nursery.start_soon, self.hub.buffers)
        self.hub.subscribe(client, None, Subscription(frozenset({CHANNEL})))

    async def send(self, messages: int, together: int) -> None:
        """Deliver so many events, so many at a time; return when the kernel has them all."""
        while messages:
            batch = [self._event() for _ in range(min(messages, together))]
            messages -= len(batch)
            self.hub.deliver(batch)
            await trio.lowlevel.checkpoint()
        for client in list(self.hub.clients):
            await client.flushed()

    def close(self) -> None:
        for client in list(self.hub.clients):
            client.abort()
            self.hub.remove(client)
        for raw in self._sockets:
            raw.close()
        self._sockets.clear()

    def _event(self) -> Event:
        self.newest = self.newest.plus(1)
        return event(self.newest, Notification(CHANNEL, payload(self.newest.seq % 1_000_000).encode()))


async def run() -> None:
    listener = open_listener()
    async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(os.dup(0)) as commands:
        alone, partial = Alone(nursery), b""
        while data := await commands.receive_some():
            *lines, partial = (partial + data).split(b"\n")
            for line in lines:
                match line.decode().split():
                    case ["accept", count]:
                        for _ in range(int(count)):
                            alone.take(accept(listener))
                        print("accepted", flush=True)
                    case ["send", messages, together]:
                        await alone.send(int(messages), int(together))
                        print("sent", flush=True)
                    case ["close"]:
                        alone.close()
                        print("closed", flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(run)
