"""A client on the other side of a socket: straight into it, and where the kernel is full, into the buffer.

While the buffer is empty there is no writer task: `send` is the socket's own, and the hub calls it without any wrapper.
Only what the kernel does not take makes a writer start, and it ends when the buffer is empty again. A client that is
CLOSING sends what is held, the goodbye last.

A client that may lose messages (`Buffers.drops`) is not ended when its buffer is full: it is *lagging*, takes nothing
until all that it holds is sent, and then the hub tells it what it missed. Answers wait until that is said: a cursor in
them lies behind what was missed, and whoever resumes there must have been told.
"""

import socket
import struct
from contextlib import suppress
from itertools import islice

import trio

from bridge.core.wire import TOO_SLOW
from bridge.hub.client import Buffers, Chunk, Client, StartSoon, State
from bridge.hub.encoding import Protocol, cursor_at, goodbye, message_end
from bridge.hub.missed import Missed

CLOSE_SECONDS = 10.0
"""How long a closing client may take to read its close frame and to answer; past it the connection is reset."""

ANSWERS_BYTES = 256 * 1024
"""How much may wait for a lagging client to be told what it missed: it goes on asking, and does not read."""
ANSWER_BYTES = 128
"""What each of them counts beside its text: objects that are kept for a pong of two bytes."""

_BUFFERS_A_CALL = 256  # the kernel takes up to 1024 (IOV_MAX)
_BYTES_A_TURN = 1 << 20  # then other tasks get a turn
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class SocketClient(Client):
    """One client's connection, after its handshake.

    `start_soon` runs the client's own short-lived tasks; they must be cancelled before the socket is closed.
    """

    __slots__ = ("_answer_bytes", "_answers", "_missed", "_raw", "_rest", "_writing")

    def __init__(self, raw: socket.socket, start_soon: StartSoon, buffers: Buffers, protocol: Protocol = "ws") -> None:
        super().__init__(start_soon, buffers, protocol)
        self.send = raw.send
        self._missed: Missed | None = None
        """What it has missed while it is busy with the messages before that; None where it does not lag."""
        self._answers: list[Chunk] = []
        """Which wait until it does not lag any more, and count as held."""
        self._answer_bytes = 0
        self._rest: Chunk | None = None
        """Of a message that was begun, the rest: it is held alone, or first."""
        self._raw = raw
        self._writing = False

    @property
    def lagging(self) -> bool:
        """Whether it has missed messages, and is still busy with those before them."""
        return self._missed is not None

    def write(self, chunk: Chunk) -> None:
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
        if self.state is not State.OPEN:
            return
        fits = self.held_bytes + chunk.size - sent <= self._buffers.client_bytes
        begun = sent or (not self._held and (chunk.answer or chunk.missed is not None))
        if self._missed is not None:
            self._miss(chunk, self._missed)
        elif fits or (begun and self._buffers.drops):
            self._keep(chunk, sent)
        elif self._buffers.drops:
            self._miss(chunk, self._lag())
            if not self._held:
                self._start_soon(self._recover_later)
        else:
            self._keep(chunk, sent)
            self.too_slow()

    def too_slow(self, code: int = TOO_SLOW, reason: str = "resume with after") -> None:
        """Drop what is held: lag, where clients may lose messages, else close with this code.

        Closed is also who holds little but answers, which are never dropped.
        """
        if not self._buffers.drops or 2 * self._answer_bytes > self.held_bytes:
            self.end(code, reason, drop=True)
            return
        since, missed = self._missed, self._lag()
        later = self._take_answers()
        dropped, begun = self._drop_but_half_message()
        if begun is not None:
            self._miss_rest(dropped.pop(0), begun, missed)
        for chunk in [*dropped, *later]:
            self._miss(chunk, missed)
        if since is not None:
            missed.follow(since)
        if not self._held:
            self._start_soon(self._recover_later)

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
        self._take_answers()
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
        self._take_answers()
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
        self._take_answers()

    def _keep(self, chunk: Chunk, sent: int) -> None:
        super()._keep(chunk, sent)
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
        else:
            self._recover()

    def _lag(self) -> Missed:
        """Miss messages from here on, which is the beginning of what it gives."""
        if self._missed is None:
            self.blocked = True
            self._buffers.on_lagging()
        self._missed = Missed(self._buffers.is_before)
        return self._missed

    def _miss(self, chunk: Chunk, missed: Missed) -> None:
        if chunk.answer:
            self._wait(chunk)
        else:
            missed.add(chunk)

    def _miss_rest(self, chunk: Chunk, begun: int, missed: Missed) -> None:
        """What follows the first `begun` bytes, which are whole messages."""
        had = cursor_at(self.protocol, chunk.data, begun)
        if chunk.answer or had is None:
            self._miss(chunk, missed)
        else:
            missed.add_rest(chunk, had)

    def _wait(self, answer: Chunk) -> None:
        if self.state is not State.OPEN:
            return
        size = answer.size + ANSWER_BYTES
        self._answers.append(answer)
        self._answer_bytes += size
        self.held_bytes += size
        self._buffers.take(answer)
        self._buffers.holding.add(self)
        if self._answer_bytes > ANSWERS_BYTES:
            self.end(TOO_SLOW, "resume with after", drop=True)

    def _take_answers(self) -> list[Chunk]:
        """The answers that waited. They count no more."""
        answers, self._answers = self._answers, []
        for chunk in answers:
            self._buffers.release(chunk)
        self.held_bytes -= self._answer_bytes
        self._answer_bytes = 0
        if not self._held:
            self._buffers.holding.discard(self)
        return answers

    def _recover(self) -> None:
        """All before what it missed has left: it is told what that was, and gets the answers that waited for it."""
        missed = self._missed
        if missed is None or self._held or self.state is not State.OPEN:
            return
        waiting = self._take_answers()
        self._missed, self.blocked = None, False
        self._buffers.on_recovered(self, missed)
        for chunk in waiting:
            self.write(chunk.anew())

    async def _recover_later(self) -> None:
        self._recover()

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

    def _drop_but_half_message(self) -> tuple[list[Chunk], int | None]:
        """Hold nothing but the rest of a message that was begun. The chunks of which something was dropped, and how
        much of the first of them was not; None where all of it was."""
        dropped, offset, rest, begun = list(self._held), self._offset, None, None
        if dropped and dropped[0] is self._rest:
            rest = dropped.pop(0)
        elif dropped and offset:
            half = dropped[0]
            end = message_end(self.protocol, half.data, offset)
            if end == half.size:
                del dropped[0]
            else:
                begun = end
            if end > offset:
                rest, offset = Chunk(half.data[offset:end]), 0
        self._drop()
        self._rest = rest
        if rest is not None:
            self._keep(rest, offset)
        return dropped, begun

    def _emptied(self) -> None:
        super()._emptied()
        self._rest = None
        self.blocked = self.lagging or self.state is not State.OPEN
        if self._answers:
            self.held_bytes = self._answer_bytes
            self._buffers.holding.add(self)

    async def _expire(self) -> None:
        await trio.sleep(CLOSE_SECONDS)
        self.abort()
