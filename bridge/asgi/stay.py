"""One client's time here: what the hub gives it waits in a bounded inbox, and is passed on as fast as the peer reads.

Sending is limited in time: a peer that does not read holds it up for ever, while the inbox fills, and ends.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import trio

from bridge.asgi.desk import desk_of
from bridge.asgi.door import Visit
from bridge.core.wire import GOING_AWAY, TOKEN_EXPIRED, TOO_SLOW
from bridge.hub.encoding import Protocol
from bridge.hub.retry import retry_seconds

PEER_SECONDS: Final = 60.0
"""A peer that takes nothing for so long is too slow, however little waits for it."""
CLOSE_SECONDS: Final = 10.0
"""What is held when a client's time ends is to be sent within this; then it is dropped."""
GOODBYE_SECONDS: Final = 1.0
"""How long the very last message may take."""
EXPIRY_SECONDS: Final = 5.0
"""How long it may go unnoticed that the clock on the wall was set, or that the machine was asleep."""


class Stay:
    """Takes a place for this visit. Raises NoPlace. To be ended by `leave`."""

    def __init__(self, visit: Visit, protocol: Protocol) -> None:
        self._visit = visit
        self._desk = desk_of(visit.feed)
        self._sending = anyio.CancelScope()
        self._end_at = math.inf
        self._clock = trio.current_time if trio.lowlevel.in_trio_run() else asyncio.get_running_loop().time
        """That of deadlines. An inbox may be ended by what is no task, where anyio does not know the event loop."""
        self.inbox = self._desk.enter(visit.feed, protocol)
        self.inbox.on_ended = self._hurry

    def subscribe(self, after: str | None) -> None:
        """Begin to hear what the visit is about."""
        self._visit.feed.hub.subscribe(self.inbox, None, self._visit.subscription, after)

    async def pass_on(self, send: Callable[[bytes], Awaitable[None]]) -> bool:
        """Give `send` what arrives, in chunks of whole messages, until the inbox has ended; whether that was all of it.

        A chunk has `PEER_SECONDS`, and everything `CLOSE_SECONDS` once the inbox has ended.
        """
        inbox, sending = self.inbox, self._sending
        with sending:
            while (data := await inbox.take()) is not None:
                sending.deadline = min(self._end_at, self._clock() + PEER_SECONDS)
                await send(data)
                sending.deadline = self._end_at
        if sending.cancelled_caught:
            inbox.end(TOO_SLOW, "resume with after", drop=True)
        return not sending.cancelled_caught

    async def expire(self) -> None:
        """End it when its token does, by the clock on the wall. Returns then, or at once where it never does."""
        expires_at = self._visit.grant.expires_at
        if expires_at is None:
            return
        while (left_seconds := expires_at - time.time()) > 0:  # noqa: ASYNC110 (a clock that is set tells nobody)
            await anyio.sleep(min(left_seconds, EXPIRY_SECONDS))
        self.inbox.end(TOKEN_EXPIRED, "the token has expired")

    def gone(self) -> None:
        """The peer has gone: nothing is to be sent any more."""
        self.inbox.end(GOING_AWAY, drop=True)
        self._sending.cancel()

    def leave(self) -> None:
        """Hear nothing any more, and give the place back."""
        self.inbox.end(GOING_AWAY, f"retry={retry_seconds()}", drop=True)
        self._visit.feed.hub.remove(self.inbox)
        self._desk.leave(self.inbox)

    def _hurry(self) -> None:
        self._end_at = self._clock() + CLOSE_SECONDS
        self._sending.deadline = self._end_at
