"""`connect`: a bridge's events as one stream, whatever happens to the connections that bring them."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from bridge.client.buffer import Buffer, Closed
from bridge.client.follow import Follower, OnState, running
from bridge.client.reading import Unbroken
from bridge.client.token import Token
from bridge.client.url import conditions, tokens, websocket_url
from bridge.core.backoff import Backoff
from bridge.errors import SettingsError
from bridge.stream import Event

BUFFER_BYTES: Final = 1 << 20
MESSAGE_BYTES: Final = 1 << 24


class Client:
    """The events of a bridge, to be read by one task: ``async for event in client``.

    They are `Subscribed` (once, at the beginning), `Notification`, `Gap` and `Filled` (`bridge.stream`), each once.
    Made by `connect`.
    """

    def __init__(self, buffer: Buffer[Event]) -> None:
        self._buffer = buffer

    @property
    def cursor(self) -> str | None:
        """Everything through here was taken from this client: to go on later, give it to `connect` as `after`.

        None where nothing is known yet.
        """
        return self._buffer.cursor

    def __aiter__(self) -> "Client":
        return self

    async def __anext__(self) -> Event:
        """The next event; waits for it through any number of connections.

        Raises what ended the stream, every time: SettingsError and BridgeError where the bridge refuses, or what
        `token` or `on_state` raised. Raises anyio.BusyResourceError where another task waits for an event already, and
        StopAsyncIteration once the context has been left. Cancelling loses no event.
        """
        try:
            return await self._buffer.take()
        except Closed:
            raise StopAsyncIteration from None


@asynccontextmanager
async def connect(
    url: str,
    *channels: str,
    where: Mapping[str, object] | None = None,
    after: str | None = None,
    token: Token | None = None,
    retry_seconds: float = 5.0,
    ssl_context: ssl.SSLContext | None = None,
    on_state: OnState | None = None,
    buffer_bytes: int = BUFFER_BYTES,
    message_bytes: int = MESSAGE_BYTES,
) -> AsyncIterator[Client]:
    """Follow the bridge at `url`, on asyncio and trio.

        async with connect("https://bridge.example", "match_change", where={"match_id": 7}) as client:
            async for event in client:
                match event:
                    case Notification(): ...
                    case Gap(): ...

    The connection is made in the background, and again whenever it is lost: also the first one is tried for as long as
    it takes, and only `on_state` and the log tell. Each new connection goes on where the last one ended, so that the
    events are one unbroken stream, with a `Gap` where the bridge says that something may be missing. What a bridge
    refuses for good (an unknown channel, a bad token) is raised where the next event is awaited.

    Leaving the context closes the connection, within 2 seconds. Errors of the body are raised as they are. Cancelling
    ends everything.

    :param url: `http`, `https`, `ws` or `wss`. Without a path it is ``/ws``; a query that it has is kept.
    :param channels: names; none means all that the token allows.
    :param where: top-level fields of the payload and what they must be equal to: strings, numbers, bools, None.
    :param after: a cursor to go on after; without one the stream begins with what comes next.
    :param token: goes as ``Authorization: Bearer``. A function, sync or async, is asked for one at first, and for
        another one when the bridge says that it has expired (4001) or refuses it (401, once in a row).
    :param retry_seconds: the longest wait between attempts. The first ones come sooner; all are jittered. A bridge that
        says when to come back is believed up to 60 seconds.
    :param ssl_context: whom to trust; the default is whom the system trusts.
    :param on_state: is told of every `LinkState`, in the background task, and must not block. Without it, losses are
        logged as warnings by the logger ``bridge.client``.
    :param buffer_bytes: how much may wait for a consumer that is slow, counted as the messages' text and 256 bytes for
        each; what one read of 64 KiB brings comes on top. Beyond it the socket is not read, and the bridge holds what
        comes; where it gives up on that (4008), the client goes on from its history as soon as there is room again.
    :param message_bytes: the longest message; a longer one raises BridgeError.
    :raises SettingsError: for arguments that cannot be used.
    """
    _check_numbers(retry_seconds=retry_seconds, buffer_bytes=buffer_bytes, message_bytes=message_bytes)
    _check_objects(ssl_context, on_state)
    target = websocket_url(url, channels, conditions({} if where is None else where))
    if token is not None and tokens(target):
        raise SettingsError("token: the URL holds one already; give one")
    _check_cursor(after)
    after = after or None
    follower: Follower[Event] = Follower(
        target,
        Unbroken(after).read,
        after=after,
        backoff=Backoff(retry_seconds),
        token=token,
        context=ssl_context,
        on_state=on_state,
        buffer_bytes=buffer_bytes,
        message_bytes=message_bytes,
    )
    async with running(follower) as buffer:
        yield Client(buffer)


def _check_cursor(after: object) -> None:
    if after is not None and not isinstance(after, str):
        raise SettingsError(f"after: a cursor is text, not {type(after).__name__}")


def _check_numbers(**numbers: object) -> None:
    for name, value in numbers.items():
        if not (isinstance(value, int | float) and value > 0):
            raise SettingsError(f"{name}: {value!r} is not allowed; give a number above 0")


def _check_objects(ssl_context: object, on_state: object) -> None:
    if not (ssl_context is None or isinstance(ssl_context, ssl.SSLContext)):
        raise SettingsError(f"ssl_context: an ssl.SSLContext is expected, not {type(ssl_context).__name__}")
    if not (on_state is None or callable(on_state)):
        raise SettingsError(f"on_state: a function is expected, not {type(on_state).__name__}")
