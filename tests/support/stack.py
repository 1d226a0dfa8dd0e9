"""A PostgreSQL and a Redis together, and parts of the bridge that run against them inside a test."""

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from bridge.core.events import Event, Filled, Gap
from bridge.feed.build import build_feed
from bridge.feed.delivery import Delivery, Item
from bridge.feed.feed import Feed
from bridge.feed.source import FeedState
from bridge.links.openers import RealLinks
from bridge.relay.relay import Relay
from bridge.settings import Settings
from bridge.stream import Mode
from bridge.telemetry import Metrics
from tests.support import postgres as pg
from tests.support import redis as rd

WAIT_SECONDS = 60.0
_prefixes = itertools.count()


def pairs() -> list[tuple[str, rd.Binary]]:
    """Every server once, in as few pairs as that takes; where not all servers are asked for, the newest of both."""
    kinds, binaries = pg.kinds(), rd.BINARIES
    if os.environ.get("BRIDGE_TEST_SERVERS") != "all":
        return [("embedded", binaries[-1])]
    return [(kinds[i % len(kinds)], binaries[i % len(binaries)]) for i in range(max(len(kinds), len(binaries)))]


@dataclass
class Stack:
    """Running servers, and settings that lead to them with a prefix of their own for each call."""

    postgres: pg.PostgresServer
    redis: rd.RedisServer

    def settings(self, **changes: Any) -> Settings:
        values: dict[str, Any] = {
            "database_url": self.postgres.url(),
            "use_redis_notifier": True,
            "redis_url": self.redis.url,
            "channels": ("a", "b"),
            "redis_prefix": f"test{next(_prefixes)}",
            "retry_seconds": 0.5,
        }
        return Settings(**(values | changes))

    def environment(self, **changes: str) -> dict[str, str]:
        """The same for a process with any channels, at a port that is free."""
        return {
            "DATABASE_URL": self.postgres.url(),
            "REDIS_URL": self.redis.url,
            "USE_REDIS_NOTIFIER": "true",
            "BRIDGE_REDIS_PREFIX": f"test{next(_prefixes)}",
            "BRIDGE_PORT": "0",
            "BRIDGE_RETRY_SECONDS": "0.5",
            **changes,
        }


@pytest.fixture(scope="module", params=pairs(), ids=lambda pair: f"{pair[0]}+{rd.name_of(pair[1])}")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Both servers, for the tests of one module."""
    kind, binary = request.param
    with pg.postgres_server(kind) as postgres, rd.running_redis(binary) as redis:
        yield Stack(postgres, redis)


@dataclass
class Reader:
    """A feed that collects what clients would get."""

    items: list[Item] = field(default_factory=list)
    feed: Feed | None = None
    _news: anyio.Event = field(default_factory=anyio.Event)

    def sink(self, items: Sequence[Item]) -> None:
        self.items += [item for item in items if not _lies_before_the_beginning(item)]
        self._news.set()

    @property
    def events(self) -> list[Event]:
        return [item for item in self.items if isinstance(item, Event)]

    @property
    def gaps(self) -> list[Gap]:
        """The final ones."""
        return [item for item in self.items if isinstance(item, Gap) and not item.pending]

    @property
    def pending(self) -> list[Gap]:
        return [item for item in self.items if isinstance(item, Gap) and item.pending]

    @property
    def filled(self) -> list[Filled]:
        return [item for item in self.items if isinstance(item, Filled)]

    async def mode(self, mode: Mode) -> None:
        assert self.feed is not None
        with anyio.fail_after(WAIT_SECONDS):
            await self.feed.state.wait_for(lambda state: state.mode == mode)

    async def until(self, predicate: Callable[[], object]) -> None:
        """Wait until the predicate holds, looking again whenever something arrives."""
        with anyio.move_on_after(WAIT_SECONDS):
            while not predicate():
                self._news = anyio.Event()
                await self._news.wait()
        assert predicate(), self.summary()

    def summary(self) -> str:
        """What has arrived, but for the events themselves; and the newest of these."""
        others = [item for item in self.items if not isinstance(item, Event)]
        state = self.feed.state.value if self.feed is not None else None
        return f"{len(self.events)} events, {self.events[-3:]} at the end; beside them {others}; {state}"

    async def live(self) -> None:
        assert self.feed is not None
        with anyio.fail_after(WAIT_SECONDS):
            await self.feed.state.wait_for(lambda state: state.mode != "none")


def _lies_before_the_beginning(item: Item) -> bool:
    """Whether it is a gap that no client is told of that was not elsewhere before."""
    return isinstance(item, Gap) and item.before is not None and item.after == item.before.beginning


async def start_relay(tasks: TaskGroup, settings: Settings) -> tuple[Relay, anyio.CancelScope]:
    """A relay that listens, and keeps up with the log if there is one; and the scope that ends it."""
    relay = Relay(settings, RealLinks(settings), Metrics(), with_redis=settings.use_redis_notifier)
    scope = anyio.CancelScope()

    async def run() -> None:
        with scope:
            await relay.run()

    tasks.start_soon(run)
    with anyio.fail_after(WAIT_SECONDS):
        await relay.listener.opened()
        if relay.publisher is not None:
            await relay.publisher.caught_up.wait_for(bool)
    return relay, scope


@asynccontextmanager
async def running_relay(settings: Settings) -> AsyncIterator[Relay]:
    """A relay for the body, cancelled at the end."""
    async with anyio.create_task_group() as tasks:
        relay, scope = await start_relay(tasks, settings)
        yield relay
        scope.cancel()


@asynccontextmanager
async def running_reader(settings: Settings, relay: Relay | None = None) -> AsyncIterator[Reader]:
    """A feed from the log; without Redis from this relay's tape, or from a session of its own. Live when it starts."""
    reader = Reader()
    delivery = Delivery(reader.sink, Metrics(), relay.timeline if relay else None)

    def ignore(state: FeedState) -> None: ...

    local = (relay.listener, relay.tape) if relay else None
    reader.feed = build_feed(settings, RealLinks(settings), local, delivery, ignore, Metrics())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.feed.run)
        await reader.live()
        yield reader
        tasks.cancel_scope.cancel()
