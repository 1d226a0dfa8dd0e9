"""A bridge that does what a script says, in memory or on a local socket, on any event loop."""

import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult

import anyio
import anyio.abc
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

WAIT_SECONDS = 30.0


def subscribed(position: str | None = "1-0") -> str:
    cursor = "null" if position is None else f'"{position}"'
    return f'{{"type":"subscribed","channels":["a"],"where":{{}},"sub":null,"position":{cursor}}}'


def notification(number: int) -> str:
    return f'{{"type":"notification","id":"1-{number}","channel":"a","payload":{{"n":{number}}}}}'


class MemoryStream(anyio.abc.ByteStream):
    """One end of a connection that holds any number of bytes."""

    def __init__(self, incoming: MemoryObjectReceiveStream[bytes], outgoing: MemoryObjectSendStream[bytes]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.is_reset = False

    async def receive(self, max_bytes: int = 65536) -> bytes:  # noqa: ARG002, as the base has it
        if self.is_reset:
            raise anyio.BrokenResourceError from ConnectionResetError("reset by the script")
        try:
            return await self._incoming.receive()
        except anyio.EndOfStream:
            if self.is_reset:
                raise anyio.BrokenResourceError from ConnectionResetError("reset by the script")
            raise

    async def send(self, item: bytes) -> None:
        if self.is_reset:
            raise anyio.BrokenResourceError from ConnectionResetError("reset by the script")
        await self._outgoing.send(item)

    async def send_eof(self) -> None:
        self._outgoing.close()

    async def aclose(self) -> None:
        self._outgoing.close()
        self._incoming.close()
        await anyio.lowlevel.checkpoint()


def memory_pair() -> tuple[MemoryStream, MemoryStream]:
    to_server, from_client = anyio.create_memory_object_stream[bytes](math.inf)
    to_client, from_server = anyio.create_memory_object_stream[bytes](math.inf)
    return MemoryStream(from_server, to_server), MemoryStream(from_client, to_client)


class Peer:
    """The bridge's side of one connection."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self.protocol = WSConnection(ConnectionType.SERVER)
        self.target = ""
        self.headers: dict[str, str] = {}
        self._events: list[Event] = []

    async def read_request(self) -> None:
        request = await self.hear()
        assert isinstance(request, Request)
        self.target = request.target
        headers = {name.decode(): value.decode() for name, value in request.extra_headers}
        self.headers = {"host": request.host, **headers}

    async def accept(self, *texts: str) -> None:
        """Take the client, and say this."""
        await self.read_request()
        await self.send(AcceptConnection(), *(TextMessage(data=text) for text in texts))

    async def reject(self, status: int, body: bytes = b"", **headers: str) -> None:
        await self.read_request()
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        named.append((b"content-length", str(len(body)).encode()))
        await self.send(
            RejectConnection(status_code=status, headers=named, has_body=True),
            RejectData(data=body, body_finished=True),
        )

    async def say(self, *texts: str) -> None:
        await self.send(*(TextMessage(data=text) for text in texts))

    async def send(self, *events: Event) -> None:
        await self.stream.send(b"".join(bytes(self.protocol.send(event)) for event in events))

    async def close(self, code: int, reason: str = "") -> None:
        """Say goodbye, and wait for the client's."""
        await self.send(CloseConnection(code=code, reason=reason))
        while not isinstance(await self.hear(), CloseConnection):
            pass

    async def hear(self, seconds: float = WAIT_SECONDS) -> Event:
        """What the client says next; pings are answered. Raises EndOfStream."""
        with anyio.fail_after(seconds):
            while not self._events:
                self.protocol.receive_data(await self.stream.receive())
                self._events += self.protocol.events()
                if any(isinstance(event, Ping) for event in self._events):
                    await self.send(*(event.response() for event in self._events if isinstance(event, Ping)))
        return self._events.pop(0)

    async def hear_close(self) -> CloseConnection:
        while not isinstance(event := await self.hear(), CloseConnection):
            pass
        await self.send(event.response())
        return event

    async def stay(self) -> None:
        """Keep the connection, and do nothing."""
        await anyio.sleep_forever()


Handler = Callable[[Peer], Awaitable[Any]]


@dataclass
class ScriptedBridge:
    """One handler for each connection, in order; who comes after the last one is refused."""

    tasks: anyio.abc.TaskGroup
    handlers: list[Handler]
    peers: list[Peer] = field(default_factory=list)
    opened_at: list[float] = field(default_factory=list)
    """When connections were asked for, refused ones included."""
    url: str = "ws://bridge.test/ws"

    async def open_stream(self, _url: SplitResult, _context: ssl.SSLContext | None) -> anyio.abc.ByteStream:
        """A connection in memory. Raises OSError where the script has ended."""
        self.opened_at.append(anyio.current_time())
        if not self.handlers:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = memory_pair()
        self.tasks.start_soon(self._serve, theirs, ours, self.handlers.pop(0))
        return ours

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """A connection of a socket."""
        self.opened_at.append(anyio.current_time())
        if self.handlers:
            await self._serve(stream, None, self.handlers.pop(0))
        else:
            await stream.aclose()

    async def _serve(self, stream: anyio.abc.ByteStream, client: MemoryStream | None, handler: Handler) -> None:
        peer = Peer(stream)
        self.peers.append(peer)
        try:
            await handler(peer)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the client has gone
        except Reset:
            if client is not None:
                client.is_reset = True
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()


class Reset(Exception):
    """Raised by a handler: the connection is reset."""


@asynccontextmanager
async def in_memory(*handlers: Handler) -> AsyncIterator[ScriptedBridge]:
    async with anyio.create_task_group() as tasks:
        yield ScriptedBridge(tasks, list(handlers))
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def on_socket(*handlers: Handler) -> AsyncIterator[ScriptedBridge]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        bridge = ScriptedBridge(tasks, list(handlers))
        bridge.url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.start_soon(listener.serve, bridge.serve)
        yield bridge
        tasks.cancel_scope.cancel()
