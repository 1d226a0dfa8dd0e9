"""`RedisNotifierService`: publish, and callbacks for what comes, for applications that grew up with exactly that.

    publish ──▶ pg_notify:events, and all who hear now
    subscribe (where the log ends) ── listen_loop: open_feed ── Subscription ── callbacks, one after the other

What comes from PostgreSQL comes with the whole guarantee of `bridge.open_feed`, which does the work; what applications
publish goes beside the log, to those who listen at that moment.
"""

import inspect
import json
import logging
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio

from bridge.cancellation import cancellations, is_of_another_task
from bridge.core import events
from bridge.core.cursor import Cursor
from bridge.errors import SettingsError
from bridge.inprocess import EventFeed, Subscription, open_feed
from bridge.inprocess.options import read_settings
from bridge.links.shared_log import SharedLog
from bridge.settings import Settings
from bridge.stream import Event, Gap, Mode, Notification

log = logging.getLogger("bridge")

Callback = Callable[[str, Any], object]
"""Gets the channel and the payload: a JSON value, or a string where it is no JSON. What it returns is awaited if that
can be awaited, else ignored."""
GapCallback = Callable[[Gap], object]

CLOSE_SECONDS = 10.0
"""How long a callback that runs when the service is closed may take to end, before it is cancelled; and after that."""

LOOK_SECONDS = 0.1
"""The time between two looks at where the log ends."""

_within: ContextVar[tuple["RedisNotifierService", ...]] = ContextVar("within", default=())
"""The services whose callbacks the present task runs in."""


async def init_redis_notifier(
    redis_url: str | None = None,
    *,
    db_url: str | None = None,
    channels: Iterable[str] | None = None,
    **settings: object,
) -> "RedisNotifierService":
    """A service that is connected to Redis, made with these arguments. Raises SettingsError, RedisLost."""
    service = RedisNotifierService(redis_url, db_url=db_url, channels=channels, **settings)
    await service.connect()
    return service


class RedisNotifierService:
    """Publishes to the channels of a bridge, and calls back for what comes on them. For one event loop.

        notifier = await init_redis_notifier("redis://localhost:6379")
        await notifier.publish("player_match_change", {"match_id": 123})

        await notifier.subscribe()
        notifier.register_callback("player_match_change", my_callback)
        await notifier.listen_loop()

    What PostgreSQL notifies reaches the callbacks once each, from `subscribe` on, through the log that listeners write
    (``python -m bridge listen``). While Redis is away a LISTEN session of this process takes over, where a database is
    named (`db_url`, DATABASE_URL or DB_HOST); else it comes when Redis is back. What was lost all the same is said by a
    gap (`register_gap_callback`). What applications `publish` is outside of that guarantee: whoever does not hear it at
    that moment never will. Nothing comes before a listener, or PostgreSQL itself, has been heard.

    What is not given comes from the environment or a `.env` file, as for the command line; any other setting can be
    given by its name (``redis_prefix="x"``). `channels` are all that the listeners have: they name the log; names, or
    one text with commas. Raises SettingsError for what cannot be used. Connects by `connect`, or as an asynchronous
    context manager.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        db_url: str | None = None,
        channels: Iterable[str] | None = None,
        **settings: object,
    ) -> None:
        channels = _names(channels)
        self.settings: Settings = read_settings(db_url, True, redis_url, channels, settings)
        """What the arguments and the environment came to."""
        self._open_feed = partial(
            open_feed, db_url, use_redis=True, redis_url=redis_url, channels=channels, after=None, **settings
        )
        self._log = SharedLog(self.settings, "bridge notifier")
        self._callbacks: dict[str, list[Callback]] = {}
        self._gap_callbacks: list[GapCallback] = []
        self._wanted: tuple[str, ...] = ()
        self._cursor: str | None = None
        """Everything through here went to the callbacks, or is not wanted. None: nothing was promised yet; a text that
        is no cursor has the loop say that something may be missing."""
        self._loop: _Loop | None = None
        self._closed = False

    @property
    def mode(self) -> Mode:
        """Where events come from now: ``redis``, ``direct`` (PostgreSQL) or ``none``, also where no loop runs."""
        return self._loop.feed.mode if self._loop is not None and self._loop.feed is not None else "none"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect to Redis, so that a failure shows at once; also after `close`. Harmless where it is connected.

        Raises RedisLost where Redis does not answer within `BRIDGE_REDIS_TIMEOUT_SECONDS`.
        """
        self._closed = False
        await self._log.connect()

    async def close(self) -> None:
        """End `listen_loop`, and return when it has ended; close the connection. Harmless if it is closed.

        A callback that runs may finish, for 10 s; then it is cancelled, and one that does not end in 10 s more is left
        to itself, with a warning in the log. Called by a callback, or a task that one has started, it does not wait:
        the loop ends after that callback. Whoever is cancelled here has told the loop to end. After a `connect`
        meanwhile the connection stays.
        """
        self._closed = True
        loop = self._loop
        try:
            if loop is not None:
                loop.end()
                if self not in _within.get():
                    with anyio.move_on_after(CLOSE_SECONDS):
                        await loop.ended.wait()
                    loop.scope.cancel()
                    with anyio.move_on_after(CLOSE_SECONDS) as patience:
                        await loop.ended.wait()
                    if patience.cancelled_caught:
                        log.warning("The notifier is closed, but a callback goes on although it was cancelled")
        finally:
            if self._closed:
                await self._log.close()

    async def disconnect(self) -> None:
        """The same as `close`."""
        await self.close()

    async def publish(self, channel: str, payload: Any) -> int:
        """Send this payload, anything that `json.dumps` takes, to all who listen on the channel at this moment.

        Returns how many processes of the bridge that were: servers, and applications that listen. It is outside of the
        guarantee: it is in no log, and who is away misses it. As in a NOTIFY it has at most 7,999 bytes, as JSON.

        Raises SettingsError for a channel that is not configured, TypeError or ValueError for a payload that cannot be
        sent, and RedisLost where Redis is away; the next call connects again. May be called by many tasks at once.
        Where it raises RedisLost or is cancelled, the payload may have been sent.
        """
        self._check(channel)
        try:
            text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except RecursionError:
            raise ValueError(f"a payload is nested at most {events.MAX_DEPTH} deep") from None
        return await self._log.publish(events.published(channel, text))

    async def subscribe(self, *channels: str) -> None:
        """Have `listen_loop` bring what is notified on these channels from now on; none means all.

        It remembers where the log ends, which takes 0.1 s, so nothing is missed until the loop runs (what is published
        meanwhile is). The last call counts. While the loop runs, it changes what that brings from the next notification
        on.

        Where the log is empty, because Redis lost it or no listener has ever run, it waits for one, at most
        `BRIDGE_HEARTBEAT_TIMEOUT_SECONDS`; without any, what comes until the loop hears cannot be known, and the loop
        begins with a gap (``unknown_position``). Raises SettingsError for a channel that is not configured, RedisLost.
        Where it raises or is cancelled, nothing has changed.
        """
        for channel in channels:
            self._check(channel)
        if not self._goes_on:
            end = await self._end_of_log()
            if not self._goes_on:
                self._cursor = end
                if self._loop is not None and self._loop.subscription is not None and self.mode == "none":
                    self._loop.subscription.close()  # which would begin when it is live; the loop opens another one
        self._wanted = channels

    @property
    def _goes_on(self) -> bool:
        """Whether a loop runs that brings all that comes from now on, or leaves that to the next one."""
        return self._loop is not None and self._cursor is not None

    async def _end_of_log(self) -> str:
        """A cursor that begins where the log ends; one that means nothing where there is no log.

        Not where an emptied log begins to come back: what follows there was there before. So it is looked at twice, and
        one that is seen to be emptied, or to come back, is to stand still. Another one need not: it may be busy.
        """
        end = await self._log.tail()
        emptied = end is None
        deadline = anyio.current_time() + self.settings.heartbeat_timeout_seconds
        while anyio.current_time() < deadline:
            await anyio.sleep(LOOK_SECONDS)
            earlier, end = end, await self._log.tail()
            emptied = emptied or end is None or (earlier is not None and end < earlier)
            if end is not None and (end == earlier or not emptied):
                break
        return "" if end is None else str(Cursor(end))

    def register_callback(self, channel: str, callback: Callback) -> None:
        """Call this for whatever comes on the channel, after those that were registered before.

        It is called as ``callback(channel, payload)``, synchronous or not, each with a payload of its own. What it
        raises is logged with its traceback, and stops nothing. May be registered at any time, also while the loop runs.
        Raises SettingsError for a channel that is not configured, TypeError for what is no function.
        """
        self._check(channel)
        _check_callable(callback)
        self._callbacks.setdefault(channel, []).append(callback)

    def unregister_callback(self, channel: str, callback: Callback) -> None:
        """Do not call this any more for the channel. Harmless where it is not registered."""
        callbacks = self._callbacks.get(channel, [])
        if callback in callbacks:
            callbacks.remove(callback)

    def register_gap_callback(self, callback: GapCallback) -> None:
        """Call this, synchronous or not, for each final gap: what it says may be missing has not come and never will.

        It concerns all channels; who shows data that comes from elsewhere should read it again. Without any such
        callback a gap is a warning in the log. Raises TypeError for what is no function.
        """
        _check_callable(callback)
        self._gap_callbacks.append(callback)

    async def listen_loop(self) -> None:
        """Call the callbacks for what comes, until it is cancelled or the service is closed.

        One after the other, so what comes on a channel comes in order (but for what comes late, from a time in which
        Redis was away). While a callback takes its time the rest waits, of all channels at most
        `BRIDGE_CLIENT_BUFFER_BYTES` here and `BRIDGE_HISTORY_ENTRIES` in the history; only what exceeds both is lost,
        and said by a gap. Without `subscribe` it begins with what comes when it is live. Called again it goes on where
        it was; a notification whose callbacks were cancelled comes again.

        All tasks of the feed run inside of this call. Raises RuntimeError where it runs already; never for Redis or
        PostgreSQL, which it connects to again.
        """
        if self._loop is not None:
            raise RuntimeError("listen_loop: it runs already in another task, and one is enough")
        if self._closed:
            return
        loop = self._loop = _Loop()
        interrupted: BaseException | None = None
        try:
            with loop.scope:
                async with self._open_feed() as loop.feed:
                    try:
                        while not loop.over:
                            with loop.feed.subscribe(after=self._cursor) as loop.subscription:
                                await self._follow(loop.subscription)
                    except (KeyboardInterrupt, SystemExit) as error:
                        interrupted = error  # to be raised outside of the feed's tasks, which would wrap it
        finally:
            self._loop = None
            loop.ended.set()
        if interrupted is not None:
            raise interrupted

    async def _follow(self, subscription: Subscription) -> None:
        """Call the callbacks until it is closed. It brings all channels, so that `subscribe` may change what is wanted
        without an event that is lost or comes twice, and the cursor moves also where nothing is wanted."""
        taken = True
        try:
            async for event in subscription:
                taken = False
                await self._take(event)
                taken = True
                self._reached(subscription)
        finally:
            if taken:  # a position may have been told since the last event
                self._reached(subscription)

    def _reached(self, subscription: Subscription) -> None:
        if subscription.cursor is not None:
            self._cursor = subscription.cursor

    async def _take(self, event: Event) -> None:
        match event:
            case Notification() if not self._wanted or event.channel in self._wanted:
                for callback in tuple(self._callbacks.get(event.channel, ())):
                    await self._call(callback, event.channel, event.payload)
            case Gap(pending=False):
                if not self._gap_callbacks:
                    bounds = event.after, event.before, event.reason
                    log.warning("No callback was called for what may have come between %s and %s (%s)", *bounds)
                for gap_callback in tuple(self._gap_callbacks):
                    await self._call(gap_callback, event)

    async def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        token = _within.set((*_within.get(), self))
        try:
            result = callback(*arguments)
            if inspect.isawaitable(result):
                await result
        except BaseException as error:
            earlier = self._loop.cancellations if self._loop is not None else 0
            if not (isinstance(error, Exception) or is_of_another_task(error, earlier)):
                raise
            log.exception("A callback failed: %s", getattr(callback, "__qualname__", callback))
        finally:
            _within.reset(token)

    def _check(self, channel: str) -> None:
        if channel not in self.settings.channels:
            known = ", ".join(self.settings.channels)
            raise SettingsError(f"{channel!r} is no configured channel (BRIDGE_CHANNELS): there are {known}")


def _names(channels: object) -> str | tuple[str, ...] | None:
    """The channels that were given, to be read more than once; a text as it is written in the environment."""
    if channels is None or isinstance(channels, str):
        return channels
    if isinstance(channels, Iterable) and not isinstance(channels, bytes):
        return tuple(channels)
    raise SettingsError(f"channels: {channels!r} is not allowed; give names, or one text with commas")


def _check_callable(callback: object) -> None:
    if not callable(callback):
        raise TypeError(f"a callback is a function, not {type(callback).__name__}; give it without calling it")


class _Loop:
    """One run of `listen_loop`."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self.feed: EventFeed | None = None
        self.subscription: Subscription | None = None
        self.over = False
        self.cancellations = cancellations()
        """How often its task was cancelled before, and went on all the same."""

    def end(self) -> None:
        """End it after the callback that runs, if one does."""
        self.over = True
        if self.subscription is None:
            self.scope.cancel()
        else:
            self.subscription.close()
