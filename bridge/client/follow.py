"""One stream of messages over as many connections as it takes: connect, read, lose it, wait, go on where it was.

      ┌──────────────────────────────┐
      ▼                              │ after a while, and when there is room
  CONNECTING ──▶ CONNECTED ──▶    WAITING
      └────── it fails ───────────────▲

A refusal that would be repeated, and whatever goes wrong in what the user has given, ends the stream: who takes from it
gets what was received by then, and then the error.
"""

import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, Literal, TypeVar

import anyio
import msgspec

from bridge.background import background
from bridge.cancellation import is_of_another_task
from bridge.client.buffer import Buffer
from bridge.client.session import OpenStream, open_stream, session
from bridge.client.token import Bearer, Token
from bridge.client.url import resumed, shown, tokens
from bridge.client.verdict import Lost
from bridge.core.backoff import Backoff
from bridge.errors import BridgeError

log = logging.getLogger("bridge.client")

T = TypeVar("T")

HEALTHY_SECONDS: Final = 5.0
"""A connection that lasted so long makes the next delay short again."""
SPREAD_SECONDS: Final = 1.0
"""Clients that are told when to come back are told whole seconds: each adds up to so much."""


class LinkState(msgspec.Struct, frozen=True):
    """What a client is doing about its connection."""

    state: Literal["connecting", "connected", "waiting"]
    url: str
    """Without token, cursor and password."""
    reason: str = ""
    """Why it waits, on one line."""
    delay_seconds: float = 0.0
    """How long it waits before the next attempt."""


OnState = Callable[[LinkState], object]
"""Is told what the client does about its connection; what it raises ends the stream."""
Read = Callable[[str], tuple[T | None, str | None]]
"""What the consumer is to get of a message, and where the stream stands after it; None: nothing. What it raises ends
the stream."""


class Follower(Generic[T]):
    """Messages of the bridge at `url`, as `read` makes them, from `after` on."""

    def __init__(
        self,
        url: str,
        read: Read[T],
        *,
        backoff: Backoff,
        after: str | None = None,
        token: Token | None = None,
        context: ssl.SSLContext | None = None,
        on_state: OnState | None = None,
        buffer_bytes: int,
        message_bytes: int,
        spread_seconds: float = SPREAD_SECONDS,
        open_stream: OpenStream = open_stream,
    ) -> None:
        """Raises SettingsError for a token that cannot be sent."""
        self.buffer = Buffer[T](buffer_bytes, after)
        self._url = url
        self._shown = shown(url)
        self._read = read
        self._backoff = backoff
        self._bearer = Bearer(token)
        self._context = context
        self._on_state = on_state or _log_state
        self._message_bytes = message_bytes
        self._spread_seconds = spread_seconds
        self._open_stream = open_stream

    async def run(self) -> None:
        """Fill the buffer until cancelled, or until the stream ends with an error, which the buffer then has."""
        try:
            while True:
                lost = await self._connect_once()
                delay_seconds = self._delay(lost)
                self._tell("waiting", lost.problem, delay_seconds)
                await anyio.sleep(delay_seconds)
                await self.buffer.wait_for_room()
        except BaseException as error:
            if isinstance(error, StopAsyncIteration):  # which would pass for the end of the consumer's own iteration
                self.buffer.end(BridgeError("token or on_state: it has raised StopAsyncIteration"))
            elif isinstance(error, Exception):
                self.buffer.end(error)
            elif is_of_another_task(error):
                self.buffer.end(BridgeError("token or on_state: it has awaited a task that was cancelled"))
            else:
                raise

    async def _connect_once(self) -> Lost:
        """One connection from its beginning to its end. Raises what ends the stream."""
        self._tell("connecting")
        began: float | None = None
        try:
            url = resumed(self._url, self.buffer.received) if self.buffer.received else self._url
            headers = await self._bearer.headers()
            opening = session(
                url,
                headers,
                context=self._tls(),
                message_bytes=self._message_bytes,
                secrets=tokens(url) | self._bearer.secrets,
                open_stream=self._open_stream,
            )
            async with opening as opened:
                began = anyio.current_time()
                self._bearer.accepted()
                self._tell("connected")
                await opened.listen(self._hear, self.buffer)
        except Lost as lost:
            if lost.without_token is not None:
                if not self._bearer.renewable:
                    raise lost.without_token from None
                self._bearer.renew()
            if began is not None and anyio.current_time() - began > HEALTHY_SECONDS:
                self._backoff.reset()
            return lost
        raise AssertionError("a session ends with an error")

    def _hear(self, text: str) -> None:
        item, cursor = self._read(text)
        if item is not None:
            self.buffer.put(item, len(text), cursor)
        elif cursor is not None:
            self.buffer.move(cursor)

    def _delay(self, lost: Lost) -> float:
        jitter = random.random()
        if lost.retry_seconds is None:
            return self._backoff.next(jitter)
        return lost.retry_seconds + jitter * self._spread_seconds

    def _tls(self) -> ssl.SSLContext | None:
        if self._context is None and self._url.startswith("wss:"):
            self._context = ssl.create_default_context()
        return self._context

    def _tell(
        self, state: Literal["connecting", "connected", "waiting"], reason: str = "", delay_seconds: float = 0.0
    ) -> None:
        self._on_state(LinkState(state, self._shown, reason, delay_seconds))


@asynccontextmanager
async def running(follower: Follower[T]) -> AsyncIterator[Buffer[T]]:
    """The follower runs, and fills this buffer, while the body does. Errors of the body are raised as they are."""
    async with background() as tasks:
        tasks.start_soon(follower.run)
        try:
            yield follower.buffer
        finally:
            follower.buffer.close()


def _log_state(link: LinkState) -> None:
    if link.state == "connected":
        log.info("Connected to %s", link.url)
    elif link.state == "waiting":
        log.warning("Lost %s: %s. Trying again in %.1f s", link.url, link.reason, link.delay_seconds)
