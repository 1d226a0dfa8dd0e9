"""The worker's link to the listener process of its pod: questions and answers over a Unix socket.

A link is never opened again: every failure is `PodLost`, and its owner opens another one. The listener answers within
`HOLD_SECONDS` whatever happens, so one that is silent for longer is stopped or stuck, and not idle.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.abc

from bridge.core.pod_wire import (
    HOLD_SECONDS,
    MAX_REPLY_BYTES,
    VERSION,
    Answer,
    Frames,
    Hello,
    Look,
    Pull,
    Reply,
    Request,
    View,
    frame,
    read_reply,
)
from bridge.core.position import Position
from bridge.errors import PodLost

TIMEOUT_SECONDS = HOLD_SECONDS + 1.0
"""No byte for so long, while an answer is due, is a listener that is lost: the second is what Redis gets, too."""
GRACE_SECONDS = 0.01
"""The last look at the socket before it counts as silent: after a pause of this process all deadlines are over."""

READ_BYTES = 65536

_FAILURES = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
_R = TypeVar("_R", Hello, View, Answer)


@asynccontextmanager
async def open_pod(path: Path) -> AsyncIterator["PodLink"]:
    """A link to the listener at this socket, which has said who it is, within `TIMEOUT_SECONDS`. Raises PodLost."""
    stream: anyio.abc.ByteStream | None = None
    try:
        link: PodLink | None = None
        with anyio.move_on_after(TIMEOUT_SECONDS):
            stream = await _connect(path)
            opening = PodLink(stream)
            await opening.greet()
            link = opening
        if link is None:
            raise PodLost(f"the pod's listener did not answer within {TIMEOUT_SECONDS:g} s")
        yield link
    finally:
        if stream is not None:
            await anyio.aclose_forcefully(stream)


OpenPod = Callable[[], AbstractAsyncContextManager["PodLink"]]
"""Opens one link; raises PodLost."""


class PodLink:
    """One connection, made by `open_pod`. For one task at a time; a question that was cut short leaves it unusable."""

    hello: Hello
    """Who answers."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._frames = Frames(MAX_REPLY_BYTES)
        self._cut_short = False

    async def greet(self) -> None:
        """Hear who answers. Raises PodLost where it speaks another version of the protocol."""
        self.hello = await self._reply(Hello)
        if self.hello.version != VERSION:
            raise PodLost(
                f"the pod's listener speaks version {self.hello.version} of the protocol, this worker {VERSION}: "
                "the bridge was replaced while it ran, start it again"
            )

    async def look(self) -> View:
        """What the listener's tape holds now. Raises PodLost."""
        return await self._ask(Look(), View)

    async def pull(self, index: int, last: Position | None) -> Answer:
        """What follows the entry `last` at `index`, within `HOLD_SECONDS`, with no lines where nothing has come.

        Raises PodLost, also where nothing at all is heard for `TIMEOUT_SECONDS`.
        """
        return await self._ask(Pull(index, None if last is None else (last.term, last.seq)), Answer)

    async def _ask(self, request: Request, kind: type[_R]) -> _R:
        if self._cut_short:
            raise PodLost("the link to the pod's listener cannot be used after a question was cut short")
        self._cut_short = True
        await self._send(frame(request))
        reply = await self._reply(kind)
        self._cut_short = False
        return reply

    async def _reply(self, kind: type[_R]) -> _R:
        while True:
            try:
                body = self._frames.next()
                reply: Reply | None = None if body is None else read_reply(body)
            except ValueError as error:
                raise PodLost(f"the pod's listener said what cannot be understood: {error}") from error
            if isinstance(reply, kind):
                return reply
            if reply is not None:
                raise PodLost(f"the pod's listener answered with {type(reply).__name__}, and not with {kind.__name__}")
            await self._read()

    async def _send(self, data: bytes) -> None:
        try:
            with anyio.fail_after(TIMEOUT_SECONDS):
                await self._stream.send(data)
        except TimeoutError:
            raise PodLost(f"the pod's listener took no question for {TIMEOUT_SECONDS:g} s") from None
        except _FAILURES as error:
            raise _lost(error) from error

    async def _read(self) -> None:
        """Take what arrives next."""
        for seconds in (TIMEOUT_SECONDS, GRACE_SECONDS):
            try:
                with anyio.move_on_after(seconds):
                    self._frames.feed(await self._stream.receive(READ_BYTES))
                    return
            except _FAILURES as error:
                raise _lost(error) from error
        raise PodLost(f"the pod's listener has been silent for {TIMEOUT_SECONDS:g} s")


def _lost(error: Exception) -> PodLost:
    if isinstance(error, anyio.EndOfStream):
        return PodLost("the pod's listener closed the connection")
    return PodLost(f"the connection to the pod's listener failed: {_reason(error)}")


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__


async def _connect(path: Path) -> anyio.abc.ByteStream:
    try:
        return await anyio.connect_unix(path)
    except OSError as error:
        raise PodLost(f"cannot connect to the pod's listener: {_reason(error)}") from error
