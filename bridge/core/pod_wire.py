"""What the listener of a pod and its workers say to each other: messages and their frames, without I/O.

    worker                             listener
      │ ◀──────── Hello ───────────────── │   once, on connecting
      │ ── Look ───────▶ ◀────── View ─── │   what its tape holds: where a worker may begin
      │ ── Pull ───────▶ ◀──── Answer ─── │   what follows an index, as soon as there is something

A frame is a length in four bytes and that much MessagePack. Entries travel as lines of the log, in the numbering of the
session that heard them, and never of two segments at once. Both sides bound what they read and believe nothing:
whatever is not as it should be is a ValueError that says so.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from bridge.core.events import Entry, read_entry
from bridge.core.position import Position

VERSION = 1
"""Of this protocol. Both processes come from one installation: another version means that it was replaced meanwhile."""

MAX_REQUEST_BYTES = 256
MAX_REPLY_BYTES = 4 * 1024 * 1024
"""The longest is a View with all that a timeline may hold: 11,000 relations of at most 30 bytes."""
MAX_ANSWER_ENTRIES = 500
MAX_ANSWER_BYTES = 256 * 1024
"""Of the lines of one answer; a first one that is longer goes alone."""
MAX_SEGMENTS = 1000
"""The newest ones of a tape that a View names."""
HOLD_SECONDS = 0.5
"""A Pull is answered after so long at the latest, so that an idle listener is not taken for a dead one."""

_LENGTH_BYTES = 4
_INT64 = 2**63

_Term = Annotated[int, msgspec.Meta(gt=0, le=_INT64 - 1)]
_Seq = Annotated[int, msgspec.Meta(ge=-_INT64, le=_INT64 - 1)]
_Index = Annotated[int, msgspec.Meta(ge=0, le=_INT64 - 1)]
_Short = Annotated[str, msgspec.Meta(max_length=64)]

SessionState = Literal["lost", "unproven", "proven"]
"""The listener's LISTEN session: there is none; it is open, and nothing shows that it hears; it hears."""


class Segment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An unbroken run of positions ``(term, first_seq) …`` at the indexes ``start … end - 1`` of the tape."""

    term: _Term
    first_seq: _Seq
    start: _Index
    end: _Index

    def index_after(self, own: Position) -> int:
        """The index of the first entry after this position, which is one of this term; `end` where there is none."""
        return self.start + min(max(0, own.seq + 1 - self.first_seq), self.end - self.start)

    def before(self, index: int) -> Position | None:
        """The position of the entry before this index; None where that is not one of this segment."""
        return Position(self.term, self.first_seq + index - 1 - self.start) if self.start < index <= self.end else None


class Relation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The marker of `term` is the notification at ``(other, seq)``."""

    term: _Term
    other: _Term
    seq: _Seq


class Look(msgspec.Struct, frozen=True, tag="look", array_like=True, forbid_unknown_fields=True):
    """Asks what there is. Answered at once."""


class Pull(msgspec.Struct, frozen=True, tag="pull", array_like=True, forbid_unknown_fields=True):
    """Asks for the entries from `index` on, behind the one at `last` (term and seq; None: nothing was read yet)."""

    index: _Index
    last: tuple[_Term, _Seq] | None


class Hello(msgspec.Struct, frozen=True, tag="hello", array_like=True, forbid_unknown_fields=True):
    """Who answers: `digest` names its set of channels, `nonce` its process: after a restart the tape is another one."""

    version: int
    digest: _Short
    nonce: _Short


class View(msgspec.Struct, frozen=True, tag="view", array_like=True, forbid_unknown_fields=True):
    """What there is: the segments of the tape, oldest first, and the relations that were not told yet."""

    session: SessionState
    relations: tuple[Relation, ...]
    segments: tuple[Segment, ...]
    end: _Index


class Answer(msgspec.Struct, frozen=True, tag="answer", array_like=True, forbid_unknown_fields=True):
    """The entries from `index` on, a line each, none where none has come in time.

    `index` differs from the one asked for where that has left the tape. `age_seconds`: how long ago the first one was
    heard, None where that is not known.
    """

    session: SessionState
    relations: tuple[Relation, ...]
    index: _Index
    end: _Index
    age_seconds: float | None
    lines: bytes

    def entries(self) -> Sequence[Entry]:
        """What the lines hold. Raises ValueError where they are not entries, or not of one unbroken run."""
        if not self.lines:
            return ()
        entries = [read_entry(line) for line in self.lines.split(b"\n")]
        if len(entries) > MAX_ANSWER_ENTRIES:
            raise ValueError(f"an answer of {len(entries)} entries, and {MAX_ANSWER_ENTRIES} are allowed")
        term, seq = entries[0].position
        for offset, entry in enumerate(entries):
            if entry.position != (term, seq + offset):
                raise ValueError(f"entry {entry.position} does not follow {term}-{seq + offset - 1}")
        return entries


Request = Look | Pull
Reply = Hello | View | Answer

_encoder = msgspec.msgpack.Encoder()
_request: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


class Frames:
    """Takes bytes apart into frames; holds at most one that is not complete, of at most `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        """What has arrived."""
        self._rest += data

    def next(self) -> bytes | None:
        """The next complete frame; None where there is none yet. Raises ValueError for one that is too long."""
        rest = self._rest
        if len(rest) < _LENGTH_BYTES:
            return None
        size = int.from_bytes(rest[:_LENGTH_BYTES], "big")
        if not 0 < size <= self._limit_bytes:
            raise ValueError(f"a frame of {size} bytes, and 1 to {self._limit_bytes} are allowed")
        end = _LENGTH_BYTES + size
        if len(rest) < end:
            return None
        body = bytes(rest[_LENGTH_BYTES:end])
        del rest[:end]
        return body


def frame(message: Request | Reply) -> bytes:
    """The bytes of one message, with its length before it."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def read_request(body: bytes) -> Request:
    """What a worker says. Raises ValueError for anything else."""
    return _request.decode(body)


def read_reply(body: bytes) -> Reply:
    """What a listener says. Raises ValueError for anything else."""
    return _reply.decode(body)
