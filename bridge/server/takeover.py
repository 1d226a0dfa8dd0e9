"""The WebSocket library reads what is not simple: fragments, long messages, closes, violations.

It comes to a connection that is open already, and gets a stream of ours, whose sending side is the client's own buffer:
pongs and closes take their place in the same order as the events, and no lock is needed.
"""

import socket
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from bridge.core.bucket import Bucket
from bridge.core.messages import MAX_MESSAGE_BYTES
from bridge.core.meter import FrameMeter
from bridge.core.wire import CLOSE_FRAME_START, POLICY_VIOLATION, TOO_LARGE
from bridge.hub import Client
from bridge.hub.client import State
from bridge.hub.talk import Talk

MAX_FRAGMENTS: Final = 1024
"""Frames of one message; more close the connection (1008)."""
RECEIVE_BYTES: Final = 2048  # at most 341 frames: what others wait for
ANSWERED_BYTES: Final = 64 * 1024
"""Who has more of our answers waiting is read from no further, until it reads itself."""

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
                data = await _receive(self._raw, min(max_bytes or RECEIVE_BYTES, RECEIVE_BYTES))
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
        if client.held_bytes > ANSWERED_BYTES:
            await client.flushed()
        else:
            await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await self._client.flushed()

    async def aclose(self) -> None:
        """Wait for the last bytes to leave; the socket itself belongs to whoever made this stream."""
        await self._client.flushed()


async def hear_all(raw: socket.socket, client: Client, talk: Talk, frames: Bucket, first: bytes) -> None:
    """Have the library read what the client sends, `first` before the rest, until the connection ends.

    Raises trio's and the library's errors where the connection fails.
    """
    async with trio.open_nursery() as nursery:
        stream = ClientStream(raw, client, frames, first)
        proposal = await wrap_server_stream(nursery, stream, max_message_size=MAX_MESSAGE_BYTES)
        connection = await proposal.accept()
        stream.open()
        await _converse(connection, client, talk)
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
        if client.held_bytes > ANSWERED_BYTES:
            await client.flushed()


async def _receive(raw: socket.socket, max_bytes: int) -> bytes:
    """The next bytes, empty at the end of the connection. Raises OSError."""
    while True:
        await trio.lowlevel.wait_readable(raw)
        try:
            return raw.recv(max_bytes)
        except BlockingIOError:
            continue
