"""The WebSocket protocol from the client's side, without I/O: bytes in, what they say out, and bytes to send.

    c = Conversation(...);  send c.request()
    for heard in c.feed(data): ...   Accepted, then texts; Rejected, Closed or Broken is the last

Compression is not offered: events are short, and each would need memory on both sides.
"""

from dataclasses import dataclass
from typing import Final

from wsproto import WSConnection
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.events import Event as WireEvent
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import RemoteProtocolError

MAX_BODY_BYTES: Final = 8192
"""What is read of the body of an HTTP answer."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The handshake is done."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An answer that is no handshake."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The end: with this code and reason, or 1006 where the peer has just gone."""

    code: int
    reason: str = ""

    def __str__(self) -> str:
        try:
            name = CloseReason(self.code).name
        except ValueError:
            name = ""
        return f"{self.code} {self.reason or name}".rstrip()


@dataclass(frozen=True, slots=True)
class Broken:
    """What the peer sends is not the protocol, or too large: the code that we close with says which."""

    problem: str
    code: int = CloseReason.PROTOCOL_ERROR


End = Rejected | Closed | Broken
Heard = Accepted | str | End


class Conversation:
    """One connection. What it wants to send collects until `outgoing` is asked."""

    def __init__(self, message_bytes: int) -> None:
        self._message_bytes = message_bytes
        """The longest message that is taken."""
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._outgoing = bytearray()
        self._parts: list[str | bytes] = []
        self._part_bytes = 0
        self._rejection: RejectConnection | None = None
        self._body = b""
        self._ended = False
        self._closed = False
        """Whether we have said goodbye."""

    @property
    def ended(self) -> bool:
        """Whether the end was heard: nothing follows."""
        return self._ended

    def request(self, authority: str, resource: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Ask for this path and query. Raises UnicodeError for a host that DNS cannot have."""
        self._send(Request(host=authority, target=resource, extra_headers=headers))

    def outgoing(self) -> bytes:
        """What is to be sent, once."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def ping(self) -> None:
        """Ask whether anybody is there."""
        self._send(Ping())

    def pong(self) -> None:
        """Show life without being asked."""
        self._send(Pong())

    def close(self, code: int = CloseReason.NORMAL_CLOSURE) -> None:
        """Say goodbye, if that is still possible. What comes after it is worth nothing."""
        if self._protocol.connection is not None and self._protocol.state is ConnectionState.OPEN:
            self._send(CloseConnection(code=code))
            self._closed = True

    def feed(self, data: bytes) -> list[Heard]:
        """What these bytes say; no bytes are the end of the connection."""
        heard: list[Heard] = []
        if self._ended:
            return heard
        if not data:
            self._end(heard, self._rejected() if self._rejection else Closed(CloseReason.ABNORMAL_CLOSURE))
            return heard
        try:
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                self._take(event, heard)
                if heard and isinstance(heard[-1], End):
                    break
        except RemoteProtocolError as error:
            self._end(heard, Broken(f"no WebSocket answers there: {error}"))
        except UnicodeDecodeError:
            self._end(heard, Broken("no WebSocket answers there: its headers cannot be read"))
        return heard

    def _take(self, event: WireEvent, heard: list[Heard]) -> None:
        state = self._protocol.state
        match event:
            case TextMessage() | BytesMessage():
                self._part(event.data, heard, is_last=event.message_finished)
            case Ping():
                if state is ConnectionState.OPEN:
                    self._send(event.response())
            case CloseConnection() if state is ConnectionState.OPEN:  # the library's own judgement
                self._end(heard, Broken(f"the WebSocket protocol was broken: {event.reason}", event.code))
            case CloseConnection():
                if not self._closed:
                    self._send(event.response())
                self._end(heard, Closed(event.code, event.reason or ""))
            case AcceptConnection():
                heard.append(Accepted())
            case RejectConnection():
                self._rejection = event
                if not event.has_body:
                    self._end(heard, self._rejected())
            case RejectData():
                self._body += event.data
                if event.body_finished or len(self._body) >= MAX_BODY_BYTES:
                    self._end(heard, self._rejected())

    def _part(self, data: str | bytes | bytearray, heard: list[Heard], *, is_last: bool) -> None:
        part = data if isinstance(data, str) else bytes(data)
        if part:
            self._parts.append(part)
            self._part_bytes += len(part) if isinstance(part, bytes) or part.isascii() else len(part.encode())
        if self._part_bytes > self._message_bytes:
            problem = f"a message of more than {self._message_bytes} bytes"
            self._end(heard, Broken(problem, CloseReason.MESSAGE_TOO_BIG))
        elif is_last:
            heard.append("".join(p if isinstance(p, str) else p.decode(errors="replace") for p in self._parts))
            self._parts.clear()
            self._part_bytes = 0

    def _rejected(self) -> Rejected:
        assert self._rejection is not None  # noqa: S101, for the type checker
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._rejection.headers}
        return Rejected(self._rejection.status_code, headers, self._body[:MAX_BODY_BYTES])

    def _end(self, heard: list[Heard], end: End) -> None:
        self._ended = True
        heard.append(end)
        self._parts.clear()
        if isinstance(end, Broken):
            self.close(end.code)

    def _send(self, event: WireEvent) -> None:
        self._outgoing += self._protocol.send(event)
