"""A client in the same process: what it is given waits until whoever reads it takes it.

A reader that is too slow is ended as one behind a socket is, but keeps what it holds: when it has read that, it can
subscribe again from where it stands, and the history has what follows.
"""

from collections.abc import Callable

import anyio
import anyio.lowlevel

from bridge.core.wire import GOING_AWAY, OVERLOADED, TOO_SLOW
from bridge.hub.client import Buffers, Chunk, Client, StartSoon, State
from bridge.hub.encoding import Protocol


class Inbox(Client):
    """What one reader has been given: messages of the protocol, in chunks of whole ones, at most `limit_bytes` and one
    chunk more. None: as much as any client of the hub may hold.

    `start_soon` runs its short-lived tasks, which end soon after the inbox has.
    """

    __slots__ = ("_arrived", "_limit_bytes", "close_reason", "on_ended")

    def __init__(
        self, start_soon: StartSoon, buffers: Buffers, protocol: Protocol = "lines", limit_bytes: int | None = None
    ) -> None:
        super().__init__(start_soon, buffers, protocol)
        self.send: Callable[[bytes], int] = _take_nothing
        self.blocked = True
        self.close_reason = ""
        self.on_ended: Callable[[], object] = _nothing
        """Called once it has ended: whoever passes on what it holds may be held up elsewhere, and not in `take`."""
        self._limit_bytes = buffers.client_bytes if limit_bytes is None else limit_bytes
        self._arrived: anyio.Event | None = None

    def write(self, chunk: Chunk) -> None:
        self.hold(chunk, 0)

    def hold(self, chunk: Chunk, sent: int) -> None:
        if self.state is not State.OPEN:
            return
        full = bool(self._held) and self.held_bytes + chunk.size > self._limit_bytes
        self._keep(chunk, sent)
        self._wake()
        if full:  # never by its first chunk: whoever subscribes again gets a little further each time
            self.too_slow()

    def too_slow(self, code: int = TOO_SLOW, reason: str = "resume with after") -> None:
        self.end(code, reason, drop=code == OVERLOADED)

    def end(self, code: int, reason: str = "", *, drop: bool = False, frame: bytes | None = None) -> None:  # noqa: ARG002
        """Take nothing more; the reader finds the code and the reason when it has read what is held."""
        if self.state is State.OPEN:
            self.state = State.CLOSED
            self.close_code, self.close_reason = code, reason
            self._buffers.ended.append(self)
            self.on_ended()
        if drop:
            self._drop()
        self._wake()

    def abort(self) -> None:
        self.end(GOING_AWAY, drop=True)

    async def take(self) -> bytes | None:
        """The next whole messages; None when it has ended and all is taken. Nothing is taken by who is cancelled."""
        await anyio.lowlevel.checkpoint()
        while not self._held:
            if self.state is not State.OPEN:
                return None
            self._arrived = anyio.Event()
            await self._arrived.wait()
        chunk = self._held.popleft()
        self.held_bytes -= chunk.size
        self._buffers.release(chunk)
        if not self._held:
            self._emptied()
        return chunk.data

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None


def _take_nothing(_: bytes) -> int:
    raise BlockingIOError


def _nothing() -> None:
    """Unless somebody wants to know."""
