"""One accepted connection, from its first byte to its last; and the one place that says which errors are the peer's.

Whatever a peer does (garbage, a TLS hello, half a request, a reset), it ends its own connection and leaves a line at
debug level. Anything else that fails here is a bug: it is logged with its stack, and costs this connection alone.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import h11
import trio
from trio_websocket import ConnectionClosed
from wsproto.utilities import ProtocolError

from bridge.hub import Hub
from bridge.server.endpoints import Endpoint, answer
from bridge.server.guard import refusal
from bridge.server.http import HttpConnection, Request, Response, linger, refuse
from bridge.server.upgrade import Upgrade, judge, targets_websocket
from bridge.server.websocket import run_websocket
from bridge.telemetry import error_text, log

RETRY_AFTER_SECONDS = 5

_PEERS_FAULT = (
    OSError,  # reset, broken pipe, unreachable, timed out: all that a socket raises
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    h11.RemoteProtocolError,
    ProtocolError,
    ConnectionClosed,
)


class Door:
    """Where connections come in: what there is to ask for, and who may ask. `hub` None means no WebSockets."""

    def __init__(self, hub: Hub | None, paths: Mapping[str, Endpoint], *, local: bool, max_clients: int) -> None:
        self._hub = hub
        self._paths = paths
        self._local = local
        self._max_clients = max_clients
        self._clients = 0

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it ends. Raises nothing but cancellation."""
        raw = socket.socket(fileno=stream.socket.detach())
        raw.setblocking(False)
        with trio.socket.from_stdlib_socket(raw) as sock:
            try:
                await self._converse(sock, raw)
            except* _PEERS_FAULT as group:
                log.debug("A connection failed: %s", error_text(_first(group)))
            except* Exception as group:
                log.error("A connection failed, which should not happen", exc_info=group)

    async def _converse(self, sock: trio.socket.SocketType, raw: socket.socket) -> None:
        http = HttpConnection(sock)
        while (request := await http.next_request()) is not None:
            asked = self._judge(request)
            if isinstance(asked, Response):
                if not await http.answer(asked):
                    break
                continue
            if self._hub is not None:
                with self._counted():
                    await run_websocket(sock, raw, asked, http.trailing, self._hub)
            break
        await linger(sock)

    def _judge(self, request: Request) -> Response | Upgrade:
        """The answer to a request, or the WebSocket that it may open."""
        websocket = targets_websocket(request.path)
        reason = refusal(
            host=request.header(b"host"),
            origin=request.header(b"origin"),
            local=self._local,
            websocket=websocket and request.upgrades_to_websocket,
        )
        if reason is not None:
            return refuse(403, reason)
        if not websocket or self._hub is None:
            return answer(request, self._paths)
        asked = judge(request, self._hub.channels)
        if isinstance(asked, Upgrade) and self._clients >= self._max_clients:
            return refuse(503, "there are too many clients", (b"Retry-After", b"%d" % RETRY_AFTER_SECONDS))
        return asked

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """One more client, until the block ends."""
        self._clients += 1
        try:
            yield
        finally:
            self._clients -= 1


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
