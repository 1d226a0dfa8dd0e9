"""Takeover, measured: three listeners, of which one appends, and a worker that must not notice when it fails.

The same measurements and the same oracle as in test_failover.py.
"""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support import postgres as pg
from tests.support.bridge_log import IN_DIRECT, LOST, SWITCH, expect_in_order, tail, time_of
from tests.support.fleet import (
    HEARTBEAT_TIMEOUT_SECONDS,
    LISTENER,
    WORKER,
    Fleet,
    Servers,
    best_of,
    expect_no_gap,
    running_fleet,
    stall_from,
)
from tests.support.fleet import postgres as postgres
from tests.support.fleet import redis as redis
from tests.support.fleet import servers as servers
from tests.support.process import wait_until

STALL_SECONDS = 0.9
"""Half a second, and some more on a busy machine; without a takeover it is `HEARTBEAT_TIMEOUT_SECONDS` or longer."""
LATER_SECONDS = 10.0


@pytest.fixture(scope="module")
def started_standbys(servers: Servers) -> Iterator[Fleet]:
    with running_fleet(servers, "standbys") as fleet:
        for number in range(3):
            fleet.add(f"listener {number}", LISTENER)
        fleet.add("worker", WORKER)
        fleet.wait()
        yield fleet


@pytest.fixture
def standbys(started_standbys: Fleet) -> Fleet:
    started_standbys.whole_again()
    return started_standbys


def appender(fleet: Fleet) -> str:
    """The name of the listener that has the initiative, once only one has it."""
    found: list[str] = []

    def alone() -> bool:
        listeners = [name for name in fleet.processes if name.startswith("listener")]
        found[:] = [n for n in listeners if fleet.processes[n].status()["links"]["redis"]["appending"]]
        return len(found) == 1

    wait_until(alone, lambda: f"{found} have the initiative")
    return found[0]


def test_the_appending_listener_killed(standbys: Fleet) -> None:
    with standbys.traffic("worker") as traffic:

        def kill() -> float:
            standbys.whole_again()
            process = standbys.processes[appender(standbys)].process
            began = time.time()
            process.kill()
            return stall_from(traffic, began)

        best_of(kill, STALL_SECONDS, "appending listener killed: stall")
        expect_no_gap(traffic, "worker")
        traffic.settle(gaps=0)


def test_the_appending_listeners_session_terminated(standbys: Fleet, postgres: pg.PostgresServer) -> None:
    with standbys.traffic("worker") as traffic:

        def terminate() -> float:
            standbys.wait_until_healthy()
            pid = standbys.session_of(appender(standbys))
            began = time.time()
            postgres.execute("SELECT pg_terminate_backend(%s)", pid)
            return stall_from(traffic, began)

        best_of(terminate, STALL_SECONDS, "appending listener's session terminated: stall")
        expect_no_gap(traffic, "worker")
        traffic.settle(gaps=0)


def test_the_appending_listener_stopped_and_woken(standbys: Fleet) -> None:
    with standbys.traffic("worker") as traffic:

        def stop() -> float:
            process = standbys.processes[appender(standbys)].process
            began = time.time()
            os.kill(process.pid, signal.SIGSTOP)
            try:
                return stall_from(traffic, began)
            finally:
                time.sleep(1.0)
                os.kill(process.pid, signal.SIGCONT)
                traffic.flow()

        best_of(stop, STALL_SECONDS, "appending listener stopped: stall")
        expect_no_gap(traffic, "worker")
        traffic.settle(gaps=0)


def test_a_worker_stopped_and_woken(standbys: Fleet) -> None:
    with standbys.traffic("worker") as traffic:
        process = standbys.processes["worker"].process
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(HEARTBEAT_TIMEOUT_SECONDS + 1)
        woken = time.time()
        os.kill(process.pid, signal.SIGCONT)
        traffic.flow()
        traffic.settle(gaps=0)
        assert LOST not in tail(standbys.processes["worker"], woken), "a paused process took Redis for dead"


def test_no_listener_is_left(standbys: Fleet) -> None:
    """The worker hears for itself; what nobody heard is one gap. Back in Redis mode with the first listener."""
    worker = standbys.processes["worker"]
    with standbys.traffic("worker") as traffic:
        killed = time.time()
        for name, process in standbys.processes.items():
            if name != "worker":
                process.process.kill()
        switched = time_of(worker, IN_DIRECT, killed) - killed
        assert switched <= HEARTBEAT_TIMEOUT_SECONDS + LATER_SECONDS, tail(worker, killed)
        traffic.flow()
        standbys.whole_again()
        standbys.wait_for_sessions(*["bridge listener"] * 3)
        traffic.settle(gaps=1)
        expect_in_order(worker, killed, *SWITCH)
