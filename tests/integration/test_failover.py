"""Failover, measured: real servers and processes, 300 notifications a second flowing, one fault of a server at a time.

Each test makes a fault, measures what the bridge promises about it, and then has every client judged by the oracle:
everything that was committed came once and in order, or a gap said where not. A limit is met if one of five
measurements meets it.
"""

import time
from collections.abc import Iterator

import pytest

from tests.support import postgres as pg
from tests.support import redis as rd
from tests.support.bridge_log import IN_DIRECT, LOST, SWITCH, expect_in_order, tail, time_of
from tests.support.fleet import (
    HEARTBEAT_TIMEOUT_SECONDS,
    LISTENER,
    REDIS_TIMEOUT_SECONDS,
    RETRY_SECONDS,
    WHOLE,
    WORKER,
    Fleet,
    Servers,
    Traffic,
    best_of,
    expect_no_gap,
    running_fleet,
    wait_until_back,
)
from tests.support.fleet import postgres as postgres
from tests.support.fleet import redis as redis
from tests.support.fleet import servers as servers
from tests.support.process import wait_until
from tests.support.traffic import first_after, longest_stall

SWITCH_SECONDS = 0.6
"""A lost connection is noticed at once; everything else that notices it takes `REDIS_TIMEOUT_SECONDS` or longer."""
STALL_SECONDS = 0.6
BACK_SECONDS = RETRY_SECONDS + 20.0
LATER_SECONDS = 10.0
"""What a busy machine may add where nothing happens twice: it may get no processor for a while, or very little."""
SYNCHRONOUS_SECONDS = 10.0


@pytest.fixture(scope="module")
def started_three(servers: Servers) -> Iterator[Fleet]:
    with running_fleet(servers, "three") as fleet:
        fleet.add("listener", LISTENER)
        servers[0].execute("CREATE ROLE fallback LOGIN")
        fleet.add("worker", WORKER, DATABASE_URL=servers[0].url(user="fallback"))
        fleet.add("whole", WHOLE)
        fleet.wait()
        yield fleet


@pytest.fixture
def three(started_three: Fleet) -> Fleet:
    started_three.whole_again()
    started_three.wait_for_sessions(*["bridge listener"] * 2)
    return started_three


def test_redis_killed(three: Fleet, redis: rd.RedisServer) -> None:
    worker = three.processes["worker"]
    with three.traffic("worker", "whole") as traffic:

        def kill() -> float:
            killed = time.time()
            redis.kill()
            try:
                switched = time_of(worker, IN_DIRECT, killed) - killed
                traffic.flow(2.0)
                three.wait_for_sessions("bridge fallback", *["bridge listener"] * 2)
                for process in (worker, three.processes["whole"]):
                    health = process.status()
                    assert (health["status"], health["mode"]) == ("degraded", "direct")
                    assert process.get("/ready")[0] == 200
                delivering = first_after(traffic["worker"], traffic.writer, killed)
                own = longest_stall(traffic["whole"], killed - 0.1, time.time())
            finally:
                redis.start()
            returned = time.time()
            backs.append(wait_until_back(three, returned))
            expect_in_order(worker, killed, *SWITCH)
            traffic.flow()
            return max(switched, delivering, own)

        backs: list[float] = []
        best_of(kill, SWITCH_SECONDS, "Redis killed: direct, and delivering")
        best_of(lambda: min(backs), BACK_SECONDS, "Redis returned: back in Redis mode, session closed", attempts=1)
        expect_no_gap(traffic, "whole")
        traffic.settle(gaps=0)


def test_redis_stopped(three: Fleet, redis: rd.RedisServer) -> None:
    with three.traffic("worker", "whole") as traffic:

        def stop() -> float:
            began = time.time()
            with redis.paused():
                switched = time_of(three.processes["worker"], IN_DIRECT, began) - began
                time.sleep(0.2)
                delivering = first_after(traffic["worker"], traffic.writer, began + switched) + switched
            woken = time.time()
            best_of(lambda: wait_until_back(three, woken), BACK_SECONDS, "Redis woken: back in Redis mode", attempts=1)
            expect_in_order(three.processes["worker"], began, *SWITCH)
            return max(switched, delivering)

        best_of(stop, REDIS_TIMEOUT_SECONDS + 0.5, "Redis stopped: direct, and delivering")
        expect_no_gap(traffic, "whole")
        traffic.settle(gaps=0)


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
def test_client_kill(three: Fleet, redis: rd.RedisServer, kind: str) -> None:
    with three.traffic("worker", "whole") as traffic:

        def kill() -> float:
            began = time.time()
            assert redis.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes") > 0
            traffic.flow()
            stalls = [longest_stall(traffic[name], began - 0.1, time.time()) for name in ("worker", "whole")]
            three.wait_until_healthy()
            return max(stalls)

        best_of(kill, STALL_SECONDS, f"connections ({kind}) killed in Redis: stall")
        traffic.settle(gaps=0)
        three.wait_for_sessions(*["bridge listener"] * 2)


def test_redis_emptied(three: Fleet, redis: rd.RedisServer) -> None:
    with three.traffic("worker", "whole") as traffic:
        for _ in range(3):
            redis.command("FLUSHALL")
            traffic.flow()
        traffic.settle(gaps=0)


def refusing(three: Fleet, redis: rd.RedisServer, traffic: Traffic, began: float) -> None:
    """While Redis takes no entries all clients go on; heartbeats would be a lie."""
    worker = three.processes["worker"]
    switched = time_of(worker, IN_DIRECT, began) - began
    assert switched <= HEARTBEAT_TIMEOUT_SECONDS + LATER_SECONDS, (
        f"the worker took {switched:.1f} s\n{tail(worker, began)}"
    )
    traffic.flow()
    assert three.names() == ["bridge fallback", "bridge listener", "bridge listener"]
    assert worker.status()["mode"] == "direct"


def test_redis_out_of_memory(three: Fleet, redis: rd.RedisServer) -> None:
    with three.traffic("worker", "whole") as traffic:
        began = time.time()
        with redis.configured(maxmemory=1, maxmemory_policy="noeviction"):
            refusing(three, redis, traffic, began)
        wait_until_back(three, time.time())
        traffic.flow()
        traffic.settle(gaps=0)


def test_redis_becomes_a_replica_that_refuses_writes(three: Fleet, redis: rd.RedisServer) -> None:
    with three.traffic("worker", "whole") as traffic:
        began = time.time()
        redis.command("REPLICAOF", "127.0.0.1", pg.free_port())
        try:
            refusing(three, redis, traffic, began)
        finally:
            redis.command("REPLICAOF", "NO", "ONE")
        wait_until_back(three, time.time())
        traffic.flow()
        traffic.settle(gaps=0)


def test_redis_flaps(three: Fleet, redis: rd.RedisServer) -> None:
    with three.traffic("worker", "whole") as traffic:
        for _ in range(4):
            redis.kill()
            time.sleep(0.3)
            redis.start()
            time.sleep(0.4)
        three.wait_until_healthy()
        expect_no_gap(traffic, "whole")
        traffic.settle(gaps=0)
    three.wait_for_sessions(*["bridge listener"] * 2)


def test_the_fallback_session_is_lost_too(three: Fleet, postgres: pg.PostgresServer, redis: rd.RedisServer) -> None:
    """What the worker misses meanwhile the listeners have heard: it comes late, and nothing is lost."""
    with three.traffic("worker", "whole") as traffic:
        redis.kill()
        try:
            three.wait_for_sessions("bridge fallback", *["bridge listener"] * 2)
            traffic.flow()
            (pid,) = [pid for name, pid in three.sessions() if name == "bridge fallback"]
            postgres.execute("SELECT pg_terminate_backend(%s)", pid)
            traffic.flow()
        finally:
            redis.start()
        wait_until_back(three, time.time())
        expect_no_gap(traffic, "whole")
        traffic.settle(gaps=0)


def test_postgresql_refuses_the_fallback(three: Fleet, postgres: pg.PostgresServer, redis: rd.RedisServer) -> None:
    """The server's words are in the log, attempts go on, and the worker recovers by either side's return."""
    worker = three.processes["worker"]
    with three.traffic("worker", "whole") as traffic:
        began = time.time()
        postgres.execute("ALTER ROLE fallback CONNECTION LIMIT 0")
        try:
            redis.kill()
            time_of(worker, LOST, began)
            wait_until(
                lambda: tail(worker, began).count("too many connections for role") >= 3, lambda: tail(worker, began)
            )
            assert worker.status()["mode"] == "none"
            assert worker.get("/ready")[0] == 503
        finally:
            postgres.execute("ALTER ROLE fallback CONNECTION LIMIT -1")
        time_of(worker, IN_DIRECT, began)
        traffic.flow()
        redis.start()
        wait_until_back(three, time.time())
        expect_no_gap(traffic, "whole")
        traffic.settle(gaps=0)


def test_postgresql_restarted(three: Fleet, postgres: pg.PostgresServer) -> None:
    with three.traffic("worker", "whole") as traffic:
        restarts = 0

        def restart() -> float:
            nonlocal restarts
            restarts += 1
            postgres.stop()
            postgres.start()
            returned = time.time()
            wait_until(lambda: traffic.writer.last in traffic.writer.confirmed, lambda: "no commit")
            time.sleep(1.2)
            traffic.flow()
            live = max(first_after(traffic[name], traffic.writer, returned) for name in ("worker", "whole"))
            three.wait_until_healthy()
            return live

        best_of(restart, RETRY_SECONDS + 1.0, "PostgreSQL restarted: live after its return")
        traffic.settle(gaps=restarts)
    three.wait_for_sessions(*["bridge listener"] * 2)


def test_a_commit_that_waits_for_a_synchronous_standby(three: Fleet, postgres: pg.PostgresServer) -> None:
    with three.traffic("worker", "whole") as traffic:
        before, began = three.sessions(), time.time()
        synchronous(postgres, "nobody")
        try:
            time.sleep(SYNCHRONOUS_SECONDS)
            held = traffic.writer.last
        finally:
            synchronous(postgres, "")
        wait_until(lambda: traffic.writer.last > held, lambda: "the writer still waits")
        traffic.flow()
        traffic.settle(gaps=0)
        expect_no_gap(traffic, "whole")
        for process in three.processes.values():
            assert "Connection error" not in tail(process, began)
        assert three.sessions() == before, "a session was thrown away"


def synchronous(postgres: pg.PostgresServer, standby: str) -> None:
    postgres.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{standby}'")
    postgres.execute("SELECT pg_reload_conf()")
