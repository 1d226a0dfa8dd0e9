"""What a network does: links that are cut, refused, stalled, half-open, slow or deaf, on either hop.

A listener and a worker whose links all go through proxies, and a second listener whose links do not. The same
measurements and the same oracle as in test_failover.py.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support import postgres as pg
from tests.support import redis as rd
from tests.support.bridge_log import IN_DIRECT, LOST, SWITCH, expect_in_order, tail, time_of
from tests.support.fleet import (
    HEARTBEAT_TIMEOUT_SECONDS,
    LISTENER,
    REDIS_TIMEOUT_SECONDS,
    WORKER,
    Fleet,
    Servers,
    Traffic,
    expect_no_gap,
    running_fleet,
    stall_from,
    through,
    wait_until_back,
)
from tests.support.fleet import postgres as postgres
from tests.support.fleet import redis as redis
from tests.support.fleet import servers as servers
from tests.support.process import wait_until
from tests.support.proxy import HALF_OPEN, STALLED, Proxy, Weather, only_pongs, proxy_of, subscribers
from tests.support.traffic import first_after, longest_delay

SWITCH_SECONDS = 10.0
STALL_SECONDS = 5.0
"""On a busy machine; a standby that did not step in would be a gap besides."""


class Hops:
    """The proxies, by whose links go through them."""

    def __init__(self, postgres: pg.PostgresServer, redis: rd.RedisServer, stack: ExitStack) -> None:
        def proxy(port: int) -> Proxy:
            return stack.enter_context(proxy_of(port))

        self.listener_postgres, self.worker_postgres = proxy(postgres.port), proxy(postgres.port)
        self.listener_redis, self.worker_redis = proxy(redis.port), proxy(redis.port)

    def heal(self) -> None:
        for proxy in (self.listener_postgres, self.worker_postgres, self.listener_redis, self.worker_redis):
            proxy.heal()


@pytest.fixture(scope="module")
def started_hops(servers: Servers) -> Iterator[tuple[Fleet, Hops]]:
    postgres, redis = servers
    with ExitStack() as stack, running_fleet(servers, "hops") as fleet:
        hops = Hops(postgres, redis, stack)

        def links(to_postgres: Proxy, to_redis: Proxy) -> dict[str, str]:
            return {
                "DATABASE_URL": through(postgres.url(), to_postgres.port),
                "REDIS_URL": through(redis.url, to_redis.port),
            }

        fleet.add("listener", LISTENER, **links(hops.listener_postgres, hops.listener_redis))
        fleet.add("worker", WORKER, **links(hops.worker_postgres, hops.worker_redis))
        fleet.add("standby", LISTENER)
        fleet.wait()
        yield fleet, hops


@pytest.fixture
def hopping(started_hops: tuple[Fleet, Hops]) -> Iterator[tuple[Fleet, Hops]]:
    fleet, hops = started_hops
    fleet.whole_again()
    try:
        yield fleet, hops
    finally:
        hops.heal()


def falls_back(fleet: Fleet, traffic: Traffic, hops: Hops, began: float, limit_seconds: float) -> None:
    """The worker is in direct mode and delivering within the limit, and back after the proxies healed."""
    worker = fleet.processes["worker"]
    switched = time_of(worker, IN_DIRECT, began) - began
    traffic.flow()
    delivering = first_after(traffic["worker"], traffic.writer, began + switched)
    hops.heal()
    wait_until_back(fleet, time.time())
    expect_in_order(worker, began, *SWITCH)
    assert switched + delivering <= limit_seconds, f"took {switched:.2f} s + {delivering:.2f} s\n{tail(worker, began)}"


def test_worker_refused_by_redis(hopping: tuple[Fleet, Hops]) -> None:
    fleet, hops = hopping
    with fleet.traffic("worker") as traffic:
        began = time.time()
        hops.worker_redis.refuse()
        falls_back(fleet, traffic, hops, began, SWITCH_SECONDS)
        traffic.settle(gaps=0)


@pytest.mark.parametrize("weather", [STALLED, HALF_OPEN], ids=["stalled", "half-open"])
def test_worker_no_longer_hears_redis(hopping: tuple[Fleet, Hops], weather: Weather) -> None:
    fleet, hops = hopping
    with fleet.traffic("worker") as traffic:
        began = time.time()
        hops.worker_redis.impose(weather)
        falls_back(fleet, traffic, hops, began, REDIS_TIMEOUT_SECONDS + SWITCH_SECONDS)
        traffic.settle(gaps=0)


def test_worker_deaf_on_its_subscription_alone(hopping: tuple[Fleet, Hops]) -> None:
    """PINGs are answered and the other connection works, but no message and no heartbeat arrives."""
    fleet, hops = hopping
    with fleet.traffic("worker") as traffic:
        began = time.time()
        hops.worker_redis.impose(Weather(deaf=only_pongs), subscribers, also_new=False)
        time.sleep(HEARTBEAT_TIMEOUT_SECONDS + 2.0)
        traffic.flow()
        longest = longest_delay(traffic["worker"], traffic.writer, began, time.time())
        assert longest <= HEARTBEAT_TIMEOUT_SECONDS + SWITCH_SECONDS, tail(fleet.processes["worker"], began)
        hops.heal()
        traffic.settle(gaps=0)
    fleet.wait_for_sessions(*["bridge listener"] * 2)


def test_slow_network_to_redis(hopping: tuple[Fleet, Hops]) -> None:
    fleet, hops = hopping
    with fleet.traffic("worker") as traffic:
        began = time.time()
        hops.worker_redis.impose(Weather(delay_seconds=0.1))
        hops.listener_redis.impose(Weather(delay_seconds=0.1))
        traffic.flow(2.0)
        hops.heal()
        traffic.settle(gaps=0)
        assert LOST not in tail(fleet.processes["worker"], began), "slow is not dead"


@pytest.mark.parametrize("weather", [None, STALLED, HALF_OPEN], ids=["cut", "stalled", "half-open"])
def test_listener_loses_redis_with_a_standby_there(hopping: tuple[Fleet, Hops], weather: Weather | None) -> None:
    fleet, hops = hopping
    with fleet.traffic("worker") as traffic:
        began = time.time()
        if weather is None:
            hops.listener_redis.refuse()
        else:
            hops.listener_redis.impose(weather)
        stall = stall_from(traffic, began)
        hops.heal()
        fleet.wait_until_healthy()
        traffic.flow()
        expect_no_gap(traffic, "worker")
        traffic.settle(gaps=0)
    assert stall <= STALL_SECONDS


@pytest.mark.parametrize("weather", [None, STALLED, HALF_OPEN], ids=["cut", "stalled", "half-open"])
def test_listener_loses_postgresql_with_a_standby_there(hopping: tuple[Fleet, Hops], weather: Weather | None) -> None:
    fleet, hops = hopping
    with fleet.traffic("worker") as traffic:
        began = time.time()
        if weather is None:
            hops.listener_postgres.refuse()
        else:
            hops.listener_postgres.impose(weather)
        stall = stall_from(traffic, began)
        wait_until(lambda: fleet.processes["listener"].get("/ready")[0] == 503, lambda: "still believed")
        hops.heal()
        hops.listener_postgres.cut()
        fleet.wait_until_healthy()
        traffic.flow()
        expect_no_gap(traffic, "worker")
        traffic.settle(gaps=0)
    assert stall <= STALL_SECONDS


def test_both_hops_of_a_worker_lost(hopping: tuple[Fleet, Hops]) -> None:
    """Nothing feeds it for a while, and it says so; then the log has all that it missed."""
    fleet, hops = hopping
    with fleet.traffic("worker") as traffic:
        hops.worker_redis.refuse()
        hops.worker_postgres.refuse()
        wait_until(lambda: fleet.processes["worker"].get("/ready")[0] == 503, lambda: "still believed")
        hops.heal()
        fleet.wait_until_healthy()
        traffic.flow()
        traffic.settle(gaps=0)
