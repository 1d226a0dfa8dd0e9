"""Another Redis takes over at the same address: a replica in step or behind, an empty one, or one with an old state.

The same measurements and the same oracle as in test_failover.py. The log must go on where it was, with the same
numbers, and nobody may miss anything: what the new server lacks, the listeners have.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support import redis as rd
from tests.support.bridge_log import SWITCH, expect_in_order
from tests.support.fleet import (
    LISTENER,
    WHOLE,
    WORKER,
    Fleet,
    Servers,
    expect_no_gap,
    running_fleet,
    through,
    wait_until_back,
)
from tests.support.fleet import redis as redis
from tests.support.fleet import servers as servers
from tests.support.process import wait_until
from tests.support.proxy import Proxy, proxy_of
from tests.support.sentinel import watched_pair


@pytest.fixture
def moving(servers: Servers) -> Iterator[tuple[Fleet, Proxy, rd.RedisServer]]:
    """Three processes whose Redis is behind one proxy, and another Redis that it does not lead to yet."""
    postgres, redis = servers
    with ExitStack() as stack:
        other = stack.enter_context(rd.running_redis(redis.binary))
        proxy = stack.enter_context(proxy_of(redis.port))
        fleet = stack.enter_context(running_fleet((postgres, redis), f"moving{other.port}"))
        for name, arguments in {"listener": LISTENER, "worker": WORKER, "whole": WHOLE}.items():
            fleet.add(name, arguments, REDIS_URL=through(redis.url, proxy.port))
        fleet.wait()
        yield fleet, proxy, other


def replicate(source: rd.RedisServer, replica: rd.RedisServer) -> None:
    """Make the replica as new as the source."""
    source.command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    replica.command("REPLICAOF", "127.0.0.1", source.port)
    wait_until(lambda: replica.command("ROLE")[3] == b"connected", lambda: f"{replica.command('ROLE')}")


@pytest.mark.parametrize("state", ["in step", "behind", "empty"])
def test_another_redis_takes_over(
    moving: tuple[Fleet, Proxy, rd.RedisServer], redis: rd.RedisServer, state: str
) -> None:
    fleet, proxy, other = moving
    with fleet.traffic("worker", "whole") as traffic:
        if state != "empty":
            replicate(redis, other)
            traffic.flow()
        if state == "behind":
            other.command("REPLICAOF", "NO", "ONE")
            traffic.flow()
        proxy.target_port = other.port
        proxy.cut()
        if state == "in step":
            other.command("REPLICAOF", "NO", "ONE")
        traffic.flow()
        fleet.wait_until_healthy()
        traffic.flow()
        expect_no_gap(traffic, "whole")
        terms = {arrival.message["id"].partition("-")[0] for arrival in traffic["whole"].of_type("notification")[-50:]}
        assert terms == {traffic["whole"].of_type("notification")[0].message["id"].partition("-")[0]}
        traffic.settle(gaps=0)
    fleet.wait_for_sessions(*["bridge listener"] * 2)


def test_an_old_state_comes_back_and_goes_again(
    moving: tuple[Fleet, Proxy, rd.RedisServer], redis: rd.RedisServer
) -> None:
    """To and fro between two servers, of which each lacks what the other one got."""
    fleet, proxy, other = moving
    with fleet.traffic("worker", "whole") as traffic:
        replicate(redis, other)
        other.command("REPLICAOF", "NO", "ONE")
        for server in (other, redis, other, redis):
            traffic.flow()
            proxy.target_port = server.port
            proxy.cut()
        traffic.flow()
        fleet.wait_until_healthy()
        expect_no_gap(traffic, "whole")
        traffic.settle(gaps=0)


def test_sentinel_promotes_the_replica_of_a_killed_master(servers: Servers) -> None:
    """PostgreSQL feeds the worker until Sentinel has decided; then everything goes on at the new master."""
    with watched_pair(servers[1].binary) as watched, running_fleet(servers, "sentinel") as fleet:
        for name, arguments in {"listener": LISTENER, "worker": WORKER, "whole": WHOLE}.items():
            fleet.add(name, arguments, REDIS_URL=watched.url)
        fleet.wait()
        with fleet.traffic("worker", "whole") as traffic:
            killed, master = time.time(), watched.master
            master.kill()
            traffic.flow()
            wait_until(lambda: watched.master is not master, lambda: "no failover")
            promoted = time.time()
            back = wait_until_back(fleet, promoted)
            print(f"promoted after {promoted - killed:.2f} s, back in Redis mode {back:.2f} s later")
            fleet.wait_until_healthy()
            traffic.flow()
            expect_in_order(fleet.processes["worker"], killed, *SWITCH)
            expect_no_gap(traffic, "whole")
            traffic.settle(gaps=0)
