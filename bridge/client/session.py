"""One connection with a bridge: opened, read as far as there is room, kept alive, and closed within a bounded time.

Everything that ends it is raised as `Lost` or BridgeError. Its one task both reads and writes, so nothing on the stream
happens at the same time.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Protocol
from urllib.parse import SplitResult, urlsplit

import anyio
import anyio.abc
import anyio.lowlevel

from bridge.client.conversation import Accepted, Conversation, End, Heard
from bridge.client.verdict import Lost, judge, text_of

CONNECT_SECONDS: Final = 5.0
"""For the connection with its TLS, and again for the handshake."""
SEND_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 1.0
"""How long a goodbye may take."""
IDLE_SECONDS: Final = 30.0
"""Silence after which the bridge is asked whether it is there. It says something every 15 s by itself."""
PONG_SECONDS: Final = 10.0
ALIVE_SECONDS: Final = 10.0
"""How often a client that does not read, because its consumer is slow, shows life. A bridge waits for 25 s."""

_FAILURES = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
"""What a stream raises that is lost. Behind TLS a peer that goes without a word ends also what is being sent."""

OpenStream = Callable[[SplitResult, ssl.SSLContext | None], Awaitable[anyio.abc.ByteStream]]


class Room(Protocol):
    """Where messages go."""

    @property
    def is_full(self) -> bool: ...

    async def wait_for_room(self) -> None: ...


async def open_stream(url: SplitResult, context: ssl.SSLContext | None) -> anyio.abc.ByteStream:
    """A connection to the host of this URL. Raises OSError, and what a stream raises that is lost."""
    host = str(url.hostname)
    if url.scheme == "wss":
        return await anyio.connect_tcp(
            host, url.port or 443, tls=True, ssl_context=context, tls_standard_compatible=False
        )
    return await anyio.connect_tcp(host, url.port or 80)


class Session:
    """A connection after its handshake."""

    def __init__(self, stream: anyio.abc.ByteStream, conversation: Conversation, secrets: Collection[str]) -> None:
        self._stream = stream
        self._conversation = conversation
        self._secrets = secrets
        self._heard: list[Heard] = []

    async def shake_hands(self, url: SplitResult, headers: list[tuple[bytes, bytes]]) -> None:
        """Become a WebSocket. Raises Lost and BridgeError."""
        resource = url._replace(scheme="", netloc="").geturl()
        self._conversation.request(url.netloc.rpartition("@")[2], resource, headers)
        with _limited(CONNECT_SECONDS):
            await self._flush()
            while not self._heard:
                self._heard = self._conversation.feed(await self._receive())
        first = self._heard.pop(0)
        if not isinstance(first, Accepted):
            raise self._verdict(first)

    async def listen(self, hear: Callable[[str], None], room: Room) -> None:
        """Give each message to `hear`, and read on while there is room. Always raises: Lost or BridgeError."""
        while True:
            for heard in self._heard:
                if not isinstance(heard, str):
                    raise self._verdict(heard)
                hear(heard)
            self._heard = []
            with _limited(SEND_SECONDS):
                await self._flush()
            while room.is_full:
                await self._wait_for(room)
            self._heard = self._conversation.feed(await self._more())

    async def say_goodbye(self, *, is_lost: bool) -> None:
        """Close with 1000, and read on until the bridge has answered; not so where the connection is lost already.

        Takes at most `CLOSE_SECONDS`, in a cancelled task too.
        """
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            self._conversation.close()
            try:
                await self._flush()
                while not (is_lost or self._conversation.ended):
                    self._conversation.feed(await self._receive())
            except Lost:
                return

    async def _wait_for(self, room: Room) -> None:
        with anyio.move_on_after(ALIVE_SECONDS) as scope:
            await room.wait_for_room()
        if scope.cancelled_caught:
            self._conversation.pong()
            with _limited(SEND_SECONDS):
                await self._flush()

    async def _more(self) -> bytes:
        """The next bytes. The peer is asked for some after a while."""
        data: bytes | None = None
        with anyio.move_on_after(IDLE_SECONDS):
            data = await self._receive()
        if data is None:
            self._conversation.ping()
            with _limited(PONG_SECONDS):
                await self._flush()
                data = await self._receive()
        return data or b""

    async def _receive(self) -> bytes:
        await anyio.lowlevel.checkpoint_if_cancelled()  # asyncio never cancels a wait that is always over at once
        try:
            return await self._stream.receive()
        except anyio.EndOfStream:
            return b""
        except _FAILURES as error:
            raise _lost(error) from error

    async def _flush(self) -> None:
        data = self._conversation.outgoing()
        if not data:
            return
        try:
            await self._stream.send(data)
        except _FAILURES as error:
            raise _lost(error) from error

    def _verdict(self, heard: Heard) -> Exception:
        return judge(heard, self._secrets) if isinstance(heard, End) else Lost("an unexpected handshake")


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises Lost where the body takes longer."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise Lost("no answer in time")


@asynccontextmanager
async def session(
    url: str,
    headers: list[tuple[bytes, bytes]],
    *,
    context: ssl.SSLContext | None,
    message_bytes: int,
    secrets: Collection[str] = (),
    open_stream: OpenStream = open_stream,
) -> AsyncIterator[Session]:
    """A connection for the body, closed at its end. Raises Lost and BridgeError, whose texts hold no secret."""
    parts = urlsplit(url)
    stream: anyio.abc.ByteStream | None = None
    try:
        with _limited(CONNECT_SECONDS):
            stream = await _opened(open_stream, parts, context)
            made = Session(stream, Conversation(message_bytes), secrets)
        await made.shake_hands(parts, headers)
        is_lost = False
        try:
            yield made
        except Lost:
            is_lost = True
            raise
        finally:
            await made.say_goodbye(is_lost=is_lost)
    finally:
        if stream is not None:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await stream.aclose()


async def _opened(open_stream: OpenStream, url: SplitResult, context: ssl.SSLContext | None) -> anyio.abc.ByteStream:
    try:
        return await open_stream(url, context)
    except _FAILURES as error:
        raise _lost(error) from error


def _lost(error: Exception) -> Lost:
    return Lost("closed by the other side" if isinstance(error, anyio.EndOfStream) else text_of(error))
