"""What a stream of events brings: the same for the feed of this process and for a client of a bridge elsewhere.

    Event = Subscribed | Notification | Gap | Filled | ModeChange      for whoever reads the stream
    Word = Event | Standing | Refused                                  also what only the reader's machinery needs

`decode` reads the JSON messages of the protocol. Ids and cursors are opaque: give a cursor back to go on after it.
"""

import json
from typing import Any, Literal, cast

import msgspec

from bridge.core.events import GapReason

Mode = Literal["redis", "direct", "none"]
"""Where events come from: the log in Redis, PostgreSQL itself, or nowhere at the moment."""


class Subscribed(msgspec.Struct, frozen=True):
    """From here on nothing is missed without a `Gap` that says so."""

    channels: tuple[str, ...]
    where: dict[str, Any]
    """Fields of the payload, each with the value or the list of values that it must have."""
    sub: str | None = None
    """The subscription's name; None is the one that the stream began with."""
    cursor: str | None = None
    """Where the stream begins; None where it begins with what comes next, and nobody knows yet after what."""


class Notification(msgspec.Struct, frozen=True):
    """One NOTIFY, or what an application has published (`id` is None then: it is outside of the guarantee)."""

    id: str | None
    """The position that the notification has; the same notification may have two ids."""
    channel: str
    payload_json: bytes
    """The payload as JSON text, verbatim where the NOTIFY's payload was JSON, else a string."""
    late: bool = False
    """Whether it comes after newer ones: it fills a pending gap."""
    cursor: str | None = None
    """Where to go on after this notification."""

    @property
    def payload(self) -> Any:
        """The payload, decoded anew at each access: objects as dict, numbers as int and float.

        A number with more digits than `sys.get_int_max_str_digits` allows is given as a float.
        """
        try:
            return json.loads(self.payload_json)
        except ValueError:
            return json.loads(self.payload_json, parse_int=float)


class Gap(msgspec.Struct, frozen=True):
    """Between these two positions something may be missing; None is an unknown bound.

    A `pending` one may still be filled by late notifications; it ends with `Filled`, or with a final gap of the same
    bounds. For one loss there is one final gap.
    """

    after: str | None
    before: str | None
    reason: GapReason
    pending: bool = False
    cursor: str | None = None
    """Where to go on after this gap; the open ones are in it."""


class Filled(msgspec.Struct, frozen=True):
    """The pending gap of these bounds has been filled: nothing was lost."""

    after: str | None
    before: str | None
    cursor: str | None = None


class ModeChange(msgspec.Struct, frozen=True):
    """Events come from elsewhere now, for this reason. Nothing has to be done. Only the feed of a process says so."""

    mode: Mode
    reason: str = ""


Event = Subscribed | Notification | Gap | Filled | ModeChange
"""Whatever an iteration gives: a `match` statement over these classes is complete."""


class Standing(msgspec.Struct, frozen=True):
    """Where a quiet stream stands, by itself or as the answer to a ping."""

    cursor: str | None = None


class Refused(msgspec.Struct, frozen=True):
    """Something that this client said was not done."""

    code: str
    message: str


Word = Event | Standing | Refused


class _Message(msgspec.Struct):
    """All forms of messages in one, so that each is read once."""

    type: str
    id: str | None = None
    channel: str = ""
    payload: msgspec.Raw = msgspec.Raw(b"")
    late: bool = False
    cursor: str | None = None
    after: str | None = None
    before: str | None = None
    reason: str = ""
    pending: bool = False
    channels: tuple[str, ...] = ()
    where: dict[str, Any] = {}
    sub: str | None = None
    position: str | None = None
    code: str = ""
    message: str = ""
    mode: Mode = "none"


_message = msgspec.json.Decoder(_Message)


def decode(data: bytes | str) -> Word:
    """What one JSON message says. Raises ValueError for what is no message of the protocol."""
    try:
        read = _message.decode(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    match read.type:
        case "notification" if read.payload != msgspec.Raw(b""):
            cursor = read.id if read.cursor is None else read.cursor
            return Notification(read.id, read.channel, bytes(read.payload), read.late, cursor)
        case "gap":
            return Gap(read.after, read.before, cast(GapReason, read.reason), read.pending, read.cursor)
        case "filled":
            return Filled(read.after, read.before, read.cursor)
        case "subscribed":
            return Subscribed(read.channels, read.where, read.sub, read.position)
        case "position" | "pong":
            return Standing(read.cursor)
        case "mode":
            return ModeChange(read.mode, read.reason)
        case "error":
            return Refused(read.code, read.message)
    raise ValueError(f"not a message of the protocol: its type is {read.type[:80]!r}")


def cursor_after(word: Word) -> str | None:
    """The cursor that goes on after this; None where it says nothing of that."""
    return None if isinstance(word, Refused | ModeChange) else word.cursor
