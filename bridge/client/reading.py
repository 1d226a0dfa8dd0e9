"""What the messages of many connections are to somebody who wants to see one stream. Pure."""

import logging
from typing import Final, NamedTuple

import msgspec

from bridge.errors import BridgeError
from bridge.redaction import without_tokens
from bridge.stream import Event, Filled, Gap, ModeChange, Notification, Refused, Standing, Subscribed, decode

log = logging.getLogger("bridge.client")

NOWHERE: Final = "nowhere"
"""A cursor that no bridge knows: asked to go on from there it declares a gap. For a stream that began at a bridge which
knew no position yet: what it loses then must not be lost in silence."""

_KNOWN = frozenset({"notification", "gap", "filled", "subscribed", "position", "pong", "error"})


class Read(NamedTuple):
    """What the consumer is to get of a message, and where the stream stands after it; None: nothing."""

    event: Event | None
    cursor: str | None


class _Kind(msgspec.Struct):
    type: str


_kind = msgspec.json.Decoder(_Kind)


class Unbroken:
    """Reads one message after the other, whatever connection it comes from."""

    def __init__(self, after: str | None) -> None:
        self._is_placed = after is not None
        self._has_begun = False

    def read(self, text: str) -> Read:
        """What this message is to the consumer. Raises BridgeError where it cannot be read, and may hold anything.

        One of a type that is not known comes from a newer bridge, and is passed over.
        """
        try:
            word = decode(text)
        except ValueError as error:
            if self._is_newer(text):
                return Read(None, None)
            raise BridgeError(f"The bridge has sent what is no message of its protocol: {error}") from None
        match word:
            case Subscribed():
                read = self._subscribed(word)
            case Standing():
                read = Read(None, word.cursor)
            case Refused():
                log.warning("The bridge answered %s: %s", word.code, without_tokens(" ".join(word.message.split())))
                read = Read(None, None)
            case ModeChange():
                read = Read(None, None)
            case Notification() | Gap() | Filled():
                read = Read(word, word.cursor)
        self._is_placed = self._is_placed or read.cursor is not None
        return read

    def _subscribed(self, word: Subscribed) -> Read:
        """The first one begins the stream. A later one says that the stream goes on."""
        cursor = word.cursor if self._is_placed else word.cursor or NOWHERE
        is_first, self._has_begun = not self._has_begun, True
        return Read(word if is_first else None, cursor)

    def _is_newer(self, text: str) -> bool:
        try:
            return _kind.decode(text).type not in _KNOWN
        except (ValueError, RecursionError):
            return False
