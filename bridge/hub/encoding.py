"""One message on the way to a client: a WebSocket frame, a block of a server-sent event stream, or a line.

The JSON is the same in all. A block has the cursor as its `id:`, which the browser gives back as `Last-Event-ID`.
"""

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from bridge.core import events
from bridge.core.cursor import Cursor
from bridge.core.events import Event, Filled, Gap, GapReason, Published
from bridge.core.wire import close_frame, frame_end, last_payload, text_frame
from bridge.hub.lack import Lack

Protocol = Literal["ws", "sse", "lines"]
"""Lines are for readers in the same process: a message of the protocol holds no line break."""

_BLOCK_END: Final = b"\n\n"


class _Standing(msgspec.Struct):
    """What a message says of where its client stands."""

    id: str | None = None
    cursor: str | None = None


_standing = msgspec.json.Decoder(_Standing)


@dataclass(frozen=True, slots=True)
class Message:
    """What a client is told: its JSON, its type, and the cursor after it (empty: none)."""

    data: bytes
    kind: str = "notification"
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class FinalGap(Message):
    """A gap that nothing will fill any more."""

    reason: GapReason = "failover"


def encode(protocol: Protocol, message: Message) -> bytes:
    """The bytes of a whole message."""
    if protocol == "ws":
        return text_frame(message.data)
    if protocol == "lines":
        return message.data + b"\n"
    if message.kind == "position":
        return b":\nid: %b\n\n" % message.cursor.encode()
    kind = b"" if message.kind == "notification" else b"event: %b\n" % message.kind.encode()
    identity = b"id: %b\n" % message.cursor.encode() if message.cursor else b""
    return b"%b%bdata: %b\n\n" % (kind, identity, message.data)


def event_message(event: Event, cursor: Cursor) -> Message:
    """An event as it is told to clients that stand at `cursor` after it."""
    text = str(cursor)
    needs_more = cursor.open_gaps or cursor.position != event.position
    return Message(events.with_cursor(event.data, text) if needs_more else event.data, cursor=text)


def published_message(event: Published, cursor: Cursor) -> Message:
    """What an application has published, to clients that stand at `cursor`: its own id is null."""
    text = str(cursor)
    return Message(events.with_cursor(event.data, text), cursor=text)


def gap_message(gap: Gap, cursor: Cursor) -> Message:
    """A gap as it is told to clients that stand at `cursor` after it."""
    text = str(cursor)
    data = events.gap_json(gap, text)
    return Message(data, "gap", text) if gap.pending else FinalGap(data, "gap", text, gap.reason)


def end_message(lack: Lack, cursor: Cursor) -> Message:
    """The end of a pending gap as it is told to clients that stand at `cursor` after it."""
    after, before = lack.gap.after, lack.gap.before
    if lack.lost is not None:
        return gap_message(Gap(after, before, lack.lost), cursor)
    text = str(cursor)
    return Message(events.filled_json(Filled(after, before), text), "filled", text)


def goodbye(protocol: Protocol, code: int, reason: str) -> bytes:
    """The last bytes to a client: a close frame, or in a stream when to come back where the reason says so."""
    if protocol == "ws":
        return close_frame(code, reason)
    name, _, seconds = reason.partition("=")
    return b"retry: %d\n\n" % (int(seconds) * 1000) if name == "retry" and seconds.isdecimal() else b":\n\n"


def message_end(protocol: Protocol, data: bytes, offset: int) -> int:
    """The first end of a message at or after `offset` in `data`, which is a row of whole messages."""
    if protocol == "ws":
        return frame_end(data, offset)
    return offset and data.index(_BLOCK_END, max(0, offset - len(_BLOCK_END))) + len(_BLOCK_END)


def cursor_at(protocol: Protocol, data: bytes, end: int) -> Cursor | None:
    """Where a client stands that has had these messages until `end`, an end of one; None where they do not say."""
    try:
        if protocol == "ws":
            read = _standing.decode(last_payload(data, end))
            text = read.cursor or read.id or ""
        else:
            block = data[: end - len(_BLOCK_END)].rpartition(_BLOCK_END)[2]
            text = next((line[4:].decode() for line in block.split(b"\n") if line.startswith(b"id: ")), "")
        return Cursor.parse(text)
    except ValueError:
        return None
