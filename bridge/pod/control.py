"""What supervisor and child tell and ask each other, over one pair of stream sockets.

A frame is four bytes of length and a message: its kind, a number if it is a question or an answer, and a body. What is
told waits in a bounded queue; where the other side does not read and the queue is full, it is dropped, which the caller
is told. Questions have a deadline. The end of the other process is the end of the stream.
"""

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Literal

import msgspec
import trio

from bridge.telemetry import log

QUEUED = 64
"""Messages that wait to be written."""
ANSWERING = 16
"""Questions of the other side that are being answered; more stay unanswered."""
MAX_FRAME_BYTES = 32 * 2**20
_LENGTH: Final = struct.Struct("!I")
_READ_BYTES = 65_536

Kind = Literal["ready", "failed", "works", "drain", "end", "reload", "snapshot", "status", "metrics"]
Told = Callable[[Kind, bytes], None]
"""Called for what the other side tells. Must not raise."""
Answer = Callable[[Kind], Awaitable[bytes]]
"""The answer to a question of the other side. Must not raise."""


class _Frame(msgspec.Struct, array_like=True, frozen=True):
    kind: Kind
    number: int = 0
    """0 for what is told; of a question; of an answer, negative."""
    body: bytes = b""


_decoder = msgspec.msgpack.Decoder(_Frame)
_encoder = msgspec.msgpack.Encoder()


class Control:
    """One end of the pair. `run` does the work."""

    def __init__(self, end: socket.socket, told: Told, answer: Answer) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(end))
        self._told = told
        self._answer = answer
        self._queue, self._queued = trio.open_memory_channel[bytes | trio.Event](QUEUED)
        self._asked: dict[int, trio.MemorySendChannel[bytes]] = {}
        self._numbers = 0
        self._answering = 0

    async def run(self) -> None:
        """Read and write until the other side is gone; then return. Cancelling closes this end."""
        try:
            async with self._stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                try:
                    await self._read(nursery)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
                    log.error("The processes of this pod do not understand each other: %s", error)
                nursery.cancel_scope.cancel()
        finally:
            self._queued.close()
            for waiting in self._asked.values():
                waiting.close()

    def tell(self, kind: Kind, body: bytes = b"") -> bool:
        """Tell the other side, in order; False if it has not read for so long that this was dropped."""
        return self._put(_Frame(kind, 0, body))

    async def ask(self, kind: Kind, seconds: float) -> bytes | None:
        """The answer of the other side; None where there is none within so many seconds, or it is gone."""
        self._numbers += 1
        number = self._numbers
        send, receive = trio.open_memory_channel[bytes](1)
        self._asked[number] = send
        try:
            if self._put(_Frame(kind, number)):
                with trio.move_on_after(seconds), suppress(trio.EndOfChannel):
                    return await receive.receive()
        finally:
            del self._asked[number]
            send.close()
            receive.close()
        return None

    async def flush(self, seconds: float) -> None:
        """Wait until all that was told is written, for so many seconds at most."""
        written = trio.Event()
        with trio.move_on_after(seconds), suppress(trio.BrokenResourceError):
            await self._queue.send(written)
            await written.wait()

    def _put(self, frame: _Frame) -> bool:
        data = _encoder.encode(frame)
        try:
            self._queue.send_nowait(_LENGTH.pack(len(data)) + data)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return False
        return True

    async def _write(self) -> None:
        async for data in self._queued:
            if isinstance(data, trio.Event):
                data.set()
                continue
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the reader sees the end, too

    async def _read(self, nursery: trio.Nursery) -> None:
        buffer = bytearray()
        while data := await self._stream.receive_some(_READ_BYTES):
            buffer += data
            while len(buffer) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer)
                if length > MAX_FRAME_BYTES:
                    raise ValueError(f"a message of {length} bytes")
                end = _LENGTH.size + length
                if len(buffer) < end:
                    break
                frame = _decoder.decode(memoryview(buffer)[_LENGTH.size : end].tobytes())
                del buffer[:end]
                self._take(frame, nursery)

    def _take(self, frame: _Frame, nursery: trio.Nursery) -> None:
        if frame.number == 0:
            self._told(frame.kind, frame.body)
        elif frame.number > 0 and self._answering < ANSWERING:
            self._answering += 1
            nursery.start_soon(self._reply, frame)
        elif (waiting := self._asked.get(-frame.number)) is not None:
            waiting.send_nowait(frame.body)

    async def _reply(self, question: _Frame) -> None:
        try:
            body = await self._answer(question.kind)
        finally:
            self._answering -= 1
        self._put(_Frame(question.kind, -question.number, body))
