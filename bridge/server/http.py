"""HTTP/1.1 on one connection: reads request heads and writes whole answers. The state is h11's.

Bounded in bytes and in time: a head of 16 KiB within 10 seconds, no request bodies, a minute of idle keep-alive.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus

import h11
import trio

HEAD_BYTES = 16 * 1024
HEAD_SECONDS = 10.0
IDLE_SECONDS = 60.0
ANSWER_SECONDS = 10.0
LINGER_SECONDS = 1.0
LINGER_BYTES = 16 << 20

Header = tuple[bytes, bytes]

_ALWAYS: tuple[Header, ...] = ((b"X-Content-Type-Options", b"nosniff"), (b"Cache-Control", b"no-store"))


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request. Header names are in lower case."""

    method: str
    target: str
    headers: Sequence[Header]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: bytes) -> str | None:
        """The header's value, several of the same name joined by commas; None where it is missing."""
        values = [value for key, value in self.headers if key == name]
        return b", ".join(values).decode("latin-1") if values else None

    def tokens(self, name: bytes) -> list[str]:
        """The elements of a comma-separated header."""
        return [token.strip() for token in (self.header(name) or "").split(",") if token.strip()]

    @property
    def upgrades_to_websocket(self) -> bool:
        connection = [token.lower() for token in self.tokens(b"connection")]
        return "upgrade" in connection and "websocket" in [token.lower() for token in self.tokens(b"upgrade")]


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    body: bytes = b""
    content_type: bytes = b"text/plain; charset=utf-8"
    headers: tuple[Header, ...] = ()
    close: bool = field(default=False, kw_only=True)


def refuse(status: int, message: str, *headers: Header, close: bool = False) -> Response:
    """An answer in one line of plain text."""
    return Response(status, message.encode() + b"\n", headers=headers, close=close)


class HttpConnection:
    """One connection that speaks HTTP/1.1 until it ends or is handed over to a WebSocket."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._head_only = False

    @property
    def trailing(self) -> bytes:
        """What the client sent after the head of its upgrade."""
        return self._h11.trailing_data[0]

    async def next_request(self) -> Request | None:
        """The next request; None at the end of the connection, or where nothing came for too long.

        What is no HTTP, too long, too late or has a body is answered here, and ends the connection.
        """
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
            timeout_seconds = IDLE_SECONDS
        else:
            timeout_seconds = HEAD_SECONDS
        started = bool(self.trailing)
        with trio.move_on_after(HEAD_SECONDS if started else timeout_seconds) as scope:
            try:
                while (event := self._h11.next_event()) is h11.NEED_DATA:
                    data = await self.sock.recv(HEAD_BYTES)
                    if data and not started:
                        started = True
                        scope.deadline = trio.current_time() + HEAD_SECONDS
                    self._h11.receive_data(data)
                if not isinstance(event, h11.Request):
                    return None
                self._head_only = event.method == b"HEAD"
                if event.http_version not in (b"1.0", b"1.1"):
                    await self._give_up(refuse(505, "only HTTP/1.1 is spoken here"))
                    return None
                request = Request(event.method.decode(), event.target.decode("latin-1"), list(event.headers))
                if isinstance(self._h11.next_event(), h11.EndOfMessage):
                    return request
            except h11.RemoteProtocolError as error:
                await self._give_up(refuse(error.error_status_hint, "this is not HTTP/1.1 as the bridge speaks it"))
                return None
        if scope.cancelled_caught:
            if started:
                await self._give_up(refuse(408, "the head of the request took too long"))
        else:
            await self._give_up(refuse(413, "a request body is not expected"))
        return None

    async def answer(self, response: Response) -> bool:
        """Send a whole answer; True if another request may follow. Raises trio.TooSlowError if the peer takes none."""
        connection = self._h11
        headers = [
            (b"Date", formatdate(usegmt=True).encode()),
            (b"Content-Type", response.content_type),
            (b"Content-Length", b"%d" % len(response.body)),
            *_ALWAYS,
            *response.headers,
        ]
        if response.close:
            headers.append((b"Connection", b"close"))
        reason = HTTPStatus(response.status).phrase.encode()
        data = connection.send(h11.Response(status_code=response.status, headers=headers, reason=reason)) or b""
        if response.body and not self._head_only:
            data += connection.send(h11.Data(response.body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        with trio.fail_after(ANSWER_SECONDS):
            while data:
                data = data[await self.sock.send(data) :]
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _give_up(self, response: Response) -> None:
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self.answer(Response(response.status, response.body, close=True))


async def linger(sock: trio.socket.SocketType) -> None:
    """End a connection so that the peer can still read the last answer: closing with unread data would reset it."""
    with trio.move_on_after(LINGER_SECONDS):
        sock.shutdown(socket.SHUT_WR)
        left = LINGER_BYTES
        while left > 0 and (data := await sock.recv(65536)):
            left -= len(data)
