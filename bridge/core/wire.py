"""The protocol between a client and the bridge, without I/O: URLs, RFC 6455 server frames, and the JSON messages.

Frames are made here and not by the WebSocket library, because one frame goes to many clients. A server's frames are not
masked, so all clients can get the same bytes.
"""

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote

import msgspec

from bridge.core.position import Position
from bridge.core.topics import Subscription

PING_FRAME: Final = b"\x89\x00"
CLOSE_FRAME_START: Final = 0x88
MAX_CLOSE_REASON_BYTES = 123  # a control frame holds 125 bytes, two of them are the code

GOING_AWAY = 1001
POLICY_VIOLATION = 1008
TOO_SLOW = 4008

ErrorCode = Literal["bad_message", "unknown_channel", "forbidden", "too_many_subscriptions", "rate_limited"]

_encode = msgspec.json.encode


class BadTarget(Exception):
    """A URL that asks for something the bridge does not have; `status` is the HTTP status to answer with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a message of a client. `bad` is true where the message was not understood."""

    data: bytes
    bad: bool


class _Message(msgspec.Struct):
    type: str


_message = msgspec.json.Decoder(_Message)


def text_frame(data: bytes) -> bytes:
    """One unmasked text frame that holds `data`, which must be UTF-8."""
    size = len(data)
    if size < 126:
        return b"\x81%c%b" % (size, data)
    if size < 65536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), data)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), data)


def close_frame(code: int, reason: str = "") -> bytes:
    """One unmasked close frame; a reason that does not fit is cut between characters."""
    text = reason.encode()[:MAX_CLOSE_REASON_BYTES].decode(errors="ignore").encode()
    return b"\x88%c%b%b" % (2 + len(text), code.to_bytes(2, "big"), text)


def frame_end(data: bytes, offset: int) -> int:
    """The first frame boundary at or after `offset` in `data`, which is a row of whole unmasked frames."""
    end = 0
    while end < offset:
        size = data[end + 1]
        end += 2
        if size == 126:
            size, end = int.from_bytes(data[end : end + 2], "big"), end + 2
        elif size == 127:
            size, end = int.from_bytes(data[end : end + 8], "big"), end + 8
        end += size
    return end


def parse_target(target: str, known: frozenset[str]) -> Subscription:
    """The subscription that a request target such as ``/ws?channel=a&where.match_id=7`` asks for.

    Also ``/ws/CHANNEL`` and ``/ws/match/ID/stats`` (all channels where match_id is ID). `known` are the configured
    channels: naming none means all of them. Raises BadTarget (404 for a path, 400 for anything else).
    """
    try:
        raw_path, _, raw_query = target.partition("?")
        path = [unquote(part, errors="strict") for part in raw_path.split("/")]
        query = parse_qsl(raw_query, keep_blank_values=True, errors="strict")
    except ValueError:
        raise BadTarget(400, "the URL cannot be read: percent-encoded UTF-8 is expected") from None
    channels: set[str] = set()
    where: dict[str, str] = {}
    match path:
        case ["", "ws"]:
            pass
        case ["", "ws", channel] if channel:
            channels.add(channel)
        case ["", "ws", "match", match_id, "stats"] if match_id:
            where["match_id"] = match_id
        case _:
            raise BadTarget(404, "there is nothing at this path")
    for name, value in query:
        if name == "channel":
            channels.add(value)
        elif name.startswith("where."):
            field = name.removeprefix("where.")
            if where.setdefault(field, value) != value:
                raise BadTarget(400, f"{name} is given twice, and an event cannot match both")
        elif name in ("after", "token"):
            raise BadTarget(400, f"the parameter {name} is not supported by this version")
        else:
            raise BadTarget(400, f"unknown parameter {name!r}; there are channel and where.FIELD")
    unknown = sorted(channels - known)
    if unknown:
        raise BadTarget(400, f"unknown channel {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return Subscription(frozenset(channels) or known, tuple(sorted(where.items())))


def answer(message: str | bytes, position: Position | None) -> Reply:
    """What the bridge says to a message of a client whose events have arrived up to `position`. Never raises."""
    if isinstance(message, str):
        try:
            kind = _message.decode(message).type
        except (msgspec.DecodeError, RecursionError):
            return Reply(error_json("bad_message", 'a message is a JSON object with a "type"'), True)
    else:
        return Reply(error_json("bad_message", "a message is a text frame, not a binary one"), True)
    if kind == "ping":
        return Reply(pong_json(position), False)
    if kind in ("subscribe", "unsubscribe"):
        return Reply(error_json("bad_message", f"{kind} is not supported by this version"), True)
    return Reply(error_json("bad_message", "unknown type; there is ping"), True)


def subscribed_json(subscription: Subscription, position: Position | None) -> bytes:
    """The first message to a client: from here on nothing is missed."""
    return b'{"type":"subscribed","channels":%b,"where":%b,"position":%b}' % (
        _encode(sorted(subscription.channels)),
        _encode(dict(subscription.where)),
        _cursor(position),
    )


def position_json(position: Position) -> bytes:
    """Where a client stands that has not had an event for a while."""
    return b'{"type":"position","cursor":%b}' % _cursor(position)


def pong_json(position: Position | None) -> bytes:
    """The answer to a client's ping message."""
    return b'{"type":"pong","cursor":%b}' % _cursor(position)


def error_json(code: ErrorCode, message: str) -> bytes:
    """Something the client sent that cannot be done, and why."""
    return b'{"type":"error","code":%b,"message":%b}' % (_encode(code), _encode(message))


def _cursor(position: Position | None) -> bytes:
    return b"null" if position is None else b'"%d-%d"' % position
