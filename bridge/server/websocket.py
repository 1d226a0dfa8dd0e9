"""One WebSocket connection: what is simple is read and answered at once, and trio-websocket reads all the rest.

A client answers a ping now and then, or sends a short message: whole frames, seen at a glance. The library, with its
tasks and buffers, takes over for good at the first bytes that are anything else (fragments, long messages, closes,
violations). It gets a stream of ours, whose sending side is the client's own buffer: pongs and closes take their place
in the same order as the events, and no lock is needed.
"""

import socket
from functools import partial
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from bridge.core.bucket import Bucket
from bridge.core.messages import MAX_MESSAGE_BYTES
from bridge.core.meter import FrameMeter
from bridge.core.wire import (
    CLOSE_FRAME_START,
    POLICY_VIOLATION,
    TOO_LARGE,
    only_close,
    only_pongs,
    pong_frame,
    whole_frames,
)
from bridge.hub import Client
from bridge.hub.client import State
from bridge.server.clients import Clients
from bridge.server.head import send_head
from bridge.server.talk import Talk
from bridge.server.upgrade import Upgrade

FRAMES_PER_SECOND: Final = 100.0
FRAMES_BURST: Final = 1000.0
"""Frames of any kind: a client that sends more of them is read more slowly."""
MAX_FRAGMENTS: Final = 1024
"""Frames of one message; more close the connection (1008)."""

_RECEIVE_BYTES = 2048  # at most 341 frames: what others wait for
_ANSWERED_BYTES = 64 * 1024  # who has more waiting is read from no further, until it reads itself
_PROTOCOL_ERRORS = (1002, 1007)

_HEAD = b"\r\n".join(
    [
        b"GET /ws HTTP/1.1",
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        b"",
        b"",
    ]
)
"""A handshake for the library, which comes when the real one has been made. Its answer goes nowhere."""


class ClientStream(trio.abc.Stream):
    """The stream under the library: reads the socket, at a bounded rate, and writes into the client's buffer."""

    def __init__(self, raw: socket.socket, client: Client, frames: Bucket, first: bytes) -> None:
        self._raw = raw
        self._client = client
        self._frames = frames
        self._first = first
        self._meter = FrameMeter()
        self._head = _HEAD
        self._shaken = trio.Event()

    def open(self) -> None:
        """The library's handshake is over: from here on it gets what the client sends."""
        self._shaken.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        await self._shaken.wait()
        data, self._first = self._first, b""
        if not data:
            try:
                data = await _receive(self._raw, min(max_bytes or _RECEIVE_BYTES, _RECEIVE_BYTES))
            except OSError as error:
                raise trio.BrokenResourceError from error
        self._client.heard = True
        debt_seconds = self._frames.spend(trio.current_time(), self._meter.feed(data))
        if self._meter.fragments > MAX_FRAGMENTS:
            self._client.end(POLICY_VIOLATION, "a message in too many fragments")
            return b""
        if debt_seconds:
            await trio.sleep(debt_seconds)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        client = self._client
        frame = bytes(data)
        if not self._shaken.is_set():
            return
        if client.state is State.CLOSED:
            raise trio.ClosedResourceError
        if frame[0] == CLOSE_FRAME_START:
            client.end(int.from_bytes(frame[2:4], "big"), frame=frame)
        elif client.state is State.OPEN:
            client.put(frame)
        if client.held_bytes > _ANSWERED_BYTES:
            await client.flushed()
        else:
            await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await self._client.flushed()

    async def aclose(self) -> None:
        """Wait for the last bytes to leave; the socket itself belongs to whoever made this stream."""
        await self._client.flushed()


async def run_websocket(raw: socket.socket, upgrade: Upgrade, trailing: bytes, clients: Clients) -> None:
    """Make the handshake and serve one client until either side ends. Closing `raw` is left to the caller.

    `trailing` is what came after the head of the request. Cancelling says goodbye with 1001 if the kernel takes the
    frame at once. Raises OSError and trio's and the library's errors where the connection fails.
    """
    await send_head(raw, upgrade.answer)
    await clients.serve(raw, "ws", upgrade.grant, partial(_session, raw, upgrade, trailing, clients))


async def _session(raw: socket.socket, upgrade: Upgrade, data: bytes, clients: Clients, client: Client) -> None:
    clients.hub.subscribe(client, None, upgrade.subscription, upgrade.after)
    speaker: Speaker | None = None
    while True:
        if data and (client.heard or not only_pongs(data)):  # a pong that nobody asked for is to be counted
            speaker = speaker or Speaker(client, Talk(clients.hub, client, upgrade.grant))
            if not await speaker.hear(data):
                break
        client.heard = True
        data = await _receive(raw, _RECEIVE_BYTES)
        if not data:
            return
    if client.state is State.OPEN or not only_close(data):
        await speaker.hear_all(raw, data)


class Speaker:
    """A client that says something."""

    __slots__ = ("_client", "_frames", "_talk")

    def __init__(self, client: Client, talk: Talk) -> None:
        self._client = client
        self._talk = talk
        self._frames = Bucket(FRAMES_PER_SECOND, FRAMES_BURST, trio.current_time())

    async def hear(self, data: bytes) -> bool:
        """Answer simple frames, at a bounded rate; False where there is any other, and nothing was answered."""
        said = whole_frames(data)
        if said is None:
            return False
        client = self._client
        debt_seconds = self._frames.spend(trio.current_time(), len(said))
        for one in said:
            if isinstance(one, str):
                self._talk.hear(one)
            elif one is not None:
                client.put(pong_frame(one))
            if client.held_bytes > _ANSWERED_BYTES:
                await client.flushed()
        if debt_seconds:
            await trio.sleep(debt_seconds)
        return True

    async def hear_all(self, raw: socket.socket, first: bytes) -> None:
        """Have the library read what the client sends, `first` before the rest, until the connection ends."""
        async with trio.open_nursery() as nursery:
            stream = ClientStream(raw, self._client, self._frames, first)
            proposal = await wrap_server_stream(nursery, stream, max_message_size=MAX_MESSAGE_BYTES)
            connection = await proposal.accept()
            stream.open()
            await _converse(connection, self._client, self._talk)
            nursery.cancel_scope.cancel()


async def _converse(connection: WebSocketConnection, client: Client, talk: Talk) -> None:
    """Answer the client's messages until the connection ends."""
    while True:
        try:
            message = await connection.get_message()
        except ConnectionClosed as closed:
            if closed.reason is not None and closed.reason.code in _PROTOCOL_ERRORS:
                client.end(closed.reason.code, closed.reason.reason or "")
            return
        if isinstance(message, str) and len(message.encode()) > MAX_MESSAGE_BYTES:  # the library counts characters
            client.end(TOO_LARGE, f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        else:
            talk.hear(message)
        if client.held_bytes > _ANSWERED_BYTES:
            await client.flushed()


async def _receive(raw: socket.socket, max_bytes: int) -> bytes:
    """The next bytes, empty at the end of the connection. Raises OSError."""
    while True:
        await trio.lowlevel.wait_readable(raw)
        try:
            return raw.recv(max_bytes)
        except BlockingIOError:
            continue
