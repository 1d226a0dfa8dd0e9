"""The way out to one client: straight into its socket, and where the kernel is full, into a bounded buffer.

    OPEN ──end()──▶ CLOSING ──abort()──▶ CLOSED
      └──────────────abort()───────────────▲

OPEN takes messages. CLOSING sends what is held, the goodbye last, and takes nothing more. CLOSED sends nothing. While
the buffer is empty there is no writer task: `send` is the socket's own, and the hub calls it without any wrapper. Only
what the kernel does not take makes a writer start, and it ends when the buffer is empty again.

A client that may lose messages (`Buffers.drops`) is not ended when its buffer is full: it is *lagging*, takes nothing
until all that it holds is sent, and then the hub tells it what it missed.

What is held is shared: a chunk that waits for a hundred clients is one object, and counts once in `Buffers`.
"""

import enum
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice

import trio

from bridge.core.position import Position
from bridge.core.wire import TOO_SLOW
from bridge.hub.encoding import Protocol, goodbye, message_end
from bridge.hub.lack import Lack

CLOSE_SECONDS = 10.0
"""How long a closing client may take to read its close frame and to answer; past it the connection is reset."""

_BUFFERS_A_CALL = 256  # the kernel takes up to 1024 (IOV_MAX)
_BYTES_A_TURN = 1 << 20  # then other tasks get a turn
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_NOTHING: "deque[Chunk]" = deque(maxlen=0)
"""What is held by all who hold nothing: a deque of its own would take more than the rest of a client."""

_NO_GAPS: frozenset[Lack] = frozenset()

StartSoon = Callable[[Callable[[], Awaitable[None]]], object]


class State(enum.Enum):
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Chunk:
    """Bytes of one or several whole messages, and how many clients hold them."""

    __slots__ = ("before", "data", "gaps", "holders", "size")

    def __init__(self, data: bytes, before: Position | None = None, gaps: tuple[Lack, ...] = ()) -> None:
        self.data = data
        self.size = len(data)
        self.holders = 0
        self.before = before
        """Where its clients stood before it; None where it moves nobody."""
        self.gaps = gaps
        """The open gaps that it says something of."""


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
        self.on_recovered: Callable[[Client], None] = _nothing
        """Called when a lagging client holds nothing any more, and can take messages again."""
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


class Client:
    """One client's connection, after its handshake. All methods but `flushed` are synchronous and never raise.

    `start_soon` runs the client's own short-lived tasks; they must be cancelled before the socket is closed.
    """

    __slots__ = (
        "__weakref__",
        "_buffers",
        "_drained",
        "_held",
        "_offset",
        "_raw",
        "_start_soon",
        "_writing",
        "blocked",
        "close_code",
        "heard",
        "held_bytes",
        "lagging",
        "missed_after",
        "missed_gaps",
        "protocol",
        "send",
        "state",
    )

    def __init__(self, raw: socket.socket, start_soon: StartSoon, buffers: Buffers, protocol: Protocol = "ws") -> None:
        self.protocol: Protocol = protocol
        self.send = raw.send
        self.blocked = False
        """True where `send` must not be called: messages are held already, or the client is no longer OPEN."""
        self.lagging = False
        """Whether it has missed messages, and is still busy with those before them."""
        self.missed_after: Position | None = None
        """Where it stood before the first message that it missed."""
        self.missed_gaps = _NO_GAPS
        """The open gaps of which it missed a message."""
        self.state = State.OPEN
        self.held_bytes = 0
        self.heard = True
        """Whether the peer has shown any life; whoever judges that resets it."""
        self.close_code: int | None = None
        self._raw = raw
        self._start_soon = start_soon
        self._buffers = buffers
        self._held = _NOTHING
        self._offset = 0
        self._writing = False
        self._drained: trio.Event | None = None

    def put(self, data: bytes) -> None:
        """Send whole messages to this client alone, after all before. For answers: they are never missed."""
        if self.lagging:
            self._keep(Chunk(data), 0)
        else:
            self.write(Chunk(data))

    def write(self, chunk: Chunk) -> None:
        """Send a chunk, after all before."""
        if self.blocked:
            self.hold(chunk, 0)
            return
        try:
            sent = self.send(chunk.data)
        except BlockingIOError:
            self.hold(chunk, 0)
        except OSError:
            self.abort()
        else:
            if sent != chunk.size:
                self.hold(chunk, sent)

    def cork(self, data: bytes) -> None:
        """Hold this, and what is said from here on, until `uncork`: so that it leaves in one piece."""
        self._writing = True
        self._keep(Chunk(data), 0)

    def uncork(self) -> None:
        """Send what is held, as far as the kernel takes it at once."""
        self._flush()
        if self._held:
            self._start_soon(self._write)
        else:
            self._writing = False

    def hold(self, chunk: Chunk, sent: int) -> None:
        """Keep what the kernel did not take of a chunk, of which it took `sent` bytes. Too much ends the client."""
        if self.state is not State.OPEN:
            return
        if self.lagging:
            self._miss(chunk)
        elif self.held_bytes + chunk.size - sent <= self._buffers.client_bytes or (sent and self._buffers.drops):
            self._keep(chunk, sent)
        elif self._buffers.drops:
            self._lag()
            self._miss(chunk)
            if not self._held:
                self._start_soon(self._recover)
        else:
            self._keep(chunk, sent)
            self.too_slow()

    def too_slow(self, code: int = TOO_SLOW, reason: str = "resume with after") -> None:
        """Drop what is held: lag, where clients may lose messages, else close with this code."""
        if not self._buffers.drops:
            self.end(code, reason, drop=True)
            return
        self._lag()
        for chunk in self._drop_but_half_message():
            self._miss(chunk)
        if not self._held:
            self._start_soon(self._recover)

    def end_lag(self) -> tuple[Position | None, frozenset[Lack]]:
        """Take messages again; what was missed since when, and in which open gaps."""
        missed = self.missed_after, self.missed_gaps
        self.lagging, self.missed_after, self.missed_gaps = False, None, _NO_GAPS
        self.blocked = bool(self._held) or self.state is not State.OPEN
        return missed

    def end(self, code: int, reason: str = "", *, drop: bool = False, frame: bytes | None = None) -> None:
        """Send a goodbye as the last thing; with `drop`, instead of what is held.

        Where the kernel took a part of a message, the rest of it goes first: a close frame inside it would be read as
        its content. The connection is reset if the peer does not finish within `CLOSE_SECONDS`.
        """
        if self.state is not State.OPEN:
            return
        self.state = State.CLOSING
        self.close_code = code
        self._buffers.ended.append(self)
        if drop:
            self._drop_but_half_message()
        is_writing, self._writing = self._writing, True
        self._keep(Chunk(frame or goodbye(self.protocol, code, reason)), 0)
        if is_writing:
            self._flush()
        else:
            self.uncork()
        if self.state is State.CLOSING:
            self._start_soon(self._expire)

    def abort(self) -> None:
        """Reset the connection at once; the peer may not see what the kernel still holds."""
        if self.state is State.CLOSED:
            return
        if self.state is State.OPEN:
            self._buffers.ended.append(self)
        self.state = State.CLOSED
        self.blocked = True
        self._drop()
        with suppress(OSError):
            self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._raw.shutdown(socket.SHUT_RDWR)  # wakes who reads from it

    def finish(self) -> None:
        """The socket is about to be closed: what was not sent by now is dropped, and the connection then reset."""
        if self._held:
            self.abort()
        self.state = State.CLOSED
        self.blocked = True

    def run(self, task: Callable[[], Awaitable[None]]) -> None:
        """Start a task of this client, which ends before its socket is closed."""
        self._start_soon(task)

    async def flushed(self) -> None:
        """Wait until nothing is held, because it was sent or because the client ended. Cancelling is harmless."""
        while self._held:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    def _keep(self, chunk: Chunk, sent: int) -> None:
        if not self._held:
            self._held = deque()
            self._offset = sent
            self._buffers.holding.add(self)
        self._held.append(chunk)
        self.held_bytes += chunk.size - sent
        self._buffers.take(chunk)
        self.blocked = True
        if not self._writing:
            self._writing = True
            self._start_soon(self._write)

    async def _write(self) -> None:
        while self._held:
            try:
                await trio.lowlevel.wait_writable(self._raw)
            except (OSError, trio.ClosedResourceError):
                self.abort()
                break
            self._flush()
        self._writing = False

    def _flush(self) -> None:
        """Give the kernel as much as it takes, up to a bound that keeps the turn short."""
        budget = _BYTES_A_TURN
        try:
            while self._held and budget > 0:
                sent = self._raw.sendmsg(self._views())
                self.heard = True  # a full socket takes more only because its peer has read
                budget -= sent
                self._forget(sent)
        except BlockingIOError:
            pass
        except OSError:
            self.abort()
        if self._held:
            return
        if self.state is State.CLOSING and self.protocol == "sse":
            with suppress(OSError):
                self._raw.shutdown(socket.SHUT_WR)  # the end of the stream; the peer closes then
        elif self.state is State.OPEN and self.lagging:
            self._buffers.on_recovered(self)

    def _lag(self) -> None:
        if not self.lagging:
            self.lagging = True
            self._buffers.on_lagging()

    def _miss(self, chunk: Chunk) -> None:
        if self.missed_after is None:
            self.missed_after = chunk.before
        self.missed_gaps = self.missed_gaps.union(chunk.gaps)

    async def _recover(self) -> None:
        if self.lagging and not self._held and self.state is State.OPEN:
            self._buffers.on_recovered(self)

    def _views(self) -> list[bytes | memoryview]:
        views: list[bytes | memoryview] = [chunk.data for chunk in islice(self._held, _BUFFERS_A_CALL)]
        if self._offset:
            views[0] = memoryview(views[0])[self._offset :]
        return views

    def _forget(self, sent: int) -> None:
        held, release = self._held, self._buffers.release
        self.held_bytes -= sent
        sent += self._offset
        while held and held[0].size <= sent:
            sent -= held[0].size
            release(held.popleft())
        self._offset = sent
        if not held:
            self._emptied()

    def _drop(self) -> None:
        for chunk in self._held:
            self._buffers.release(chunk)
        self.held_bytes = self._offset = 0
        self._emptied()

    def _drop_but_half_message(self) -> list[Chunk]:
        """Hold nothing but the rest of a message that was begun; the chunks of which something was dropped."""
        dropped, rest = list(self._held), b""
        if self._held and self._offset:
            half = self._held[0]
            end = message_end(self.protocol, half.data, self._offset)
            rest = half.data[self._offset : end]
            if end == half.size:
                del dropped[0]
        self._drop()
        if rest:
            self._keep(Chunk(rest), 0)
        return dropped

    def _emptied(self) -> None:
        self._held = _NOTHING
        self._buffers.holding.discard(self)
        self.blocked = self.lagging or self.state is not State.OPEN
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    async def _expire(self) -> None:
        await trio.sleep(CLOSE_SECONDS)
        self.abort()


def _nothing(client: Client) -> None:
    """Until a hub wants to know."""
