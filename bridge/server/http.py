"""HTTP/1.1 on one connection: reads request heads and writes whole answers. The state is h11's.

Bounded in bytes and in time: a head of 16 KiB within 10 seconds, a minute of idle keep-alive. A request has no body,
but where it is expected: then of a known length, within 10 seconds, and no longer than who reads it allows.
"""

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import cast

import h11
import trio

from bridge.server.quick import read_handshake
from bridge.telemetry import log

HEAD_BYTES = 16 * 1024
HEAD_SECONDS = 10.0
BODY_SECONDS = 10.0
IDLE_SECONDS = 60.0
ANSWER_SECONDS = 10.0
LINGER_SECONDS = 1.0
LINGER_BYTES = 16 << 20

Header = tuple[bytes, bytes]

_NO_SNIFFING: Header = (b"X-Content-Type-Options", b"nosniff")


class Request:
    """The head of a request. Header names are in lower case; values of the same name are joined by commas."""

    __slots__ = ("_values", "method", "path", "target")

    def __init__(self, method: str, target: str, headers: Iterable[Header]) -> None:
        self.method = method
        self.target = target
        self.path = target.partition("?")[0]
        self._values: dict[bytes, bytes] = {}
        for name, value in headers:
            self._values[name] = self._values[name] + b", " + value if name in self._values else value

    def header(self, name: bytes) -> str | None:
        """The header's value; None where it is missing."""
        value = self._values.get(name)
        return None if value is None else value.decode("latin-1")

    def tokens(self, name: bytes) -> list[str]:
        """The elements of a comma-separated header."""
        return _tokens(self._values.get(name, b""))

    @property
    def upgrades_to_websocket(self) -> bool:
        return _names_websocket(self._values.get(b"connection", b""), self._values.get(b"upgrade", b""))


def _tokens(value: bytes) -> list[str]:
    return [token for part in value.decode("latin-1").split(",") if (token := part.strip())] if value else []


@lru_cache(maxsize=64)
def _names_websocket(connection: bytes, upgrade: bytes) -> bool:
    return "upgrade" in _tokens(connection.lower()) and "websocket" in _tokens(upgrade.lower())


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    body: bytes = b""
    content_type: bytes = b"text/plain; charset=utf-8"
    headers: tuple[Header, ...] = ()
    close: bool = field(default=False, kw_only=True)
    cache: bytes = field(default=b"no-store", kw_only=True)
    """Whether it may be kept, as `Cache-Control` says it."""


def refuse(status: int, message: str, *headers: Header, close: bool = False) -> Response:
    """An answer in one line of plain text."""
    return Response(status, message.encode() + b"\n", headers=headers, close=close)


class HttpConnection:
    """One connection that speaks HTTP/1.1 until it ends or is handed over to a client. `raw` does not block.

    Requests that `takes_body` names may have a body, which is left to `body`.
    """

    def __init__(self, raw: socket.socket, takes_body: Callable[[Request], bool] = lambda _: False) -> None:
        self._raw = raw
        self._takes_body = takes_body
        self._head = b""
        """A handshake that was read without h11, and what came after it."""
        self._head_size = 0
        self._started: h11.Connection | None = None
        self._head_only = False

    @property
    def trailing(self) -> bytes:
        """What the client sent after the head of its request."""
        return self._head[self._head_size :] if self._head else self._h11.trailing_data[0]

    @property
    def _h11(self) -> h11.Connection:
        if self._started is None:
            self._started = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
            if self._head:  # it was refused: h11 makes the answer, and reads what follows
                self._started.receive_data(self._head)
                self._started.next_event()  # the request
                self._started.next_event()  # and its end
                self._head = b""
        return self._started

    async def next_request(self) -> Request | None:
        """The next request; None at the end of the connection, or where nothing came for too long.

        What is no HTTP, too long, too late or has a body is answered here, and ends the connection.
        """
        if self._started is None and not self._head:
            with trio.move_on_after(HEAD_SECONDS):
                handshake = self._begin(await receive(self._raw, HEAD_BYTES))
                if handshake is not None:
                    return handshake
            if self._started is None:
                return None
        idle_seconds = HEAD_SECONDS
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
            idle_seconds = IDLE_SECONDS
        try:
            event = await self._next_event(idle_seconds)
            if not isinstance(event, h11.Request):
                return None
            self._head_only = event.method == b"HEAD"
            request = Request(event.method.decode(), event.target.decode("latin-1"), list(event.headers))
            takes_body = self._takes_body(request)
            if event.http_version not in (b"1.0", b"1.1"):
                await self._give_up(refuse(505, "only HTTP/1.1 is spoken here"))
            elif takes_body and _announces_chunks(event):
                await self._give_up(refuse(411, "a request body is announced by Content-Length alone"))
            elif takes_body:
                return request
            elif _announces_chunks(event) or not isinstance(self._h11.next_event(), h11.EndOfMessage):
                await self._give_up(refuse(413, "a request body is not expected"))
            else:
                return request
        except h11.RemoteProtocolError as error:
            await self._give_up(refuse(error.error_status_hint, "this is not HTTP/1.1 as the bridge speaks it"))
        return None

    def handshake(self) -> Request | None:
        """The first request, if it is a handshake and there already. What else has come is kept for `next_request`.

        Raises OSError.
        """
        with suppress(BlockingIOError):
            return self._begin(self._raw.recv(HEAD_BYTES))
        return None

    def _begin(self, data: bytes) -> Request | None:
        """The first bytes: a whole handshake, or something for h11."""
        found = read_handshake(data)
        if found is None:
            self._h11.receive_data(data)
            return None
        target, headers, self._head_size = found
        self._head = data
        return Request("GET", target.decode(), headers)

    async def _next_event(self, idle_seconds: float) -> h11.Event | type[h11.PAUSED] | None:
        """What h11 reads next; None where too little came in time. Once a head has begun, time is short."""
        started = bool(self.trailing)
        with trio.move_on_after(HEAD_SECONDS if started else idle_seconds) as scope:
            while True:
                event = self._h11.next_event()
                if event is not h11.NEED_DATA:
                    return cast("h11.Event | type[h11.PAUSED]", event)
                data = await receive(self._raw, HEAD_BYTES)
                if data and not started:
                    started = True
                    scope.deadline = trio.current_time() + HEAD_SECONDS
                self._h11.receive_data(data)
        if started:
            await self._give_up(refuse(408, "the head of the request took too long"))
        return None

    async def body(self, max_bytes: int) -> bytes | None:
        """The body of the last request, once, if `takes_body` named it; None where it is longer, and is left unread.

        Raises h11.RemoteProtocolError where the peer ends before it is whole, and trio.TooSlowError.
        """
        body, connection = bytearray(), self._h11
        with trio.fail_after(BODY_SECONDS):
            while True:
                event = connection.next_event()
                if isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > max_bytes:
                        return None
                elif event is not h11.NEED_DATA:
                    return bytes(body)
                else:
                    if connection.they_are_waiting_for_100_continue:
                        go_on = connection.send(
                            h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                        )
                        await send(self._raw, go_on or b"")
                    connection.receive_data(await receive(self._raw, HEAD_BYTES))

    async def answer(self, response: Response) -> bool:
        """Send a whole answer; True if another request may follow. Raises trio.TooSlowError if the peer takes none."""
        connection = self._h11
        headers = [
            (b"Date", formatdate(usegmt=True).encode()),
            _NO_SNIFFING,
            (b"Cache-Control", response.cache),
            *response.headers,
        ]
        if response.status != HTTPStatus.NOT_MODIFIED:  # whose body, of another length, the client has
            headers += [
                (b"Content-Type", response.content_type),
                (b"Content-Length", b"%d" % len(response.body)),
            ]
        if response.close or connection.their_state is h11.SEND_BODY:
            headers.append((b"Connection", b"close"))
        reason = HTTPStatus(response.status).phrase.encode()
        data = connection.send(h11.Response(status_code=response.status, headers=headers, reason=reason)) or b""
        if response.body and not self._head_only:
            data += connection.send(h11.Data(response.body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        with trio.fail_after(ANSWER_SECONDS):
            await send(self._raw, data)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _give_up(self, response: Response) -> None:
        log.debug("A request was answered with %d: %s", response.status, response.body.decode().rstrip())
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self.answer(Response(response.status, response.body, close=True))


def _announces_chunks(event: h11.Request) -> bool:
    """Whether a body may come in pieces, if only an empty one: proxies disagree on where that ends."""
    return any(name == b"transfer-encoding" for name, _ in event.headers)


async def receive(raw: socket.socket, max_bytes: int) -> bytes:
    """The next bytes of a socket that does not block; empty at the end of the connection. Raises OSError."""
    while True:
        await trio.lowlevel.wait_readable(raw)
        with suppress(BlockingIOError):
            return raw.recv(max_bytes)


async def send(raw: socket.socket, data: bytes) -> None:
    """Send all of it on a socket that does not block; gives other tasks a turn. Raises OSError."""
    await trio.lowlevel.checkpoint()
    left = memoryview(data)
    while left:
        try:
            left = left[raw.send(left) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(raw)


async def linger(raw: socket.socket) -> None:
    """End a connection so that the peer can still read the last answer: closing with unread data would reset it."""
    with trio.move_on_after(LINGER_SECONDS):
        raw.shutdown(socket.SHUT_WR)
        left = LINGER_BYTES
        while left > 0 and (data := await receive(raw, 65536)):
            left -= len(data)
