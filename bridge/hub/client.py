"""A client of the hub: what it has been given and has not taken yet, in a bounded buffer.

    OPEN ──end()──▶ CLOSING ──abort()──▶ CLOSED
      └──────────────abort()───────────────▲

OPEN takes messages, and nothing is taken after that. How they leave is the business of each kind of client: through a
socket (`bridge.hub.socket_client`), or by whoever reads them in this process (`bridge.hub.inbox`).

What is held is shared: a chunk that waits for a hundred clients is one object, and counts once in `Buffers`.
"""

import enum
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from bridge.core.cursor import OpenGap
from bridge.core.position import Position
from bridge.core.wire import TOO_SLOW
from bridge.hub.encoding import Protocol

if TYPE_CHECKING:
    from bridge.hub.missed import Missed
    from bridge.hub.socket_client import SocketClient

NOTHING: "deque[Chunk]" = deque(maxlen=0)
"""What is held by all who hold nothing: a deque of its own would take more than the rest of a client."""

StartSoon = Callable[[Callable[[], Awaitable[None]]], object]


class State(enum.Enum):
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Chunk:
    """Bytes of one or several whole messages, and how many clients hold them."""

    __slots__ = ("answer", "before", "data", "gaps", "goes_back", "holders", "make", "missed", "opens", "size")

    def __init__(
        self,
        data: bytes,
        before: Position | None = None,
        gaps: tuple[OpenGap, ...] = (),
        *,
        opens: int = 0,
        goes_back: bool = False,
        answer: bool = False,
        make: Callable[[], bytes] | None = None,
        missed: "Missed | None" = None,
    ) -> None:
        self.data = data
        self.size = len(data)
        self.holders = 0
        self.before = before
        """Where its clients stood before it; None where it moves nobody."""
        self.gaps = gaps
        """The open gaps that it says something of, as its clients had them before."""
        self.opens = opens
        """So many of these, the last ones, open with it."""
        self.goes_back = goes_back
        """Whether its client may have stood further on before that: it wanted a replay."""
        self.answer = answer
        """Whether it is for one client alone, which must not miss it."""
        self.make = make
        """Makes an answer anew, if it says where its client stands."""
        self.missed = missed
        """What it says to be lost: who misses that misses all of it."""

    def anew(self) -> "Chunk":
        """An answer as it is right when its client has been told what it missed before."""
        return self if self.make is None else Chunk(self.make(), answer=True, make=self.make)


class Buffers:
    """What all clients together hold, and which of them have ended since the hub looked last."""

    def __init__(self, client_bytes: int, all_bytes: int, *, drops: bool = False) -> None:
        self.client_bytes = client_bytes
        """What one client may hold."""
        self.all_bytes = all_bytes
        """What all together may hold."""
        self.drops = drops
        """Whether a client whose buffer is full loses messages; else it is disconnected."""
        self.total_bytes = 0
        """Bytes held, a chunk shared by several clients once."""
        self.holding: set[Client] = set()
        self.ended: list[Client] = []
        self.on_recovered: Callable[[SocketClient, Missed], None] = _nothing
        """Called when a lagging client holds nothing any more, and can take messages again, with what it missed."""
        self.is_before: Callable[[Position, Position], bool | None] = lambda _one, _other: None
        """Whether one position comes before another one; None where they are not related."""
        self.on_lagging: Callable[[], None] = lambda: None
        """Called when a client begins to miss messages."""

    def take(self, chunk: Chunk) -> None:
        if not chunk.holders:
            self.total_bytes += chunk.size
        chunk.holders += 1

    def release(self, chunk: Chunk) -> None:
        chunk.holders -= 1
        if not chunk.holders:
            self.total_bytes -= chunk.size


class Client(ABC):
    """One client. All methods but `flushed` are synchronous and never raise.

    `start_soon` runs the client's own short-lived tasks; their owner cancels them when the client has gone.
    """

    __slots__ = (
        "__weakref__",
        "_buffers",
        "_drained",
        "_held",
        "_offset",
        "_start_soon",
        "blocked",
        "close_code",
        "heard",
        "held_bytes",
        "protocol",
        "send",
        "state",
    )

    send: Callable[[bytes], int]
    """Takes as much of a message as goes out at once; raises OSError, and BlockingIOError where nothing does."""

    def __init__(self, start_soon: StartSoon, buffers: Buffers, protocol: Protocol) -> None:
        self.protocol: Protocol = protocol
        self.blocked = False
        """True where `send` must not be called: messages are held already, or the client is no longer OPEN."""
        self.state = State.OPEN
        self.held_bytes = 0
        self.heard = True
        """Whether the peer has shown any life; whoever judges that resets it."""
        self.close_code: int | None = None
        self._start_soon = start_soon
        self._buffers = buffers
        self._held = NOTHING
        self._offset = 0
        """Of the first chunk that is held, so many bytes have left."""
        self._drained: anyio.Event | None = None

    def put(self, data: bytes, make: Callable[[], bytes] | None = None) -> None:
        """Send whole messages to this client alone, after all before. For answers: they are never missed.

        `make` gives the same with the cursor of another time: what the client has missed is told first.
        """
        self.write(Chunk(data, answer=True, make=make))

    @abstractmethod
    def write(self, chunk: Chunk) -> None:
        """Send a chunk, after all before."""

    @abstractmethod
    def hold(self, chunk: Chunk, sent: int) -> None:
        """Keep what did not leave at once of a chunk, of which `sent` bytes did. Too much ends the client."""

    @abstractmethod
    def too_slow(self, code: int = TOO_SLOW, reason: str = "resume with after") -> None:
        """It holds too much, by itself or together with all others: take that away, or end it with this code."""

    @abstractmethod
    def end(self, code: int, reason: str = "", *, drop: bool = False, frame: bytes | None = None) -> None:
        """Take nothing more. What is held still leaves, unless it is to `drop`, and then a goodbye of this code."""

    @abstractmethod
    def abort(self) -> None:
        """End at once, without a word."""

    def run(self, task: Callable[[], Awaitable[None]]) -> None:
        """Start a task of this client."""
        self._start_soon(task)

    async def flushed(self) -> None:
        """Wait until nothing is held, because it was sent or because the client ended. Cancelling is harmless."""
        while self._held:
            if self._drained is None:
                self._drained = anyio.Event()
            await self._drained.wait()

    def _keep(self, chunk: Chunk, sent: int) -> None:
        if not self._held:
            self._held = deque()
            self._offset = sent
            self._buffers.holding.add(self)
        self._held.append(chunk)
        self.held_bytes += chunk.size - sent
        self._buffers.take(chunk)

    def _drop(self) -> None:
        for chunk in self._held:
            self._buffers.release(chunk)
        self.held_bytes = self._offset = 0
        self._emptied()

    def _emptied(self) -> None:
        self._held = NOTHING
        self._buffers.holding.discard(self)
        if self._drained is not None:
            self._drained.set()
            self._drained = None


def _nothing(client: "SocketClient", missed: "Missed") -> None:
    """Until a hub wants to know."""
