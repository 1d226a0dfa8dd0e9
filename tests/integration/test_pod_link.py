"""A pod on real servers whose processes are stopped and killed: workers and their listener lose nothing silently."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.pod_process import pod
from tests.support.process import wait_until
from tests.support.stack import Stack
from tests.support.workers import sessions, traffic, without_redis
from tests.support.workers import settings as settings


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_for_sessions(stack: Stack, *expected: str) -> None:
    """Wait until exactly these listen, as the database shows it."""
    wait_until(lambda: sessions(stack) == list(expected), lambda: str(sessions(stack)))


def test_a_stopped_listener_is_stood_in_for_and_nothing_is_lost(stack: Stack, settings: dict[str, str]) -> None:
    with pod(without_redis(settings)) as running, traffic(stack, running.running) as flowing:
        with stopped(running.pid("listener")):
            wait_for_sessions(stack, "bridge fallback", "bridge fallback", "bridge listener")
            flowing.flow()
        wait_for_sessions(stack, "bridge listener")
        flowing.flow()
        flowing.settle()


def test_a_killed_listener_is_one_announced_gap(stack: Stack, settings: dict[str, str]) -> None:
    with pod(without_redis(settings)) as running, traffic(stack, running.running) as flowing:
        running.wait_for_successor("listener", running.kill("listener"))
        wait_for_sessions(stack, "bridge listener")
        flowing.flow()
        flowing.settle(gaps=1)


def test_a_stopped_worker_misses_nothing(stack: Stack, settings: dict[str, str]) -> None:
    with pod(without_redis(settings)) as running, traffic(stack, running.running) as flowing:
        with stopped(running.pid("worker 1")):
            time.sleep(5)  # longer than the outlet waits for it
        wait_for_sessions(stack, "bridge listener")
        flowing.flow()
        flowing.settle()


def test_redis_and_the_listener_fail_one_inside_the_other(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings) as running, traffic(stack, running.running) as flowing:
        stack.redis.kill()
        try:
            flowing.flow()
            with stopped(running.pid("listener")):
                wait_for_sessions(stack, "bridge fallback", "bridge fallback", "bridge listener")
                flowing.flow()
            wait_for_sessions(stack, "bridge listener")
            flowing.flow()
        finally:
            stack.redis.start()
        running.wait_until_well()
        assert running.running.status()["mode"] == "redis"
        flowing.flow()
        flowing.settle()
