"""The protocol between a client and the bridge, without I/O: RFC 6455 server frames, and the JSON messages.

Frames are made here and not by the WebSocket library, because one frame goes to many clients. A server's frames are not
masked, so all clients can get the same bytes.
"""

from typing import Final, Literal

import msgspec

from bridge.core.cursor import Cursor
from bridge.core.topics import Subscription

PING_FRAME: Final = b"\x89\x00"
CLOSE_FRAME_START: Final = 0x88
MAX_CLOSE_REASON_BYTES = 123  # a control frame holds 125 bytes, two of them are the code

_TEXT: Final = 0x81
_PING: Final = 0x89
_SIMPLE: Final = (_TEXT, _PING, 0x8A)

GOING_AWAY: Final = 1001
POLICY_VIOLATION: Final = 1008
TOO_LARGE: Final = 1009
TOKEN_EXPIRED: Final = 4001
TOO_SLOW: Final = 4008
OVERLOADED: Final = 4013

ErrorCode = Literal["bad_message", "unknown_channel", "forbidden", "too_many_subscriptions", "rate_limited"]

_encode = msgspec.json.encode


def _text_head(size: int) -> bytes:
    if size < 126:
        return b"\x81%c" % size
    if size < 65536:
        return b"\x81\x7e%b" % size.to_bytes(2, "big")
    return b"\x81\x7f%b" % size.to_bytes(8, "big")


_HEADS: Final = tuple(map(_text_head, range(2048)))
"""Of the text frames of usual sizes."""


def text_frame(data: bytes) -> bytes:
    """One unmasked text frame that holds `data`, which must be UTF-8."""
    size = len(data)
    return (_HEADS[size] if size < 2048 else _text_head(size)) + data


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping with this payload."""
    return b"\x8a%c%b" % (len(payload), payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """One unmasked close frame; a reason that does not fit is cut between characters."""
    text = reason.encode()[:MAX_CLOSE_REASON_BYTES].decode(errors="ignore").encode()
    return b"\x88%c%b%b" % (2 + len(text), code.to_bytes(2, "big"), text)


def frame_end(data: bytes, offset: int) -> int:
    """The first frame boundary at or after `offset` in `data`, which is a row of whole unmasked frames."""
    return _frame_before(data, offset)[1]


def last_payload(data: bytes, end: int) -> bytes:
    """What the last of the unmasked frames until `end` holds; empty where there is none."""
    start, end = _frame_before(data, end)
    return data[start:end]


def _frame_before(data: bytes, offset: int) -> tuple[int, int]:
    start = end = 0
    while end < offset:
        size, start = data[end + 1], end + 2
        if size == 126:
            size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
        elif size == 127:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        end = start + size
    return start, end


def only_pongs(data: bytes) -> bool:
    """Whether these are whole pong frames of a client and nothing else."""
    end = 0
    while end + 6 <= len(data):
        size = data[end + 1] - 0x80
        if data[end] != 0x8A or not 0 <= size < 126:
            return False
        end += 6 + size
    return end == len(data)


def whole_frames(data: bytes) -> list[str | bytes | None] | None:
    """What a client says in these bytes: a text, the bytes of a ping, None for a pong.

    None for all of it where any is not whole, a fragment, longer than 65,535 bytes, of another kind, or not as it
    should be.
    """
    said: list[str | bytes | None] = []
    at = 0
    while at < len(data):
        head, at = data[at : at + 2], at + 2
        if len(head) < 2 or head[0] not in _SIMPLE:
            return None
        size = head[1] - 0x80
        if size == 126 and head[0] == _TEXT:
            size, at = int.from_bytes(data[at : at + 2], "big"), at + 2
            if size < 126:
                return None
        elif not 0 <= size < 126:
            return None
        start, at = at + 4, at + 4 + size
        if at > len(data):
            return None
        payload = _unmasked(data[start:at], data[start - 4 : start])
        try:
            said.append(payload.decode() if head[0] == _TEXT else payload if head[0] == _PING else None)
        except UnicodeDecodeError:
            return None
    return said


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    mask = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


def only_close(data: bytes) -> bool:
    """Whether this is a whole close frame of a client and nothing else, whatever its code."""
    return len(data) >= 6 and data[0] == 0x88 and len(data) == 6 + (data[1] & 0x7F)


def subscribed_json(sub: str | None, subscription: Subscription, cursor: Cursor | None) -> bytes:
    """What begins a subscription: from here on nothing is missed."""
    where = {name: values[0] if len(values) == 1 else values for name, values in subscription.where}
    return b'{"type":"subscribed","channels":%b,"where":%b,"sub":%b,"position":%b}' % (
        _encode(sorted(subscription.channels)),
        _encode(where),
        _encode(sub),
        _encode(cursor and str(cursor)),
    )


def position_json(cursor: Cursor) -> bytes:
    """Where a client stands that has not had an event for a while."""
    return b'{"type":"position","cursor":%b}' % _encode(str(cursor))


def pong_json(cursor: Cursor | None) -> bytes:
    """The answer to a client's ping message."""
    return b'{"type":"pong","cursor":%b}' % _encode(cursor and str(cursor))


def error_json(code: ErrorCode, message: str) -> bytes:
    """Something the client sent that cannot be done, and why."""
    return b'{"type":"error","code":%b,"message":%b}' % (_encode(code), _encode(message))
