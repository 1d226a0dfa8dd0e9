"""Who is here: the clients that all endpoints of one feed serve, how many there may be, and whether more may come."""

from collections.abc import Mapping
from typing import Literal
from weakref import WeakKeyDictionary

from bridge.core.wire import GOING_AWAY
from bridge.errors import SettingsError
from bridge.hub import Inbox
from bridge.hub.encoding import Protocol
from bridge.hub.retry import retry_seconds
from bridge.inprocess import EventFeed

NoPlaceReason = Literal["full", "draining", "closed"]

_SAID: Mapping[NoPlaceReason, str] = {
    "full": "there are too many clients",
    "draining": "this server is about to end",
    "closed": "this server has no events now",
}


class NoPlace(Exception):
    """There is no place for one more client; it is to come back later."""

    def __init__(self, reason: NoPlaceReason) -> None:
        super().__init__(_SAID[reason])
        self.reason: NoPlaceReason = reason


class Desk:
    """The clients of one feed. A process of several workers has one in each of them."""

    def __init__(self, max_clients: int) -> None:
        self._max_clients = max_clients
        self._inboxes: set[Inbox] = set()
        self._closed = False

    @property
    def client_count(self) -> int:
        return len(self._inboxes)

    def enter(self, feed: EventFeed, protocol: Protocol) -> Inbox:
        """Take a place, until `leave`. Raises NoPlace."""
        if len(self._inboxes) >= self._max_clients and not self._closed:
            feed.metrics.refused.labels("full").inc()
            raise NoPlace("full")
        try:
            inbox = None if self._closed else feed.inbox(protocol)
        except SettingsError:  # the block of open_feed has ended
            inbox = None
        if inbox is None:
            feed.metrics.refused.labels("draining").inc()
            raise NoPlace("draining")
        self._inboxes.add(inbox)
        return inbox

    def leave(self, inbox: Inbox) -> None:
        """Give the place back; harmless if that was done before."""
        self._inboxes.discard(inbox)

    def drain(self) -> None:
        """Send everybody away, each to come back at its own time, and let nobody in any more."""
        self._closed = True
        for inbox in self._inboxes:
            inbox.end(GOING_AWAY, f"retry={retry_seconds()}")


def desk_of(feed: EventFeed) -> Desk:
    """The one desk of this feed."""
    desk = _desks.get(feed)
    if desk is None:
        desk = _desks[feed] = Desk(feed.settings.max_clients)
    return desk


_desks: WeakKeyDictionary[EventFeed, Desk] = WeakKeyDictionary()
