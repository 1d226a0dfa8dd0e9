"""`POST /notify`: the page sends a NOTIFY, where the bridge runs on a database of its own that is thrown away.

``{"channel": "match_change", "payload": {"match_id": 7}}`` as application/json, which no form of another page can send;
a script of another page would have to ask first, and is not allowed to. A payload that is a string is sent as it is,
any other JSON value as its text, without the spaces between its parts. Sent in a short session of its own, one at a
time, at a bounded rate.
"""

import re
from collections.abc import Awaitable, Callable

import msgspec
import trio

from bridge.core.bucket import Bucket
from bridge.core.grants import BadToken
from bridge.core.target import BadTarget, Target, check_channels
from bridge.errors import BridgeError, LinkLost
from bridge.origins import Origin, parse_host
from bridge.server.auth import Authenticator
from bridge.server.http import Header, Request, Response, refuse
from bridge.telemetry import error_text, log

PATH = "/notify"
MAX_BODY_BYTES = 64 * 1024
MAX_PAYLOAD_BYTES = 7_999
"""What PostgreSQL takes."""
SEND_SECONDS = 5.0
"""For the wait in line and the sending together."""
MAX_WAITING = 16
PER_SECOND = 20.0
BURST = 40.0

Send = Callable[[str, str], Awaitable[None]]
"""Sends a payload to a channel. Raises BridgeError."""
ReadBody = Callable[[int], Awaitable[bytes | None]]
"""The body of a request; None where it is longer than so many bytes. Raises trio.TooSlowError."""

_JSON = ("application/json", "application/json;charset=utf-8")
_CHALLENGE: Header = (b"WWW-Authenticate", b"Bearer")
_NOT_HERE = (
    "NOTIFY is sent here only where the bridge runs on embedded servers; use `python -m bridge notify` or your database"
)
_SPACES = re.compile(rb'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    """The body."""

    channel: str
    payload: msgspec.Raw


_order = msgspec.json.Decoder(_Order)
_text = msgspec.json.Decoder(str)


class Notifier:
    """Judges and does what is posted. Without `send` there is nothing to send to, and everything is answered by 404."""

    def __init__(self, channels: frozenset[str], authenticator: Authenticator, send: Send | None) -> None:
        self._channels = channels
        self._authenticator = authenticator
        self._send = send
        self._turn = trio.CapacityLimiter(1)
        self._bucket = Bucket(PER_SECOND, BURST, trio.current_time())

    async def answer(self, request: Request, read_body: ReadBody) -> Response:
        """The answer to a request for this path whose Host and Origin are welcome. Raises what `read_body` raises but
        for trio.TooSlowError.
        """
        if self._send is None:
            return refuse(404, _NOT_HERE)
        try:
            refused = _check_head(request)
            if refused is not None:
                return refused
            grant = self._authenticator.grant(request, Target("sse", frozenset()))
            if self._turn.statistics().tasks_waiting >= MAX_WAITING or not self._bucket.take(trio.current_time()):
                return refuse(429, f"at most {PER_SECOND:g} a second are sent here", (b"Retry-After", b"1"))
            body = await read_body(MAX_BODY_BYTES)
            if body is None:
                return refuse(413, f"the body has at most {MAX_BODY_BYTES:,} bytes")
            channel, payload = _read(body)
            check_channels([channel], self._channels)
        except trio.TooSlowError:
            return refuse(408, "the body of the request took too long", close=True)
        except BadToken as error:
            return refuse(error.status, str(error), *([_CHALLENGE] if error.status == 401 else []))
        except BadTarget as error:
            return refuse(error.status, str(error))
        if not grant.allows(channel):
            return refuse(403, f"the token does not allow the channel {channel!r}")
        return await self._forward(self._send, channel, payload)

    async def _forward(self, send: Send, channel: str, payload: str) -> Response:
        try:
            with trio.fail_after(SEND_SECONDS):
                async with self._turn:
                    await send(channel, payload)
        except trio.TooSlowError:
            return refuse(504, f"PostgreSQL did not take it within {SEND_SECONDS:g} s; it may still arrive")
        except LinkLost as error:
            log.warning("A NOTIFY of the page was not sent: %s", error_text(error))
            return refuse(503, f"it was not sent: {error_text(error)}", (b"Retry-After", b"1"))
        except BridgeError as error:
            return refuse(400, error_text(error))
        sent = {"channel": channel, "payload_bytes": len(payload.encode())}
        return Response(200, msgspec.json.encode(sent), b"application/json")


def _check_head(request: Request) -> Response | None:
    """Why a request is refused whose body nobody has read, whoever sent it."""
    if request.method != "POST":
        return refuse(405, "only POST is allowed here", (b"Allow", b"POST"))
    if not _same_origin(request):
        return refuse(403, "only a page of this very origin may send")
    content_type = (request.header(b"content-type") or "").lower().replace(" ", "")
    if content_type not in _JSON:
        return refuse(415, "the body is application/json", (b"Accept", b"application/json"))
    return None


def _read(body: bytes) -> tuple[str, str]:
    """Channel and payload of a body. Raises BadTarget, with the status and a text for whoever wrote it."""
    try:
        order = _order.decode(body)
        raw = bytes(order.payload)
        payload = _text.decode(raw) if raw.startswith(b'"') else _SPACES.sub(rb"\1", raw).decode()
    except RecursionError:
        raise BadTarget(400, "the body cannot be read: it is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = error_text(error)
        raise BadTarget(
            400, f'the body is {{"channel":"NAME","payload":VALUE}}, and cannot be read: {message}'
        ) from None
    if "\0" in payload:
        raise BadTarget(400, "PostgreSQL takes no NUL character in a payload")
    if (size := len(payload.encode())) > MAX_PAYLOAD_BYTES:
        raise BadTarget(
            413, f"PostgreSQL takes payloads of at most {MAX_PAYLOAD_BYTES:,} bytes, and this one has {size:,}"
        )
    return order.channel, payload


def _same_origin(request: Request) -> bool:
    """Whether a page of this very host and port asks, or what is no browser. The scheme is a proxy's affair."""
    text, host = request.header(b"origin"), request.header(b"host")
    if text is None:
        return True
    origin, named = Origin.parse(text), None if host is None else parse_host(host)
    return origin is not None and named is not None and origin.is_of(*named)
