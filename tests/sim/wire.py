"""A connection between a process and a server in memory: bytes that take time, and every way to lose them.

Cut: both ends see it fail. Silent: both ends go on, and nothing arrives any more. The server's end is a function.
"""

import math
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from tests.sim.runtime import Agenda

USUAL_DELAY_SECONDS = 0.0005


class Path:
    """Between a process and a server: how long a packet takes. While it is blocked packets wait, as in TCP."""

    def __init__(self, agenda: Agenda) -> None:
        self.delay_seconds = USUAL_DELAY_SECONDS
        self._agenda = agenda
        self._blocked = False
        self._released_at = -math.inf
        self._waiting: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self._unblocked = anyio.Event()

    def carry(self, not_before: float, act: Callable[..., None], *arguments: Any) -> float:
        """Call `act` when the packet arrives; returns when that is. Nothing overtakes what is `not_before` this."""
        when = max(not_before, self._released_at, anyio.current_time() + self.delay_seconds)
        if self._blocked:
            self._waiting.append((when, act, arguments))
        else:
            self._agenda.at(when, act, *arguments)
        return when

    async def travel(self, times: int) -> None:
        """Wait as long as so many packets one after the other take."""
        await anyio.sleep(times * self.delay_seconds)
        while self._blocked:
            await self._unblocked.wait()

    def block(self) -> None:
        if not self._blocked:
            self._blocked = True
            self._unblocked = anyio.Event()

    def unblock(self) -> None:
        self._blocked = False
        self._unblocked.set()
        waiting, self._waiting = self._waiting, []
        now = anyio.current_time() + self.delay_seconds
        self._released_at = max([self._released_at, now, *(when for when, _, _ in waiting)])
        for _, act, arguments in waiting:
            self._agenda.at(self._released_at, act, *arguments)


class Receiver(ByteStream):
    """What either end does with what has arrived: hold it until it is read, and then say how it ended."""

    def __init__(self) -> None:
        self._arrived = bytearray()
        self._end: BaseException | None = None
        self._news = anyio.Event()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._arrived:
            if self._end is not None:
                await anyio.lowlevel.cancel_shielded_checkpoint()
                raise self._end
            self._news = anyio.Event()
            await self._news.wait()
        await anyio.lowlevel.cancel_shielded_checkpoint()
        data = bytes(self._arrived[:max_bytes])
        del self._arrived[:max_bytes]
        return data

    async def send_eof(self) -> None:
        raise NotImplementedError

    def _arrive(self, data: bytes) -> None:
        self._arrived += data
        self._news.set()

    def _finish(self, end: BaseException) -> None:
        """Nothing more arrives; the first reason counts."""
        if self._end is None:
            self._end = end
            self._news.set()


class Wire(Receiver):
    """The client's end. `on_bytes` is called where the server receives, `on_close` where it sees the end."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.on_bytes: Callable[[bytes], None] = _ignore
        self.on_close: Callable[[], None] = _ignore
        self.silent = False
        self.closed = False
        """Whether either end has closed it, or it was cut."""
        self._path = path
        self._gone = False
        """Whether the server has seen its end."""
        self._there_at = self._here_at = -math.inf

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if self._end is not None or self.closed:
            raise anyio.BrokenResourceError
        if not self.silent:
            self._there_at = self._path.carry(self._there_at, self._reach_server, bytes(item))

    async def aclose(self) -> None:
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """The client closes its end, or its process dies."""
        if not self.closed:
            self.closed = True
            self._fail(anyio.ClosedResourceError())
            if not self.silent:
                self._path.carry(self._there_at, self._reach_server, None)

    def answer(self, data: bytes) -> None:
        """The server sends."""
        if not (self.closed or self.silent):
            self._here_at = self._path.carry(self._here_at, self._reach_client, data)

    def hang_up(self) -> None:
        """The server closes its end: what it has sent arrives, and then the end."""
        if not (self.closed or self.silent):
            self._here_at = self._path.carry(self._here_at, self._fail, anyio.EndOfStream())

    def cut(self) -> None:
        """Somebody between the two resets the connection; what is under way is lost."""
        if not self.closed:
            self.closed = self._gone = True
            self._fail(anyio.BrokenResourceError())
            self.on_close()

    def _reach_server(self, data: bytes | None) -> None:
        if self.silent or self._gone:
            return
        if data is not None:
            self.on_bytes(data)
        else:
            self._gone = True
            self.on_close()

    def _reach_client(self, data: bytes) -> None:
        if not (self.closed or self.silent):
            self._arrive(data)

    def _fail(self, end: BaseException) -> None:
        if not (self.silent and isinstance(end, anyio.EndOfStream)):
            self._finish(end)


class ServerEnd(Receiver):
    """The other end of a wire, for a server that is a process of the simulation."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire
        wire.on_bytes = self._arrive
        wire.on_close = self._over

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if self._end is not None:
            raise anyio.BrokenResourceError
        self._wire.answer(bytes(item))

    async def aclose(self) -> None:
        self.abandon()
        await anyio.lowlevel.checkpoint()

    def abandon(self) -> None:
        """The server closes it, or its process dies: what it has sent arrives, and then the end."""
        self._over()
        self._wire.hang_up()

    def _over(self) -> None:
        self._finish(anyio.EndOfStream())


def _ignore(*_: object) -> None: ...
