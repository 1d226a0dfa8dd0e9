"""What a client says on an open WebSocket: read strictly, bounded in number, each mistake answered with what to do.

A client that keeps making mistakes, or does not stop when it is told that it says too much, has `enough` set: why the
connection is to be closed.
"""

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from bridge.core.bucket import Bucket
from bridge.core.grants import Forbidden, Grant
from bridge.core.topics import MAX_FIELDS, Subscription
from bridge.core.wire import ErrorCode

MAX_MESSAGE_BYTES: Final = 64 * 1024
"""A longer message closes the connection (1009)."""
MAX_SUBSCRIPTIONS: Final = 64
"""Of one client at a time, that of the URL included."""
MAX_SUB_BYTES: Final = 64
"""The name of a subscription, in UTF-8."""
MAX_WHERE_BYTES: Final = 8192
"""Names and values of `where` together, in UTF-8. PostgreSQL takes no payload of 8,000 bytes or more."""
MAX_AFTER_BYTES: Final = 4096
"""A cursor with as many open gaps as there can be is shorter."""
MESSAGES_PER_SECOND: Final = 20.0
MESSAGES_BURST: Final = 100.0
MAX_REFUSED: Final = 100
"""Messages refused for their rate, since the client last held still, that close the connection (1008)."""
MAX_BAD: Final = 10
"""Messages that were not understood, in all, that close the connection (1008)."""

_LONGEST_SHOWN = 80
_FORMS = 'there are {"type":"subscribe"}, {"type":"unsubscribe"} and {"type":"ping"}'


class Refused(Exception):
    """A message that is not done. The text, one line, is for the client."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Begin a subscription, or replace the one of this name."""

    channels: frozenset[str]
    """Empty: all that are allowed."""
    where: tuple[tuple[str, str], ...]
    """Fields in order, each once, and their values as text."""
    after: str | None
    """A cursor, unread."""
    sub: str | None
    """The subscription's name; None is the one that the URL began."""

    def subscription(self, grant: Grant, known: frozenset[str]) -> Subscription:
        """What is asked for, as far as it is granted. Raises Refused (unknown_channel, forbidden)."""
        if unknown := sorted(self.channels - known):
            raise Refused(
                "unknown_channel", f"unknown channel {_shown(unknown[0])}; there are {', '.join(sorted(known))}"
            )
        try:
            return grant.subscription(self.channels, self.where, known)
        except Forbidden as error:
            raise Refused("forbidden", str(error)) from None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """End the subscription of this name; None is the one that the URL began."""

    sub: str | None


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask for a pong."""


Message = Subscribe | Unsubscribe | Ping


class _Kind(msgspec.Struct, gc=False):
    type: str


class _Subscribe(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["subscribe"]
    channels: list[str] | None = None
    where: dict[str, msgspec.Raw] | None = None
    after: str | None = None
    sub: str | None = None


class _Unsubscribe(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: Literal["unsubscribe"]
    sub: str | None = None


_kind = msgspec.json.Decoder(_Kind)
_subscribe = msgspec.json.Decoder(_Subscribe)
_unsubscribe = msgspec.json.Decoder(_Unsubscribe)
_text = msgspec.json.Decoder(str)


class Patience:
    """How much one client has said, and how much of it was wrong. `now` is in seconds and never goes back."""

    __slots__ = ("_bad", "_messages", "_refused", "enough")

    def __init__(self, now: float) -> None:
        self.enough: str | None = None
        """Why the client has to go, as soon as it has."""
        self._messages = Bucket(MESSAGES_PER_SECOND, MESSAGES_BURST, now)
        self._refused = 0
        self._bad = 0

    def read(self, message: str | bytes, now: float) -> Message:
        """The message, if there may be one now and it is understood. Raises Refused (rate_limited, bad_message)."""
        if self._messages.full(now):
            self._refused = 0
        if not self._messages.take(now):
            self._refused += 1
            if self._refused >= MAX_REFUSED:
                self.enough = "too many messages"
            raise Refused("rate_limited", f"not done: send at most {MESSAGES_PER_SECOND:g} messages a second")
        try:
            return read_message(message)
        except Refused:
            self._bad += 1
            if self._bad >= MAX_BAD:
                self.enough = "too many messages that were not understood"
            raise


def read_message(message: str | bytes) -> Message:
    """What a message says; bytes are a binary one. Raises Refused (bad_message) and nothing else."""
    if not isinstance(message, str):
        raise _bad("a message is a text frame, not a binary one")
    try:
        kind = _kind.decode(message).type
    except (ValueError, RecursionError):
        raise _bad(f"a message is a JSON object with a type; {_FORMS}") from None
    try:
        match kind:
            case "subscribe":
                return _read_subscribe(_subscribe.decode(message))
            case "unsubscribe":
                return Unsubscribe(_checked("sub", _unsubscribe.decode(message).sub, MAX_SUB_BYTES))
            case "ping":
                return Ping()
    except msgspec.ValidationError as error:
        raise _bad(f"{kind}: {_cut(' '.join(str(error).split()))}") from None
    except (ValueError, RecursionError):
        raise _bad(f"{kind}: this JSON cannot be read") from None
    raise _bad(f"unknown type {_shown(kind)}; {_FORMS}")


def _read_subscribe(read: _Subscribe) -> Subscribe:
    where = {name: _scalar(name, bytes(raw)) for name, raw in (read.where or {}).items()}
    if len(where) > MAX_FIELDS:
        raise _bad(f"subscribe: where has more than {MAX_FIELDS} fields")
    if sum(len(name.encode()) + len(value.encode()) for name, value in where.items()) > MAX_WHERE_BYTES:
        raise _bad(f"subscribe: where is longer than {MAX_WHERE_BYTES} bytes")
    return Subscribe(
        frozenset(read.channels or ()),
        tuple(sorted(where.items())),
        _checked("after", read.after, MAX_AFTER_BYTES) or None,
        _checked("sub", read.sub, MAX_SUB_BYTES),
    )


def _scalar(name: str, raw: bytes) -> str:
    """A scalar as `where` compares it: a string's content, another one as it is written."""
    if raw[:1] in (b"{", b"["):
        raise _bad(f"subscribe: where {_shown(name)} is compared with a string, a number, true, false or null")
    return _text.decode(raw) if raw[:1] == b'"' else raw.decode()


def _checked(name: str, text: str | None, max_bytes: int) -> str | None:
    if text is not None and len(text.encode()) > max_bytes:
        raise _bad(f"{name} is longer than {max_bytes} bytes")
    return text


def _bad(message: str) -> Refused:
    return Refused("bad_message", message)


def _shown(text: str) -> str:
    return repr(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"
