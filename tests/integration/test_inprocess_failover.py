"""Failover of the library: consumers of `bridge.open_feed` in this process, on every event loop, beside a listener.

The same faults as those of a worker, and the same oracle: nothing is lost silently, nothing comes twice, all in order.
"""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from tests.support import postgres as pg
from tests.support import redis as rd
from tests.support.bridge_log import tail
from tests.support.fleet import (
    HEARTBEAT_TIMEOUT_SECONDS,
    LISTENER,
    REDIS_TIMEOUT_SECONDS,
    RETRY_SECONDS,
    Fleet,
    Servers,
    Traffic,
    running_fleet,
    through,
)
from tests.support.fleet import postgres as postgres
from tests.support.fleet import redis as redis
from tests.support.fleet import servers as servers
from tests.support.following import Consumer, Following, following
from tests.support.loops import LOOPS, Loop
from tests.support.proxy import HALF_OPEN, Proxy, proxy_of
from tests.support.traffic import Reader, Writer

ALONE = ["bridge listener"]
FALLEN_BACK = ["bridge fallback", *ALONE]
SLOW_BYTES = 2000
SLOW_SECONDS = 0.001

_numbers = count(0, 1_000_000)


@dataclass
class Place:
    """One listener process with its servers, and how this process reaches them."""

    fleet: Fleet
    to_postgres: Proxy
    to_redis: Proxy
    settings: Mapping[str, Any]

    @contextmanager
    def traffic(self, readers: Mapping[str, Reader]) -> Iterator[Traffic]:
        """A writer, and these who read what it writes."""
        began = time.time()
        writer = Writer(self.fleet.postgres.url(), after=next(_numbers))
        try:
            yield Traffic(writer.start(), readers)
        except Exception as error:
            error.add_note(f"listener, seconds since {began:.3f}:\n{tail(self.fleet.processes['listener'], began)}")
            raise
        finally:
            writer.stop()

    @contextmanager
    def followed(self, *loops: Loop) -> Iterator[tuple[list[Following], Traffic]]:
        """On each of these loops a feed with a quick and a slow consumer, and traffic for them."""
        with ExitStack() as stack:
            feeds = []
            readers: dict[str, Reader] = {}
            for loop in loops:
                both = {"quick": Consumer(), "slow": Consumer(SLOW_BYTES, SLOW_SECONDS)}
                feeds.append(stack.enter_context(following(loop, self.settings, **both)))
                readers |= {f"{name} on {loop}": consumer for name, consumer in both.items()}
            traffic = stack.enter_context(self.traffic(readers))
            traffic.flow(0.2)
            self.fleet.wait_for_sessions(*ALONE)
            yield feeds, traffic
            self.fleet.wait_for_sessions(*ALONE)


@pytest.fixture(scope="module")
def started_place(servers: Servers) -> Iterator[Place]:
    postgres, redis = servers
    with (
        proxy_of(postgres.port) as to_postgres,
        proxy_of(redis.port) as to_redis,
        running_fleet(servers, "own") as fleet,
    ):
        fleet.add("listener", LISTENER)
        fleet.wait()
        settings = {
            "db_url": through(postgres.url(), to_postgres.port),
            "use_redis": True,
            "redis_url": through(redis.url, to_redis.port),
            "redis_prefix": "own",
            "retry_seconds": RETRY_SECONDS,
            "redis_timeout_seconds": REDIS_TIMEOUT_SECONDS,
            "heartbeat_timeout_seconds": HEARTBEAT_TIMEOUT_SECONDS,
            "probe_seconds": 1,
        }
        yield Place(fleet, to_postgres, to_redis, settings)


@pytest.fixture
def place(started_place: Place) -> Iterator[Place]:
    started_place.fleet.whole_again()
    try:
        yield started_place
    finally:
        started_place.to_postgres.heal()
        started_place.to_redis.heal()


def all_in(mode: Any, feeds: list[Following]) -> None:
    for feed in feeds:
        feed.wait_for_mode(mode)


@pytest.mark.parametrize("loop", LOOPS)
def test_redis_is_killed_and_comes_back_empty(loop: Loop, place: Place, redis: rd.RedisServer) -> None:
    with place.followed(loop) as (feeds, traffic):
        redis.kill()
        try:
            all_in("direct", feeds)
            place.fleet.wait_for_sessions(*FALLEN_BACK)
            traffic.flow(0.3)
        finally:
            redis.start()
        all_in("redis", feeds)
        place.fleet.wait_for_sessions(*ALONE)
        traffic.flow(0.2)
        traffic.settle(gaps=0)


def test_redis_ends_connections_and_loses_everything(place: Place, redis: rd.RedisServer) -> None:
    with place.followed(*LOOPS) as (_, traffic):
        for command in (("CLIENT", "KILL", "TYPE", "normal"), ("CLIENT", "KILL", "TYPE", "pubsub"), ("FLUSHALL",)):
            redis.command(*command)
            traffic.flow(0.3)
        traffic.settle(gaps=0)


def test_redis_is_stopped(place: Place, redis: rd.RedisServer) -> None:
    with place.followed(*LOOPS) as (feeds, traffic):
        with redis.paused():
            all_in("direct", feeds)
            traffic.flow(0.3)
        all_in("redis", feeds)
        traffic.settle(gaps=0)


def test_the_network_no_longer_answers(place: Place) -> None:
    """Half-open to Redis, and then no way to either server."""
    with place.followed(*LOOPS) as (feeds, traffic):
        place.to_redis.impose(HALF_OPEN)
        all_in("direct", feeds)
        traffic.flow(0.3)
        place.to_redis.refuse()
        place.to_postgres.refuse()
        all_in("none", feeds)
        time.sleep(0.3)
        place.to_redis.heal()
        place.to_postgres.heal()
        all_in("redis", feeds)
        traffic.flow(0.2)
        traffic.settle(gaps=0)


def test_the_fallback_session_is_terminated_too(
    place: Place, postgres: pg.PostgresServer, redis: rd.RedisServer
) -> None:
    with place.followed(*LOOPS) as (feeds, traffic):
        redis.kill()
        try:
            place.fleet.wait_for_sessions(*["bridge fallback"] * len(LOOPS), *ALONE)
            all_in("direct", feeds)
            for name, pid in place.fleet.sessions():
                if name == "bridge fallback":
                    postgres.execute("SELECT pg_terminate_backend(%s)", pid)
            traffic.flow(0.5)
        finally:
            redis.start()
        all_in("redis", feeds)
        traffic.flow(0.2)
        traffic.settle(gaps=0)


def test_the_only_listening_session_is_terminated(place: Place, postgres: pg.PostgresServer) -> None:
    with place.followed(*LOOPS) as (_, traffic):
        ((_, pid),) = place.fleet.sessions()
        postgres.execute("SELECT pg_terminate_backend(%s)", pid)
        traffic.flow(0.5)
        traffic.settle(gaps=1)


def test_the_listener_is_stopped(place: Place) -> None:
    """What it has not read meanwhile waits for it in PostgreSQL: nothing is lost."""
    with place.followed(*LOOPS) as (feeds, traffic):
        pid = place.fleet.processes["listener"].process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            all_in("direct", feeds)
            traffic.flow(0.3)
        finally:
            os.kill(pid, signal.SIGCONT)
        all_in("redis", feeds)
        traffic.flow(0.2)
        traffic.settle(gaps=0)


def test_the_listener_is_killed_and_started_again(place: Place) -> None:
    """What nobody heard between its death and the fallback is lost, and everybody is told so once."""
    with place.followed(*LOOPS) as (feeds, traffic):
        place.fleet.processes["listener"].end(signal.SIGKILL)
        all_in("direct", feeds)
        traffic.flow(0.3)
        place.fleet.whole_again()
        all_in("redis", feeds)
        traffic.flow(0.2)
        traffic.settle(gaps=1)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_feed_goes_on_where_another_one_ended(loop: Loop, place: Place, redis: rd.RedisServer) -> None:
    """From the cursor alone, while it was away for a restart of Redis."""
    consumer = Consumer()
    with place.traffic({"consumer": consumer}) as traffic:
        with following(loop, place.settings, consumer=consumer):
            traffic.flow(0.3)
        redis.kill()
        redis.start()
        place.fleet.wait_until_healthy()
        with following(loop, place.settings, consumer=consumer):
            traffic.flow(0.2)
            traffic.settle(gaps=0)
