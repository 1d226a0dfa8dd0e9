"""What applications publish on its way through the log's source: garbage is dropped, and nothing else notices."""

import logging
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import msgspec
import pytest
import trio
from trio.testing import MockClock

from bridge.core import events
from bridge.core.events import Entry, Event, Notification, Published, entry_json, read_entry
from bridge.core.position import Position
from bridge.feed.delivery import Delivery, Item
from bridge.feed.log_source import LogSource
from bridge.feed.publications import WARN_SECONDS, Publications
from bridge.feed.source import FeedState
from bridge.links.redis_log import LogState
from bridge.telemetry import Metrics

TERM = 100
LIVE, CONTROL, PUBLISHED = "p:d:live", "p:d:control", "p:d:published"
HEARTBEAT_TIMEOUT_SECONDS = 3.0
GARBAGE = [b"", b"hello", b"\xff\xfe", b"[" * 5000, events.published("z", b"1").data, b'{"type":"notification"}']


class Redis:
    """One log, whose messages are what the test says. Both connections are this object."""

    live_channel, control_channel, published_channel = LIVE, CONTROL, PUBLISHED

    def __init__(self) -> None:
        self.tail = Position(TERM, 0)
        self.entries: list[Entry] = []
        self.subscriptions: list[tuple[str, ...]] = []
        self.opened = 0
        self.beating = True
        self.flooded = False
        """Whether something has been published whenever anybody looks."""
        self._send, self._messages = trio.open_memory_channel[tuple[bytes, bytes]](math.inf)

    @asynccontextmanager
    async def ear(self) -> AsyncIterator["Redis"]:
        self.opened += 1
        yield self

    @asynccontextmanager
    async def log(self) -> AsyncIterator["Redis"]:
        yield self

    async def subscribe(self, *channels: str) -> None:
        self.subscriptions.append(channels)

    async def messages(self, deadline: float = math.inf) -> list[tuple[bytes, bytes]]:
        if self.flooded:
            await trio.sleep(0.01)
            self.publish(0)
        with trio.CancelScope(deadline=deadline), suppress(trio.WouldBlock):
            return [self._messages.receive_nowait() if self.flooded else await self._messages.receive()]
        return []

    async def open(self) -> LogState:
        return await self.state()

    async def state(self) -> LogState:
        return LogState(self.tail, "nonce")

    async def read(self, after: Position, count: int = 500) -> Sequence[Entry]:
        return [entry for entry in self.entries if entry.position > after][:count]

    def live_entries(self, message: bytes) -> list[Entry]:
        return [read_entry(message)]

    async def terms_count(self) -> int:
        return 0

    async def terms(self) -> list[tuple[int, Position]]:
        return []

    async def listeners_beating(self) -> str | None:
        return "nonce" if self.beating else None

    def say(self, channel: str, data: bytes) -> None:
        self._send.send_nowait((channel.encode(), data))

    def append(self, number: int) -> None:
        self.tail = self.tail.plus(1)
        line = entry_json(self.tail, Notification("a", b"%d" % number))
        self.entries.append(read_entry(line))
        self.say(LIVE, line)

    def publish(self, number: int) -> None:
        self.say(PUBLISHED, events.published("a", b"%d" % number).data)

    def beat(self) -> None:
        self.say(CONTROL, msgspec.json.encode({"nonce": "nonce", "tail": str(self.tail)}))


class Follower:
    """A log source that follows, and what it says."""

    def __init__(self, redis: Redis) -> None:
        self.items: list[Item] = []
        self.states: list[FeedState] = []
        self._delivery = Delivery(self.items.extend, Metrics())
        self._source = LogSource(
            redis,  # type: ignore[arg-type]
            self._delivery,
            "d",
            HEARTBEAT_TIMEOUT_SECONDS,
            ("a", "b"),
        )

    async def run(self) -> None:
        await self._source.run(self.states.append)

    @property
    def numbers(self) -> list[int]:
        """Payloads, those that were published as negative ones."""
        found = []
        for item in self.items:
            if isinstance(item, Event | Published):
                number = int(msgspec.json.decode(item.data)["payload"])
                found.append(number if isinstance(item, Event) else -number)
        return found


@asynccontextmanager
async def following(redis: Redis) -> AsyncIterator[Follower]:
    follower = Follower(redis)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await trio.testing.wait_all_tasks_blocked()
        yield follower
        nursery.cancel_scope.cancel()


@pytest.fixture
def taken(caplog: pytest.LogCaptureFixture) -> Iterator[SimpleNamespace]:
    """What `Publications` delivers and says."""
    items: list[Item] = []
    with caplog.at_level(logging.WARNING, logger="bridge"):
        yield SimpleNamespace(items=items, publications=Publications(("a", "b"), Delivery(items.extend, Metrics())))


async def test_garbage_is_dropped_with_one_line_a_minute(
    taken: SimpleNamespace, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    good = events.published("b", b'{"n":1}')
    for message in [*GARBAGE, good.data, *GARBAGE]:
        taken.publications.take(message, PUBLISHED)
    assert taken.items == [good]
    (line,) = caplog.messages
    assert PUBLISHED in line
    await trio.sleep(WARN_SECONDS)
    for message in GARBAGE:
        taken.publications.take(message, PUBLISHED)
    _, line = caplog.messages
    assert f"{2 * len(GARBAGE) + 1} so far" in line


async def test_what_is_published_comes_between_what_the_log_brings(caplog: pytest.LogCaptureFixture) -> None:
    redis = Redis()
    async with following(redis) as follower:
        redis.append(1)
        redis.publish(2)
        for message in GARBAGE:
            redis.say(PUBLISHED, message)
        redis.append(3)
        redis.publish(4)
        await trio.testing.wait_all_tasks_blocked()
        assert follower.numbers == [1, -2, 3, -4]
        assert follower.states == [FeedState("redis")]
    assert redis.subscriptions == [(LIVE, CONTROL, PUBLISHED)]
    assert len(caplog.messages) == 1


async def test_it_is_no_heartbeat(autojump_clock: MockClock) -> None:
    """However much is published, a log without listeners is lost in time."""
    redis = Redis()
    async with following(redis) as follower:
        for number in range(40):
            redis.publish(number)
            await trio.sleep(0.1)
        assert follower.states[:2] == [FeedState("redis"), FeedState("none", "no listener has been heard for 3 s")]
        assert follower.numbers == [-number for number in range(40)]
        assert redis.opened >= 2


async def test_a_flood_of_it_is_no_heartbeat_either(autojump_clock: MockClock) -> None:
    redis = Redis()
    async with following(redis) as follower:
        redis.flooded = True
        redis.publish(0)
        await trio.sleep(HEARTBEAT_TIMEOUT_SECONDS + 1)
        assert follower.states[:2] == [FeedState("redis"), FeedState("none", "no listener has been heard for 3 s")]


async def test_a_beat_behind_much_that_was_published_is_found(autojump_clock: MockClock) -> None:
    """As after a pause of this process: all that was said meanwhile waits, the listener's beats behind the rest."""
    redis = Redis()
    async with following(redis) as follower:
        redis.say(CONTROL, b"")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            autojump_clock.autojump_threshold = math.inf
            autojump_clock.jump(HEARTBEAT_TIMEOUT_SECONDS + 1)
            for number in range(20):
                redis.publish(number)
            redis.beat()
            autojump_clock.autojump_threshold = 0
            await trio.testing.wait_all_tasks_blocked()
        assert follower.states == [FeedState("redis")]
        assert len(follower.numbers) == 60
        assert redis.opened == 1


async def test_it_is_delivered_while_no_listener_beats_and_the_log_is_not_joined(autojump_clock: MockClock) -> None:
    redis = Redis()
    redis.beating = False
    async with following(redis) as follower:
        await trio.sleep(HEARTBEAT_TIMEOUT_SECONDS + 1)
        assert {state.mode for state in follower.states} == {"none"}
        redis.publish(1)
        await trio.testing.wait_all_tasks_blocked()
        assert follower.numbers == [-1]
