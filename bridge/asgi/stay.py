"""One client's time here: what the hub gives it waits in a bounded inbox, and is passed on as fast as the peer reads.

Sending is limited in time: a peer that does not read holds it up for ever, while the inbox fills, and ends.
"""

import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

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
        self._ended = anyio.Event()
        self.inbox = self._desk.enter(visit.feed, protocol)
        self.inbox.on_ended = self._ended.set

    def subscribe(self, after: str | None) -> None:
        """Begin to hear what the visit is about; where its token has expired meanwhile, end it."""
        if not self._ended_by_expiry():
            self._visit.feed.hub.subscribe(self.inbox, None, self._visit.subscription, after)

    async def pass_on(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Give `send` what arrives, in chunks of whole messages, until the inbox has ended and all was sent.

        Nothing more is sent once a chunk has taken `PEER_SECONDS`, or `limit` cannot wait any longer.
        """
        with self._sending:
            while (data := await self.inbox.take()) is not None:
                self._sending.deadline = anyio.current_time() + PEER_SECONDS
                await send(data)
                self._sending.deadline = math.inf
        self.inbox.end(TOO_SLOW, "resume with after", drop=True)

    async def limit(self) -> None:
        """End it when its token expires, by the clock on the wall; and what it holds, `CLOSE_SECONDS` after its end.

        That is dropped also where sending goes on: not every server lets it be cancelled.
        """
        while not self._ended.is_set():
            if self._ended_by_expiry():
                break
            left_seconds = self._left_seconds()
            with anyio.move_on_after(None if left_seconds is None else min(left_seconds, EXPIRY_SECONDS)):
                await self._ended.wait()
        await anyio.sleep(CLOSE_SECONDS)
        self.gone()

    def gone(self) -> None:
        """Nothing can be sent to the peer any more; its place is another one's, whenever its connection may end."""
        self.inbox.end(GOING_AWAY, drop=True)
        self._desk.leave(self.inbox)
        self._sending.cancel()

    def leave(self) -> None:
        """Hear nothing any more, and give the place back."""
        self.inbox.end(GOING_AWAY, f"retry={retry_seconds()}", drop=True)
        self._visit.feed.hub.remove(self.inbox)
        self._desk.leave(self.inbox)

    def _ended_by_expiry(self) -> bool:
        left_seconds = self._left_seconds()
        expired = left_seconds is not None and left_seconds <= 0
        if expired:
            self.inbox.end(TOKEN_EXPIRED, "the token has expired")
        return expired

    def _left_seconds(self) -> float | None:
        """How long its token is still worth something; None is for ever."""
        expires_at = self._visit.grant.expires_at
        return None if expires_at is None else expires_at - time.time()
