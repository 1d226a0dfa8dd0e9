"""`open_feed`: everything that a process needs to follow the bridge by itself, owned by one task group."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final

import anyio

from bridge.background import BackgroundTasks, background
from bridge.core.cursor import Cursor
from bridge.core.events import Published
from bridge.core.wire import GOING_AWAY
from bridge.errors import BridgeError, SettingsError
from bridge.feed.build import build_feed
from bridge.feed.delivery import Delivery, Item
from bridge.feed.source import FeedState
from bridge.hub import Buffers, Hub, Inbox
from bridge.hub.encoding import Protocol
from bridge.hub.hub import TICK_SECONDS
from bridge.hub.retry import retry_seconds
from bridge.inprocess.options import Scalar, checked_cursor, read_settings, read_subscription
from bridge.inprocess.subscription import Subscription
from bridge.links.openers import RealLinks
from bridge.settings import Settings
from bridge.stream import Mode
from bridge.telemetry import Metrics

CLOSED: Final = FeedState("none", "closed")


@asynccontextmanager
async def open_feed(
    db_url: str | None = None,
    *,
    use_redis: bool | None = None,
    redis_url: str | None = None,
    channels: Iterable[str] | None = None,
    after: str | None = None,
    **settings: object,
) -> AsyncIterator["EventFeed"]:
    """The bridge's feed in this process, with its whole guarantee, on asyncio or trio.

        async with bridge.open_feed(db_url, use_redis=True, redis_url=redis_url) as feed:
            async for event in feed:
                ...

    With Redis it follows the log that listeners write (``python -m bridge listen``), falls back to a LISTEN session of
    its own when that is lost, and goes back; without, it listens to PostgreSQL. `channels` are all that the listeners
    have: they name the log. `after` is a cursor from which the feed's own iteration goes on.

    What is not given comes from the environment or a `.env` file, as for the command line; any other setting can be
    given by its name (``retry_seconds=1``). Enters at once, whatever is away: `EventFeed.wait_live` waits. To be
    entered and left by the same task. Raises SettingsError for what cannot be used. What the body raises is raised as
    it is. Cancelling closes all connections.
    """
    feed = EventFeed(read_settings(db_url, use_redis, redis_url, channels, settings), checked_cursor(after))
    async with background() as tasks:
        feed.start(tasks)
        try:
            yield feed
        finally:
            feed.stop()


class EventFeed:
    """A running feed, and its consumers. Made by `open_feed`; iterating over it is one subscription to everything."""

    def __init__(self, settings: Settings, after: str | None) -> None:
        self.settings = settings
        """What the arguments and the environment came to."""
        self.metrics = Metrics()
        """As the command line's, in a registry of their own: `metrics.registry`."""
        self._delivery = Delivery(self._deliver, self.metrics)
        self.hub = Hub(
            settings.channels,
            Buffers(settings.client_buffer_bytes, settings.buffers_total_bytes),
            settings.history_entries,
            self.metrics,
            self._delivery.timeline,
            self._delivery.newest,
        )
        """Where all consumers are clients; for endpoints that make their own (`inbox`)."""
        links = RealLinks(settings)
        self._feed = build_feed(settings, links, None, self._delivery, self._changed, self.metrics)
        self._tasks: BackgroundTasks | None = None
        self._after = after
        self._own: Subscription | None = None
        self._subscriptions: set[Subscription] = set()

    @property
    def channels(self) -> frozenset[str]:
        """All channels that can be subscribed to."""
        return self.hub.channels

    @property
    def mode(self) -> Mode:
        """Where events come from now."""
        return self._state.mode

    @property
    def reason(self) -> str:
        """Why the mode is ``none``, or is ``direct`` although Redis is used."""
        return self._state.reason

    async def wait_live(self) -> None:
        """Wait until a source feeds this process, however long that takes; `anyio.fail_after` sets a limit.

        Raises BridgeError when the feed is closed.
        """
        await self._feed.state.wait_for(lambda state: state.mode != "none" or self._tasks is None)
        if self._tasks is None:
            raise BridgeError("the feed is closed: wait inside of the block of open_feed")

    def __aiter__(self) -> Subscription:
        """Everything from `after` on, or else from when the feed became live; always the same iterator."""
        if self._own is None:
            self._own = self._subscribe((), None, self._after, None)
        return self._own

    @contextmanager
    def subscribe(
        self,
        *channels: str,
        where: Mapping[str, Scalar | Iterable[Scalar]] | None = None,
        after: str | None = None,
        buffer_bytes: int | None = None,
    ) -> Iterator[Subscription]:
        """One more consumer, for as long as the block runs; there may be many, and none holds up another one.

        `channels`: none means all. `where`: top-level fields of the payload, compared as text, with one value or any of
        several. `after`: a cursor to go on from, else it begins with what comes next. `buffer_bytes`: what may wait for
        it (`BRIDGE_CLIENT_BUFFER_BYTES`). Raises SettingsError for what cannot be used.
        """
        subscription = self._subscribe(channels, where, after, buffer_bytes)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            subscription.close()

    def inbox(self, protocol: Protocol = "lines", buffer_bytes: int | None = None) -> Inbox:
        """A new client for `hub`, which the caller subscribes there, and ends and removes when it is done."""
        if self._tasks is None:
            raise SettingsError("the feed is closed: subscribe inside of the block of open_feed")
        return Inbox(self._tasks.start_soon, self.hub.buffers, protocol, buffer_bytes)

    def start(self, tasks: BackgroundTasks) -> None:
        """Run in these tasks, until they are cancelled."""
        self._tasks = tasks
        tasks.start_soon(self._feed.run)
        tasks.start_soon(self._tick)

    def stop(self) -> None:
        """End all consumers, and who waits for a source; there are no more after that."""
        self._tasks = None
        self._feed.state.set(CLOSED)
        for subscription in self._subscriptions:
            subscription.close()
        for client in list(self.hub.clients):
            client.end(GOING_AWAY, f"retry={retry_seconds()}")

    @property
    def _state(self) -> FeedState:
        return self._feed.state.value if self._tasks is not None else CLOSED

    def _subscribe(
        self,
        channels: Iterable[str],
        where: Mapping[str, Scalar | Iterable[Scalar]] | None,
        after: str | None,
        buffer_bytes: int | None,
    ) -> Subscription:
        wanted = read_subscription(channels, where, self.channels)
        if buffer_bytes is not None:
            _check_bytes(buffer_bytes)
        new_inbox = partial(self.inbox, "lines", buffer_bytes)
        subscription = Subscription(self.hub, wanted, checked_cursor(after), new_inbox, self._state)
        self._subscriptions.add(subscription)
        return subscription

    def _deliver(self, items: Sequence[Item]) -> None:
        self.hub.deliver(items)
        for item in items:
            if isinstance(item, Published):
                for subscription in self._subscriptions:
                    subscription.publish(item)

    def _changed(self, state: FeedState) -> None:
        for subscription in self._subscriptions:
            subscription.tell(state)
        if state.mode == "none":
            self.hub.set_waiting()
            return
        self.hub.set_live(self._delivery.position)
        if self._after is None and self._delivery.position is not None:
            self._after = str(Cursor(self._delivery.position))

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(TICK_SECONDS)
            self.hub.tick()


def _check_bytes(buffer_bytes: object) -> None:
    if not (isinstance(buffer_bytes, int | float) and buffer_bytes > 0):
        raise SettingsError(f"buffer_bytes: {buffer_bytes!r} is not allowed; give a number above 0")
