"""A log through a link, and what tests of it share. The fixtures are imported by the modules that use them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest
import trio

from bridge.core.events import Body, Entry, Marker, Notification
from bridge.core.position import Position
from bridge.links.redis import RedisLink, open_redis, parse_redis_url
from bridge.links.redis_log import Appended, LogState, RedisLog
from tests.support.redis import RedisServer

TERM = 3831627511627511297
"""Above 2^53, and odd, so that a float would spoil it."""
DIGEST = "0123abcd"
DATABASE = "7483647483647/16384"
EMPTY = LogState(None, None)
NUMBERS = count()


@pytest.fixture
def prefix() -> str:
    return f"log{next(NUMBERS)}"


@asynccontextmanager
async def linked(server: RedisServer, user: str = "") -> AsyncIterator[RedisLink]:
    target = parse_redis_url(f"redis://{user}127.0.0.1:{server.port}")
    async with open_redis(target, timeout_seconds=2, name="tests") as link:
        yield link


@pytest.fixture
async def link(redis_server: RedisServer) -> AsyncIterator[RedisLink]:
    async with linked(redis_server) as link:
        yield link


@pytest.fixture
async def subscriber(redis_server: RedisServer) -> AsyncIterator[RedisLink]:
    async with linked(redis_server) as link:
        yield link


@pytest.fixture
def log(link: RedisLink, prefix: str) -> RedisLog:
    return log_through(link, prefix)


def log_through(
    link: RedisLink, prefix: str, history_entries: int = 10_000, database: str | None = DATABASE
) -> RedisLog:
    return RedisLog(link, prefix, DIGEST, history_entries, database)


def at(seq: int, term: int = TERM) -> Position:
    return Position(term, seq)


def marker(term: int) -> Marker:
    return Marker(term, "nonce", DIGEST, "listener", "pg_notify")


def notes(*numbers: int) -> list[Body]:
    return [Notification("match_change", b'{"n":%d}' % number) for number in numbers]


async def appended(
    log: RedisLog, expected: LogState, first: Position, bodies: list[Body], publish_from: int = 0
) -> LogState:
    """The state after an append that must succeed without trouble."""
    result = await log.append(expected, first, bodies, publish_from)
    assert isinstance(result, Appended)
    assert result.troubles == ()
    assert result.state.tail == first.plus(len(bodies) - 1)
    return result.state


def positions(entries: list[Entry]) -> list[Position]:
    return [entry.position for entry in entries]


async def heard(subscriber: RedisLink, messages: int) -> list[tuple[bytes, bytes]]:
    """Exactly so many messages, in order."""
    got: list[tuple[bytes, bytes]] = []
    with trio.fail_after(30):
        while len(got) < messages:
            got += await subscriber.messages()
    assert len(got) == messages
    return got
