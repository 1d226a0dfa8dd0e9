"""One WebSocket client: what is simple is read and answered at once, and a task does all the rest.

    QUIET ──what has to wait──▶ BUSY ──the end──▶ gone
      │ ▲◀──────done───────────┘                   ▲
      └────────the end, nothing held───────────────┘

A client answers a ping now and then, or sends a short message: whole frames, seen at a glance. While that is all, it
is quiet: the reader calls (`bridge.server.reader`), and there is no task. At the first bytes that are anything else the
library reads for good (`bridge.server.takeover`). That is done by a task, and so is whatever must wait: for a client
that says too much, that does not read our answers, or that takes its leave.
"""

import socket
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final

import trio

from bridge.core.bucket import Bucket
from bridge.core.grants import Grant
from bridge.core.wire import only_close, only_pongs, pong_frame, whole_frames
from bridge.hub import Client
from bridge.hub.client import State
from bridge.hub.talk import Talk
from bridge.server.clients import Clients, Stay
from bridge.server.faults import contained, report
from bridge.server.http import linger
from bridge.server.takeover import ANSWERED_BYTES, RECEIVE_BYTES, hear_all
from bridge.server.upgrade import Upgrade

FRAMES_PER_SECOND: Final = 100.0
FRAMES_BURST: Final = 1000.0
"""Frames of any kind: a client that sends more of them is read more slowly."""

Said = Iterator[str | bytes | None]
"""Frames that are still to be answered, as `whole_frames` gives them."""


class WebSocket:
    """One client from its handshake to its end. The socket, which does not block, belongs to it, and is closed here."""

    __slots__ = ("_clients", "_ended", "_grant", "_peer", "_raw", "_speaker", "_stay", "_task")

    def __init__(self, raw: socket.socket, grant: Grant, clients: Clients, site: str | None, peer: object) -> None:
        """`site` is what counts as its address in the limits, `peer` is its address in the log."""
        self._raw = raw
        self._grant = grant
        self._clients = clients
        self._peer = peer
        self._stay = Stay(clients, raw, "ws", grant, site)
        self._speaker: Speaker | None = None
        self._task: trio.CancelScope | None = None
        self._ended: trio.Event | None = None

    def begin(self, upgrade: Upgrade, trailing: bytes) -> None:
        """Make the handshake and begin the subscription. `trailing` is what came after the head of the request."""
        client = self._stay.client
        try:
            client.cork(upgrade.answer)
            self._clients.hub.subscribe(client, None, upgrade.subscription, upgrade.after)
            client.uncork()
            self._clients.reader.add(self._raw, self)
            if trailing:
                self._hear(trailing)
        except Exception as error:
            self._fail(error)

    async def ended(self) -> None:
        """Wait until this has ended. Cancelling ends it."""
        if self._raw.fileno() < 0:
            return
        self._ended = trio.Event()
        try:
            await self._ended.wait()
        finally:
            self.close()

    def on_readable(self) -> None:
        """Hear what has come."""
        try:
            data = self._raw.recv(RECEIVE_BYTES)
            if data:
                self._hear(data)
            else:
                self._leave()
        except BlockingIOError:
            return
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """End it at once, with a goodbye if the kernel takes it."""
        if self._task is not None:
            self._task.cancel()
        self._clients.reader.remove(self._raw)
        self._stay.leave()
        self._stay.end()
        self._raw.close()
        if self._ended is not None:
            self._ended.set()

    def _fail(self, error: Exception) -> None:
        report(error, self._peer)
        self.close()

    def _hear(self, data: bytes) -> None:
        client = self._stay.client
        if client.heard or not only_pongs(data):  # a pong that nobody asked for is to be counted
            self._answer(client, data)
        client.heard = True

    def _answer(self, client: Client, data: bytes) -> None:
        speaker = self._speaker
        if speaker is None:
            speaker = self._speaker = Speaker(client, Talk(self._clients.hub, client, self._grant, trio.current_time))
        said = whole_frames(data)
        if said is not None:
            debt_seconds, left = speaker.count(said), iter(said)
            if not speaker.answer(left) or debt_seconds:
                self._start(partial(speaker.answer_slowly, left, debt_seconds))
        elif client.state is State.OPEN or not only_close(data):
            self._start(partial(speaker.hear_all, self._raw, data))
        else:
            self._start(_nothing_more)

    def _leave(self) -> None:
        """The peer has ended its side."""
        self._stay.leave()
        if self._stay.client.held_bytes:
            self._start(_nothing_more)
        else:
            self.close()

    def _start(self, work: Callable[[], Awaitable[bool]]) -> None:
        """A task does this; it gives whether the client is quiet afterwards."""
        self._clients.reader.remove(self._raw)
        self._task = trio.CancelScope()
        self._clients.nursery.start_soon(self._run, work, self._task)

    async def _run(self, work: Callable[[], Awaitable[bool]], scope: trio.CancelScope) -> None:
        quiet = False
        try:
            with scope, contained(lambda: self._peer):
                if await work() and not scope.cancel_called:
                    self._clients.reader.add(self._raw, self)
                    quiet = True
                else:
                    self._stay.leave()
                    await self._stay.client.flushed()
                    self._stay.end()
                    await linger(self._raw)
        finally:
            self._task = None
            if not quiet:
                self.close()


class Speaker:
    """A client that says something."""

    __slots__ = ("_client", "_frames", "_talk")

    def __init__(self, client: Client, talk: Talk) -> None:
        self._client = client
        self._talk = talk
        self._frames = Bucket(FRAMES_PER_SECOND, FRAMES_BURST, trio.current_time())

    def count(self, said: list[str | bytes | None]) -> float:
        """How many seconds to wait after these frames before the next are read."""
        return self._frames.spend(trio.current_time(), len(said))

    def answer(self, said: Said) -> bool:
        """Answer them; False where the client must read our answers first, and some may be left."""
        client = self._client
        for one in said:
            if isinstance(one, str):
                self._talk.hear(one)
            elif one is not None:
                client.put(pong_frame(one))
            if client.held_bytes > ANSWERED_BYTES:
                return False
        return True

    async def answer_slowly(self, said: Said, debt_seconds: float) -> bool:
        """Answer what is left as fast as the client reads. True: it is quiet then."""
        await self._client.flushed()
        while not self.answer(said):
            await self._client.flushed()
        await trio.sleep(debt_seconds)
        return True

    async def hear_all(self, raw: socket.socket, first: bytes) -> bool:
        """Have the library read all that the client sends, `first` before the rest. False: until the end."""
        await hear_all(raw, self._client, self._talk, self._frames, first)
        return False


async def _nothing_more() -> bool:
    return False
