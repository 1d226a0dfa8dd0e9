"""One consumer of the feed in this process: an iterator over what it is to hear.

It takes from an inbox of the hub. When it was too slow for that, it reads what it was given, and goes on from its
cursor with a new one: the history has what came meanwhile, or a gap says what it has no longer.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import msgspec

from bridge import stream
from bridge.core import topics
from bridge.core.cursor import Cursor
from bridge.core.events import Published
from bridge.core.wire import GOING_AWAY
from bridge.feed.source import FeedState
from bridge.hub import Hub, Inbox
from bridge.hub.client import State

if TYPE_CHECKING:
    from typing import Self

EVENTS_A_TURN = 32
"""Then other tasks get a turn, also where everything is at hand."""


class Subscription:
    """An asynchronous iterator of events, for one task at a time.

    It begins with `Subscribed`, once a source feeds this process; only what applications publish may come before. At
    most `buffer_bytes` (and one batch of at most 256 KiB more) wait here for a consumer that is slow, and the newest
    `BRIDGE_HISTORY_ENTRIES` events in the history that all consumers share; one that falls behind further is told so by
    a `Gap` (``history_trimmed``). No consumer ever holds up another one.

    Made by `EventFeed.subscribe`. The iteration ends when the subscription or the feed is closed.
    """

    def __init__(
        self, hub: Hub, wanted: topics.Subscription, after: str | None, new_inbox: Callable[[], Inbox], state: FeedState
    ) -> None:
        self._hub = hub
        self._wanted = wanted
        self._cursor = after
        self._beginning: str | None = None
        """Where it began, if all that it was given was taken away before it read any of that; as a cursor."""
        self._new_inbox = new_inbox
        self._state = self._told = state
        self._greeted = False
        self._closed = False
        self._reading = False
        self._turn = 0
        self._lines: deque[bytes] = deque()
        self._inbox = self._open()

    @property
    def cursor(self) -> str | None:
        """Where to go on after the last event that the iterator gave: `after` for a later subscription, here or at any
        other process of the same bridge. None before the first."""
        return self._cursor

    def __aiter__(self) -> "Self":
        return self

    async def __anext__(self) -> stream.Event:
        """The next event. Cancelling loses nothing: who was cancelled has taken nothing.

        Raises anyio.BusyResourceError where another task is waiting for one already.
        """
        if self._reading:
            raise anyio.BusyResourceError("iterating over (each task needs a subscription of its own)")
        self._reading = True
        try:
            return await self._next()
        finally:
            self._reading = False

    def close(self) -> None:
        """Hear nothing any more, and forget what was not taken. Harmless if it is closed."""
        self._closed = True
        self._lines.clear()
        self._inbox.end(GOING_AWAY, drop=True)
        self._hub.remove(self._inbox)

    def tell(self, state: FeedState) -> None:
        """The feed came into this state."""
        self._state = state
        self._say_mode()

    def publish(self, event: Published) -> None:
        """An application has said this. The hub tells those who were greeted; that does not wait for any source."""
        member = self._hub.members.find(self._inbox)
        if member is not None and not member.heard and self._wanted.matches(event):
            self._inbox.put(event.data + b"\n")

    async def _next(self) -> stream.Event:
        self._turn = (self._turn + 1) % EVENTS_A_TURN
        if self._turn == 0:
            await anyio.lowlevel.checkpoint()
        else:
            await anyio.lowlevel.checkpoint_if_cancelled()
        while True:
            while not self._lines:
                data = await self._inbox.take()
                if data is not None:
                    self._lines.extend(data.splitlines())
                elif self._closed:
                    raise StopAsyncIteration
                else:
                    self._inbox = self._open()
            event = self._read(self._lines.popleft())
            if event is not None:
                return event

    def _read(self, line: bytes) -> stream.Event | None:
        word = stream.decode(line)
        self._cursor = stream.cursor_after(word) or self._cursor
        match word:
            case stream.Standing() | stream.Refused():
                return None
            case stream.Subscribed() if self._greeted:
                return None
            case stream.Subscribed():
                self._greeted = True
            case stream.ModeChange():
                self._told = FeedState(word.mode, word.reason)
        return word

    def _open(self) -> Inbox:
        """Subscribe, from the cursor on. Who was greeted and has no cursor is told that it may miss something."""
        inbox = self._new_inbox()
        inbox.on_ended = partial(self._note_beginning, inbox)
        after = self._cursor
        if after is None:
            after = "" if self._greeted else self._beginning
        self._hub.subscribe(inbox, None, self._wanted, after)
        self._inbox = inbox
        if self._told != self._state:
            self._say_mode()
        return inbox

    def _note_beginning(self, inbox: Inbox) -> None:
        """The inbox has ended, and may lose what it holds: keep from where on it has heard everything, if it has."""
        member = self._hub.members.find(inbox)
        heard = member.heard.get(None) if member is not None else None
        if heard is not None and self._beginning is None:
            self._beginning = str(Cursor(heard.since)) if heard.since is not None else ""

    def _say_mode(self) -> None:
        if self._inbox.state is State.OPEN:
            said = {"type": "mode", "mode": self._state.mode, "reason": self._state.reason}
            self._inbox.put(msgspec.json.encode(said) + b"\n")
