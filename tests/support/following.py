"""`bridge.open_feed` on an event loop of its own, in a thread: its consumers are judged as clients elsewhere are."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel

import bridge
from bridge.stream import Mode
from tests.support.loops import Loop, run_on
from tests.support.process import wait_until
from tests.support.told import message_of
from tests.support.traffic import Arrival, Reader

LONGEST_SECONDS = 300.0
PAUSE_EVENTS = 20
"""A slow consumer rests after so many events: on a busy machine each rest is as long again, or many times that."""


class Consumer(Reader):
    """Reads everything, and goes on by its cursor in the next feed where one has ended.

    With a `buffer_bytes` of its own and a pause for each event it is slow.
    """

    def __init__(self, buffer_bytes: int | None = None, pause_seconds: float = 0.0) -> None:
        self.began = self.subscribed = 0.0
        self.buffer_bytes = buffer_bytes
        self.pause_seconds = pause_seconds
        self.cursor: str | None = None
        self.modes: list[Mode] = []
        """The changes of mode that it was told."""
        self._arrivals: list[Arrival] = []

    @property
    def arrivals(self) -> list[Arrival]:
        return self._arrivals

    async def read(self, feed: bridge.EventFeed) -> None:
        """Until it is cancelled, or the feed ends."""
        self.began = self.began or time.time()
        self.modes = [feed.mode]
        with feed.subscribe(after=self.cursor, buffer_bytes=self.buffer_bytes) as subscription:
            since_pause = 0
            async for event in subscription:
                self._note(event)
                self.cursor = subscription.cursor
                since_pause += 1
                if self.pause_seconds and since_pause == PAUSE_EVENTS:
                    await anyio.sleep(PAUSE_EVENTS * self.pause_seconds)
                    since_pause = 0

    def _note(self, event: bridge.Event) -> None:
        if isinstance(event, bridge.ModeChange):
            self.modes.append(event.mode)
        elif isinstance(event, bridge.Subscribed) and self.subscribed:
            return
        elif (message := message_of(event)) is not None:
            self._arrivals.append(Arrival(time.time(), message))
        if isinstance(event, bridge.Subscribed):
            self.subscribed = time.time()


class Following:
    """A feed with its consumers; made by `following`."""

    def __init__(self, loop: Loop, settings: Mapping[str, Any], consumers: Mapping[str, Consumer]) -> None:
        self.loop = loop
        self.consumers = consumers
        self._settings = settings
        self._feed: bridge.EventFeed | None = None
        self._stop: anyio.Event | None = None
        self._token: object = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"feed on {loop}", daemon=True)

    @property
    def mode(self) -> Mode:
        return "none" if self._feed is None else self._feed.mode

    def start(self) -> None:
        """Begin, and wait until all consumers have subscribed."""
        self._thread.start()

        def ready() -> bool:
            self._check()
            return all(consumer.subscribed for consumer in self.consumers.values())

        wait_until(ready, lambda: f"the feed on {self.loop} is {self.mode}")

    def wait_for_mode(self, mode: Mode, seconds: float = 60.0) -> None:
        """Wait until the feed is in this mode and every consumer was told so."""

        def there() -> bool:
            self._check()
            told = all(consumer.modes[-1:] == [mode] for consumer in self.consumers.values())
            return self.mode == mode and told

        def where() -> str:
            told = {name: consumer.modes for name, consumer in self.consumers.items()}
            return f"the feed on {self.loop} is {self.mode}, not {mode}; told: {told}"

        wait_until(there, where, seconds)

    def stop(self) -> None:
        """End it as an application does: leave the block. Raises what went wrong there."""
        if self._stop is not None and self._thread.is_alive():
            anyio.from_thread.run_sync(self._stop.set, token=self._token)  # type: ignore[arg-type]
        self._thread.join(10)
        assert not self._thread.is_alive(), f"the feed on {self.loop} does not end"
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise AssertionError(f"the feed on {self.loop} failed") from self._failure

    def _run(self) -> None:
        try:
            run_on(self.loop, self._follow, seconds=LONGEST_SECONDS)
        except BaseException as error:  # told to the thread of the test
            self._failure = error

    async def _follow(self) -> None:
        self._token, stop = anyio.lowlevel.current_token(), anyio.Event()
        async with bridge.open_feed(**self._settings) as feed, anyio.create_task_group() as tasks:
            self._feed, self._stop = feed, stop
            for consumer in self.consumers.values():
                tasks.start_soon(consumer.read, feed)
            await stop.wait()
            tasks.cancel_scope.cancel()


@contextmanager
def following(loop: Loop, settings: Mapping[str, Any], **consumers: Consumer) -> Iterator[Following]:
    """A feed for the body, with these consumers; live when it begins."""
    feed = Following(loop, settings, consumers)
    try:
        feed.start()
        yield feed
    finally:
        feed.stop()
