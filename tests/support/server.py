"""The server inside a test, fed by the test, and a raw client that speaks bytes."""

import base64
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from bridge.core.events import Event, Notification, event
from bridge.core.position import Position, Timeline
from bridge.hub import Buffers, Hub
from bridge.server import serve
from bridge.server.limits import Places
from bridge.server.notify import Send
from bridge.server.tls import Tls, open_tls
from bridge.settings import Settings
from bridge.telemetry import Metrics
from tests.support.frames import FrameReader, Message

WAIT_SECONDS = 30.0


@dataclass
class FixedHealth:
    """A health that a test decides."""

    is_ready: bool = True

    def health(self) -> dict[str, object]:
        return {"status": "ok", "mode": "redis"}

    def ready(self) -> bool:
        return self.is_ready

    def status(self) -> dict[str, object]:
        return {"mode": "redis", "clients": 0}


@dataclass
class RunningServer:
    host: str
    port: int
    hub: Hub
    metrics: Metrics
    scope: trio.CancelScope
    health: FixedHealth
    places: Places
    tls: Tls | None
    _clients: "list[RawClient]" = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://{self.host}:{self.port}"

    async def connect(self, trust: ssl.SSLContext | None = None) -> "RawClient":
        """A connection; with TLS where it is given whom to trust."""
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
        stream = await trio.open_tcp_stream(self.host, self.port)
        if trust is not None:
            stream = trio.SSLStream(stream, trust, server_hostname="localhost")
        self._clients.append(RawClient(stream))
        return self._clients[-1]

    async def close_clients(self) -> None:
        for client in self._clients:
            await client.close()

    async def websocket(self, target: str = "/ws", *headers: str, trust: ssl.SSLContext | None = None) -> "RawClient":
        """A raw client after its handshake."""
        client = await self.connect(trust)
        await client.send(upgrade(target, *headers))
        status, _, _ = await client.answer()
        assert status == 101, status
        return client

    async def ask(self, head: str) -> tuple[int, dict[str, str], bytes]:
        """The answer to one request on a connection of its own; `head` without the last empty line."""
        client = await self.connect()
        await client.send(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        try:
            return await client.answer()
        finally:
            await client.close()

    async def wait_for_clients(self, count: int) -> None:
        with trio.fail_after(WAIT_SECONDS):
            while self.hub.client_count != count:  # noqa: ASYNC110, the hub tells nobody
                await trio.sleep(0.01)


class RawClient:
    """A connection of which every byte is under control."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.socket = (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket
        self.wait_seconds = WAIT_SECONDS
        self.answers_pings = True
        """As every client does: what takes a busy machine half a minute is pinged meanwhile. Else they are messages."""
        self._buffer = b""
        self._reader = FrameReader()
        self._messages: list[Message] = []

    async def send(self, data: bytes) -> None:
        with trio.fail_after(self.wait_seconds):
            await self.stream.send_all(data)

    async def send_frame(self, payload: bytes, opcode: int = 1) -> None:
        await self.send(client_frame(payload, opcode))

    async def answer(self, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        """One HTTP answer: status, headers with names in lower case, body."""
        with trio.fail_after(self.wait_seconds):
            while b"\r\n\r\n" not in self._buffer:
                await self._more()
            head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
            status, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            size = 0 if head_only else int(headers.get("content-length", "0"))
            while len(self._buffer) < size:
                await self._more()
            body, self._buffer = self._buffer[:size], self._buffer[size:]
            return int(status.split()[1]), headers, body

    async def message(self) -> Message:
        """The next WebSocket message; ("end", None) at the end of the connection."""
        while (message := await self._next_message()) == ("ping", b"") and self.answers_pings:
            with suppress(trio.BrokenResourceError, trio.BusyResourceError):
                await self.send_frame(b"", 10)
        return message

    async def _next_message(self) -> Message:
        with trio.fail_after(self.wait_seconds):
            while not self._messages:
                data, self._buffer = self._buffer, b""
                if not data:
                    try:
                        data = bytes(await self.stream.receive_some(65536))
                    except trio.BrokenResourceError:
                        data = b""
                    if not data:
                        return ("end", None)
                self._messages += self._reader.feed(data)
            return self._messages.pop(0)

    async def some(self) -> bytes:
        """What comes next; empty at the end of the connection, which may be a reset."""
        data, self._buffer = self._buffer, b""
        with trio.fail_after(self.wait_seconds):
            try:
                return data or bytes(await self.stream.receive_some(65536))
            except trio.BrokenResourceError:
                return b""

    async def rest(self) -> bytes:
        """Everything until the end of the connection, which may be a reset."""
        data = self._buffer
        with trio.fail_after(self.wait_seconds):
            try:
                async for chunk in self.stream:
                    data += chunk
            except trio.BrokenResourceError:
                pass
        return data

    async def close(self) -> None:
        await self.stream.aclose()

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError(self._buffer)
        self._buffer += data


def client_frame(payload: bytes, opcode: int = 1) -> bytes:
    """One masked frame; the mask is zero, which is legal and readable."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def upgrade(target: str, *headers: str, host: str = "localhost") -> bytes:
    """A handshake, with more headers if given."""
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)).decode(),
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def happening(seq: int, channel: str = "a", **fields: object) -> Event:
    values = "".join(f',"{name}":{value}' for name, value in fields.items())
    return event(Position(1, seq), Notification(channel, f'{{"n":{seq}{values}}}'.encode()))


@asynccontextmanager
async def running_server(
    *, live: bool = True, with_hub: bool = True, send: Send | None = None, **changes: Any
) -> AsyncIterator[RunningServer]:
    """A server on a free port, cancelled at the end."""
    settings = Settings(**{"port": 0, "channels": "a,b,match_change", **changes})
    metrics, health, tls = Metrics(), FixedHealth(), open_tls(settings)
    sizes = settings.client_buffer_bytes, settings.buffers_total_bytes
    buffers = Buffers(*sizes, drops=settings.slow_client == "gap")
    hub = Hub(settings.channels, buffers, settings.history_entries, metrics, Timeline(), lambda _term: hub.position)
    if live:
        hub.set_live(None)
    async with trio.open_nursery() as nursery:
        places = Places(settings.max_clients)
        serve_this = partial(serve, tls=tls, places=places, send=send)
        host, port = await nursery.start(serve_this, settings, hub if with_hub else None, health, metrics)
        connect_to = "127.0.0.1" if host == "0.0.0.0" else host
        server = RunningServer(connect_to, port, hub, metrics, nursery.cancel_scope, health, places, tls)
        try:
            yield server
        finally:
            with trio.CancelScope(shield=True):
                await server.close_clients()
            nursery.cancel_scope.cancel()
