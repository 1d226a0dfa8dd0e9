"""A stream of server-sent events: the same messages as on a WebSocket, as blocks of `text/event-stream`.

The body has no length and no chunks, it ends with the connection: so the same bytes can go to every client. A browser
comes back by itself when a stream ends, with the `id:` of the last block in `Last-Event-ID`; that it does not come back
after an answer such as 503 is why who cannot be served gets a stream too, one that ends at once.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate

import trio

from bridge.hub.retry import retry_seconds
from bridge.server.clients import Clients, Stay
from bridge.server.http import Header, Request, Response
from bridge.server.upgrade import Welcome

CONTENT_TYPE = b"text/event-stream; charset=utf-8"
PEER_SECONDS = 60.0
"""A peer that acknowledges nothing of what was sent to it for so long is dead. There are no pings in this protocol."""
MAX_IGNORED_BYTES = 64 * 1024
"""A client has nothing to say after its request; one that says more than this is ended."""

_HEAD = b"\r\n".join(
    [
        b"HTTP/1.1 200 OK",
        b"Date: %b",
        b"Content-Type: " + CONTENT_TYPE,
        b"Cache-Control: no-store, no-transform",
        b"X-Accel-Buffering: no",  # nginx would wait for a buffer to fill
        b"X-Content-Type-Options: nosniff",
        b"Connection: close",
        b"%b\r\n",
    ]
)
_RECEIVE_BYTES = 2048


def resume_from(request: Request, welcome: Welcome) -> str | None:
    """The cursor after which a client goes on.

    `Last-Event-ID` is what the browser heard last; it comes with the URL of the very beginning, whose `after` is older.
    """
    return request.header(b"last-event-id") or welcome.after


def come_back_later(headers: Sequence[Header] = ()) -> Response:
    """The answer where there is no place: a stream that ends at once, and when to try again."""
    return Response(200, _retry(), CONTENT_TYPE, tuple(headers), close=True)


async def run_sse(
    raw: socket.socket,
    welcome: Welcome,
    after: str | None,
    clients: Clients,
    site: str | None,
    headers: Sequence[Header] = (),
) -> None:
    """Serve one stream, with these headers added to its head, until either side ends it. Closing `raw` is left to the
    caller. `site` is what counts as the client's address in the limits.

    Cancelling ends the stream. Raises OSError.
    """
    with suppress(OSError):  # not every socket is a TCP one, nor has every system this
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(PEER_SECONDS * 1000))
    more = b"".join(b"%b: %b\r\n" % header for header in headers)
    stay = Stay(clients, raw, "sse", welcome.grant, site)
    client = stay.client
    try:
        try:
            client.cork(_HEAD % (formatdate(usegmt=True).encode(), more) + _retry())
            clients.hub.subscribe(client, None, welcome.subscription, after)
            client.uncork()
            await _ignore(raw)
        finally:
            stay.leave()
        await client.flushed()
    finally:
        stay.end()


async def _ignore(raw: socket.socket) -> None:
    """Read what the client sends, until it ends its side or has said too much."""
    ignored_bytes = 0
    while ignored_bytes <= MAX_IGNORED_BYTES:
        await trio.lowlevel.wait_readable(raw)
        with suppress(BlockingIOError):
            data = raw.recv(_RECEIVE_BYTES)
            if not data:
                return
            ignored_bytes += len(data)


def _retry() -> bytes:
    return b"retry: %d\n\n" % (retry_seconds() * 1000)
