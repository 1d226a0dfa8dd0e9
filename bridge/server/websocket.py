"""One WebSocket connection: trio-websocket reads and answers control frames, the hub's client writes.

The library gets a stream of ours, whose sending side is the client's own buffer: pongs and closes take their place in
the same order as the events, and no lock is needed.
"""

import random
import socket

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from bridge.core.wire import CLOSE_FRAME_START, GOING_AWAY, POLICY_VIOLATION, answer, text_frame
from bridge.hub import Client, Hub
from bridge.hub.client import State
from bridge.server.upgrade import Upgrade

MAX_MESSAGE_BYTES = 64 * 1024
MAX_BAD_MESSAGES = 10
RETRY_SECONDS = 5
"""Clients that are sent away come back after 1 to so many seconds, each at its own time."""

_RECEIVE_BYTES = 4096
_ANSWERED_BYTES = 64 * 1024  # who has more waiting is read from no further, until it reads itself
_PROTOCOL_ERRORS = (1002, 1007)


class ClientStream(trio.abc.Stream):
    """The stream under the WebSocket library: reads the socket, writes into the client's buffer."""

    def __init__(self, sock: trio.socket.SocketType, client: Client, head: bytes, trailing: bytes) -> None:
        self._sock = sock
        self._client = client
        self._head = head
        self._trailing = trailing
        self._accepted = trio.Event()

    def accept(self) -> None:
        """The handshake is done: what the client sent after it may be read."""
        self._accepted.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        await self._accepted.wait()
        if self._trailing:
            data, self._trailing = self._trailing, b""
            return data
        try:
            data = await self._sock.recv(max_bytes or _RECEIVE_BYTES)
        except OSError as error:
            raise trio.BrokenResourceError from error
        self._client.heard = True
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        client = self._client
        frame = bytes(data)
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


async def run_websocket(
    sock: trio.socket.SocketType, raw: socket.socket, upgrade: Upgrade, trailing: bytes, hub: Hub
) -> None:
    """Serve one client until either side ends. `raw` is the socket that `sock` wraps; closing it is left to the caller.

    Cancelling says goodbye with 1001 if the kernel takes the frame at once.
    """
    async with trio.open_nursery() as nursery:
        client = Client(raw, nursery.start_soon, hub.buffers)
        stream = ClientStream(sock, client, upgrade.head, trailing)
        try:
            proposal = await wrap_server_stream(nursery, stream, max_message_size=MAX_MESSAGE_BYTES)
            connection = await proposal.accept(subprotocol=upgrade.subprotocol)
            hub.add(client, upgrade.subscription)
            stream.accept()
            try:
                await _converse(connection, client, hub)
            finally:
                client.end(GOING_AWAY, f"retry={random.randint(1, RETRY_SECONDS)}", drop=True)
                hub.remove(client)
            await client.flushed()
        finally:
            client.finish()
            nursery.cancel_scope.cancel()


async def _converse(connection: WebSocketConnection, client: Client, hub: Hub) -> None:
    """Answer the client's messages until the connection ends."""
    bad_messages = 0
    while True:
        try:
            message = await connection.get_message()
        except ConnectionClosed as closed:
            if closed.reason is not None and closed.reason.code in _PROTOCOL_ERRORS:
                client.end(closed.reason.code, closed.reason.reason or "")
            return
        reply = answer(message, hub.position)
        client.put(text_frame(reply.data))
        bad_messages += reply.bad
        if bad_messages >= MAX_BAD_MESSAGES:
            client.end(POLICY_VIOLATION, "too many messages that were not understood")
        if client.held_bytes > _ANSWERED_BYTES:
            await client.flushed()
