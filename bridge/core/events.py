"""What is heard from PostgreSQL, what the log holds and what clients see: the values, and their JSON.

`Notification` and `Marker` are what a LISTEN session hears. `Event` and `Gap` are what flows to clients: the bytes of
an event are made once, where it gets its position, and are the same in the log, on the wire and in every client.
"""

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from bridge.core.position import Position, positions_from

SYNC_CHANNEL = "bridge_sync"
PROBE_CHANNEL = "bridge_probe"
RESERVED_CHANNELS = frozenset({SYNC_CHANNEL, PROBE_CHANNEL})

MAX_PAYLOAD_BYTES = 7999
"""Of a NOTIFY, by PostgreSQL's own bound; the JSON that an application publishes has the same."""

MAX_DEPTH = 128
"""JSON nested deeper is delivered as a string: parsers give up on deep nesting, each at its own depth."""

GapReason = Literal[
    "failover", "postgres_session_lost", "history_trimmed", "unknown_position", "slow_client", "channels_changed"
]
"""Why something may be missing: Redis was lost and nobody has heard what came meanwhile; no LISTEN session was open;
the history, or this bridge, does not reach back to where the reader was; the reader was too slow; the bridge was given
other channels."""

_raw = msgspec.json.Decoder(msgspec.Raw)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_encode = msgspec.json.encode
_LATE = b',"late":true}'
_MAX_PUBLISHED_BYTES = MAX_PAYLOAD_BYTES + 1024
"""With the name of its channel, which may be escaped, and some blanks."""
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])')


class Notification(msgspec.Struct, frozen=True, gc=False):
    """One NOTIFY on a configured channel. `payload` is the JSON text that clients get, without line breaks."""

    channel: str
    payload: bytes


class Marker(msgspec.Struct, frozen=True, gc=False):
    """What a session says of itself on the sync channel when it starts."""

    term: int
    nonce: str
    digest: str
    role: str
    prefix: str


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """Something on the sync channel that is no marker (anybody may NOTIFY): it counts, and means nothing."""


Body = Notification | Marker | Unreadable


class Heard(msgspec.Struct, frozen=True, gc=False):
    """What a session heard, at its own position."""

    position: Position
    body: Body


class Event(msgspec.Struct, frozen=True, gc=False):
    """A notification for clients: `data` is the whole JSON object that they get, its id in the log's numbering."""

    position: Position
    channel: str
    data: bytes
    late: bool = False
    """Whether it comes after newer ones."""
    hole: tuple[Position, Position] | None = None
    """The bounds of the pending gap that a late event lies in."""


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Between these two positions something may be missing; None is an unknown bound."""

    after: Position | None
    before: Position | None
    reason: GapReason
    pending: bool = False

    @property
    def passed(self) -> Position | None:
        """Where a client stands that has been told of it. Seq 0 is a session's own marker, and holds nothing."""
        if self.before is None or self.before.seq == 0:
            return self.before
        return self.before.plus(-1)


class Filled(msgspec.Struct, frozen=True, gc=False):
    """A pending gap between these bounds has been filled: nothing was lost."""

    after: Position | None
    before: Position | None


class Past(msgspec.Struct, frozen=True, gc=False):
    """Everything from `floor` (excluded) to where delivery began, in a numbering that is related to it.

    It ends the pending `hole`, which reaches from the beginning of all to there.
    """

    floor: Position
    hole: tuple[Position, Position]
    events: tuple[Event, ...]


class Published(msgspec.Struct, frozen=True, gc=False):
    """What an application has published: `data` is the whole JSON object that clients get, but for their cursor.

    It has no position, is in no log, and nobody is told where it is missing.
    """

    channel: str
    data: bytes


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the log, read back. Exactly one of `event` and `marker` is set, or none for an unreadable marker."""

    position: Position
    event: Event | None
    marker: Marker | None


class _Line(msgspec.Struct, gc=False):
    """The common shape of the log's entries."""

    type: Literal["notification", "marker"]
    id: str
    channel: str = ""
    marker: Marker | None = None


class _Payload(msgspec.Struct, gc=False):
    payload: msgspec.Raw


class _Published(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    type: Literal["notification"]
    id: None
    channel: str
    payload: msgspec.Raw


_line = msgspec.json.Decoder(_Line)
_payload = msgspec.json.Decoder(_Payload)
_marker = msgspec.json.Decoder(Marker, strict=False)
_published = msgspec.json.Decoder(_Published)


def payload_json(raw: bytes) -> bytes:
    """The JSON for a NOTIFY payload: the text itself where it is JSON (line breaks as spaces), else a string.

    Invalid UTF-8 becomes U+FFFD. Never raises: what is no JSON, or nested deeper than `MAX_DEPTH`, is a string.
    """
    if not raw:
        return b'""'
    try:
        if not raw.isascii():
            raw.decode()
    except UnicodeDecodeError:
        raw = raw.decode(errors="replace").encode()
    if _depth(raw) <= MAX_DEPTH:
        try:
            _raw.decode(raw)
        except msgspec.DecodeError:
            pass
        else:
            return raw.translate(_LINE_BREAKS) if b"\n" in raw or b"\r" in raw else raw
    return _encode(raw.decode())


def fields(data: bytes) -> dict[str, str]:
    """The top-level scalar fields of an event's payload as text: a string's content, another scalar as written.

    Empty where the payload is no JSON object; objects and arrays are left out.
    """
    payload = bytes(_payload.decode(data).payload)
    if not payload.lstrip().startswith(b"{"):
        return {}
    found: dict[str, str] = {}
    for name, raw in _fields.decode(payload).items():
        value = bytes(raw)
        if value[:1] == b'"':
            found[name] = _text.decode(value)
        elif value[:1] not in (b"{", b"["):
            found[name] = value.decode()
    return found


def event(position: Position, notification: Notification) -> Event:
    """The event that clients see for this notification at this position."""
    return Event(position, notification.channel, _notification_json(position, notification))


def entry_json(position: Position, body: Body) -> bytes:
    """One line for the log: an event's own bytes, or a marker. Holds no line break."""
    match body:
        case Notification():
            return _notification_json(position, body)
        case Marker():
            return b'{"type":"marker","id":"%d-%d","marker":%b}' % (*position, _encode(body))
        case Unreadable():
            return b'{"type":"marker","id":"%d-%d"}' % position


def entry_lines(first: Position, bodies: Sequence[Body]) -> list[bytes]:
    """`entry_json` of each of these, at consecutive positions."""
    if len(bodies) == 1:
        return [entry_json(first, bodies[0])]
    begin = b'{"type":"notification","id":"%d-' % first.term
    middles: dict[str, bytes] = {}
    lines: list[bytes] = []
    for seq, body in enumerate(bodies, first.seq):
        if not isinstance(body, Notification):
            lines.append(entry_json(Position(first.term, seq), body))
            continue
        middle = middles.get(body.channel)
        if middle is None:
            middle = middles[body.channel] = b'","channel":%b,"payload":' % _encode(body.channel)
        lines.append(b"%b%d%b%b}" % (begin, seq, middle, body.payload))
    return lines


def read_entry(line: bytes) -> Entry:
    """The entry that `entry_json` wrote. Raises ValueError for anything else."""
    try:
        read = _line.decode(line)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    position = Position.parse(read.id)
    if read.type == "notification":
        return Entry(position, Event(position, read.channel, line), None)
    return Entry(position, None, read.marker)


def read_run(lines: Sequence[bytes]) -> list[Event]:
    """The events of these lines, if they are notifications at consecutive positions of one term; else none.

    The same as `read_entry` gives for each of them, in a third of the time.
    """
    try:
        read = list(map(_line.decode, lines))
        first, last = Position.parse(read[0].id), Position.parse(read[-1].id)
    except (ValueError, RecursionError, IndexError):
        return []
    count = len(read)
    if last != first.plus(count - 1) or any(one.type != "notification" for one in read):
        return []
    ids = f"{first.term}-" + f"\n{first.term}-".join(map(str, range(first.seq, first.seq + count)))
    if "\n".join([one.id for one in read]) != ids:
        return []
    return list(map(Event, positions_from(first, count), [one.channel for one in read], lines))


def read_marker(payload: bytes) -> Marker | Unreadable:
    """What somebody sent on the sync channel."""
    try:
        marker = _marker.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Unreadable()
    return marker if 0 < marker.term < 2**63 else Unreadable()


def published(channel: str, payload: bytes) -> Published:
    """What clients see of this JSON text that an application sends. Raises ValueError where it is too long or deep."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a payload has at most {MAX_PAYLOAD_BYTES} bytes as JSON, and this one has {len(payload)}")
    if _depth(payload) > MAX_DEPTH:
        raise ValueError(f"a payload is nested at most {MAX_DEPTH} deep")
    parts = _encode(channel), payload.translate(_LINE_BREAKS)
    return Published(channel, b'{"type":"notification","id":null,"channel":%b,"payload":%b}' % parts)


def read_published(message: bytes) -> Published:
    """What an application has published. Raises ValueError for what is no such event, to the letter."""
    if len(message) > _MAX_PUBLISHED_BYTES:
        raise ValueError(f"too long, with {len(message)} bytes")
    message.decode()
    try:
        read = _published.decode(message)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return published(read.channel, bytes(read.payload))


def late(event: Event, hole: tuple[Position, Position] | None) -> Event:
    """The same event, marked as one that comes after newer ones and lies in this pending gap."""
    return Event(event.position, event.channel, event.data[:-1] + _LATE, late=True, hole=hole)


def in_order(event: Event) -> Event:
    """A late event as it is for those to whom nothing newer has come."""
    return Event(event.position, event.channel, event.data.removesuffix(_LATE) + b"}") if event.late else event


def gap_json(gap: Gap, cursor: str) -> bytes:
    """The JSON of a gap event, and where its client stands after it."""
    pending = b',"pending":true' if gap.pending else b""
    return b'{"type":"gap",%b,"reason":"%b"%b,"cursor":"%b"}' % (
        _bounds(gap),
        gap.reason.encode(),
        pending,
        cursor.encode(),
    )


def filled_json(filled: Filled, cursor: str) -> bytes:
    """The JSON of the event that ends a pending gap without loss, and where its client stands after it."""
    return b'{"type":"filled",%b,"cursor":"%b"}' % (_bounds(filled), cursor.encode())


def with_cursor(data: bytes, cursor: str) -> bytes:
    """The JSON of a notification, with a cursor because its id alone would not do."""
    return b'%b,"cursor":"%b"}' % (data[:-1], cursor.encode())


def _notification_json(position: Position, notification: Notification) -> bytes:
    return b'{"type":"notification","id":"%d-%d","channel":%b,"payload":%b}' % (
        *position,
        _encode(notification.channel),
        notification.payload,
    )


def _bounds(of: Gap | Filled) -> bytes:
    after = b"null" if of.after is None else b'"%d-%d"' % of.after
    before = b"null" if of.before is None else b'"%d-%d"' % of.before
    return b'"after":%b,"before":%b' % (after, before)


def _depth(raw: bytes) -> int:
    """How deep this JSON is nested, or more than that where it is not more than `MAX_DEPTH` anyway."""
    most = len(raw) if len(raw) <= MAX_DEPTH else raw.count(b"[") + raw.count(b"{")
    if most <= MAX_DEPTH:
        return most
    deepest = depth = 0
    for _opened, closed in _NESTING.findall(raw):
        if _opened:
            depth += 1
            deepest = max(deepest, depth)
        elif closed:
            depth -= 1
    return deepest
