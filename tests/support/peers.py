"""Clients of a hub inside a test: over real sockets with small buffers, and the other ends of them."""

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from bridge.core import events
from bridge.core.events import Event, Notification
from bridge.core.position import Position, Timeline
from bridge.core.topics import Subscription
from bridge.hub import Buffers, Hub, SocketClient
from bridge.hub.encoding import Protocol
from bridge.telemetry import Metrics
from tests.support.frames import FrameReader, Message
from tests.support.sse import EventSource

EVERYTHING = Subscription(frozenset({"a", "b"}))
SMALL_BUFFER = 4096
WAIT_SECONDS = 30.0


class SseReader:
    """The messages of a stream of server-sent events, as JSON like a WebSocket's."""

    def __init__(self) -> None:
        self.source = EventSource()

    def feed(self, data: bytes) -> list[Message]:
        known = len(self.source.blocks)
        self.source.feed(data)
        return [json.loads(block.data) for block in self.source.blocks[known:]]


class Peer:
    """A client of the hub, and the other end of its socket."""

    def __init__(self, client: SocketClient, end: trio.socket.SocketType) -> None:
        self.client = client
        self.end = end
        self.reader: FrameReader | SseReader = SseReader() if client.protocol == "sse" else FrameReader()
        self.messages: list[Message] = []

    async def read(self, enough: Callable[[list[Message]], bool]) -> list[Message]:
        """All messages so far, once there are enough. EOF and reset end them with ("end", …)."""
        with trio.fail_after(WAIT_SECONDS):
            while not enough(self.messages):
                try:
                    data = await self.end.recv(65536)
                except ConnectionResetError:
                    data = b""
                if not data:
                    self.messages.append(("end", None))
                    break
                self.messages += self.reader.feed(data)
        return self.messages

    async def read_count(self, count: int) -> list[Message]:
        return (await self.read(lambda messages: len(messages) >= count))[:count]

    async def read_all(self) -> list[Message]:
        return await self.read(lambda messages: bool(messages) and messages[-1] == ("end", None))

    async def read_until(self, number: int) -> list[Message]:
        """All messages through the event with this number."""
        return await self.read(lambda messages: number in numbers(messages))

    async def read_kind(self, kind: str, count: int = 1) -> list[Message]:
        """All messages, once so many of this kind are among them."""
        return await self.read(lambda messages: kinds(messages).count(kind) >= count)

    async def pong(self) -> list[Message]:
        """All messages until now: an answer is put behind them, and waited for."""
        self.client.put(events_pong(self.client.protocol))
        return (await self.read(lambda messages: {"type": "pong"} in messages))[:-1]

    def now(self) -> list[Message]:
        """All messages that the kernel has at this moment."""
        raw = self.end
        raw_socket = socket.socket(fileno=socket.dup(raw.fileno()))
        raw_socket.setblocking(False)
        try:
            while data := raw_socket.recv(1 << 20):
                self.messages += self.reader.feed(data)
        except (BlockingIOError, ConnectionResetError):
            pass
        finally:
            raw_socket.close()
        return self.messages


def events_pong(protocol: Protocol) -> bytes:
    """An answer that no hub makes, to find the end of what was sent before it."""
    text = b'{"type":"pong"}'
    return b"data: %b\n\n" % text if protocol == "sse" else b"\x81%c%b" % (len(text), text)


class Peers:
    """Makes clients of a hub, until the end of the test."""

    def __init__(self, hub: Hub, nursery: trio.Nursery) -> None:
        self.hub = hub
        self._nursery = nursery
        self._made: list[Peer] = []
        self._scopes: dict[SocketClient, list[trio.CancelScope]] = {}

    def connect(self, protocol: Protocol = "ws", buffer_bytes: int = SMALL_BUFFER) -> Peer:
        """A client that has not subscribed to anything. Nobody reads unless told to."""
        here, there = socket.socketpair()
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        here.setblocking(False)
        scopes: list[trio.CancelScope] = []

        def start_soon(task: Callable[[], Any]) -> None:
            scope = trio.CancelScope()
            scopes.append(scope)

            async def run() -> None:
                with scope:
                    await task()
                scopes.remove(scope)

            self._nursery.start_soon(run)

        client = SocketClient(here, start_soon, self.hub.buffers, protocol)
        self._scopes[client] = scopes
        self._made.append(Peer(client, trio.socket.from_stdlib_socket(there)))
        return self._made[-1]

    def subscribe(
        self,
        subscription: Subscription = EVERYTHING,
        after: str | None = None,
        *,
        name: str | None = None,
        protocol: Protocol = "ws",
        buffer_bytes: int = SMALL_BUFFER,
    ) -> Peer:
        """A client with one subscription."""
        peer = self.connect(protocol, buffer_bytes)
        self.hub.subscribe(peer.client, name, subscription, after)
        return peer

    def tasks(self, peer: Peer) -> int:
        """Tasks of this client that have not ended."""
        return len(self._scopes[peer.client])

    def disconnect(self, peer: Peer) -> None:
        """As when a connection ends: forget the client, end its tasks, close its socket."""
        self.hub.remove(peer.client)
        peer.client.finish()
        for scope in self._scopes[peer.client]:
            scope.cancel()
        peer.client._raw.close()
        peer.end.close()

    def close(self) -> None:
        for peer in self._made:
            peer.client.finish()
            peer.client._raw.close()
            peer.end.close()


@asynccontextmanager
async def making_peers(hub: Hub) -> AsyncIterator[Peers]:
    """Where clients of this hub live; their tasks are cancelled at the end."""
    async with trio.open_nursery() as nursery:
        made = Peers(hub, nursery)
        try:
            yield made
        finally:
            nursery.cancel_scope.cancel()
            made.close()


@asynccontextmanager
async def peers(hub: Hub, *subscriptions: Subscription, buffer_bytes: int = SMALL_BUFFER) -> AsyncIterator[list[Peer]]:
    """One WebSocket client for each subscription."""
    async with making_peers(hub) as made:
        yield [made.subscribe(subscription, buffer_bytes=buffer_bytes) for subscription in subscriptions]


def make_hub(
    *,
    client_bytes: int = 1 << 20,
    total_bytes: int = 1 << 24,
    drops: bool = False,
    history_entries: int = 10_000,
    live: bool = True,
    timeline: Timeline | None = None,
) -> Hub:
    """A hub whose newest position is that of what it holds, in any related numbering."""
    timeline = Timeline() if timeline is None else timeline

    def newest(term: int) -> Position | None:
        held = [event.position for stretch in hub.history._stretches for event in stretch.events]
        known = [timeline.convert(position, term) for position in (hub.position, *held) if position is not None]
        return max((position for position in known if position is not None), default=None)

    hub = Hub(("a", "b"), Buffers(client_bytes, total_bytes, drops=drops), history_entries, Metrics(), timeline, newest)
    if live:
        hub.set_live(None)
    return hub


def happening(seq: int, channel: str = "a", size: int = 0, term: int = 1, number: int | None = None) -> Event:
    """An event whose payload has its number: its seq, unless another is given."""
    payload = b'{"n":%d,"pad":"%b"}' % (seq if number is None else number, b"x" * size)
    return events.event(Position(term, seq), Notification(channel, payload))


def numbers(messages: list[Message]) -> list[int]:
    return [message["payload"]["n"] for message in messages if isinstance(message, dict) and "payload" in message]


def kinds(messages: list[Message]) -> list[str]:
    return [message["type"] if isinstance(message, dict) else message[0] for message in messages]


def of_kind(kind: str, messages: list[Message]) -> list[dict[str, Any]]:
    return [message for message in messages if isinstance(message, dict) and message["type"] == kind]


def sample(hub: Hub, name: str) -> float | None:
    return hub._metrics.registry.get_sample_value(f"notify_bridge_{name}")
