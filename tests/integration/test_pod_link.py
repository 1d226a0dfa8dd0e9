"""A pod on real servers whose processes are stopped and killed: workers and their listener lose nothing silently."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.fleet import Traffic
from tests.support.pod_process import PodProcess, pod
from tests.support.process import wait_until
from tests.support.stack import Stack
from tests.support.traffic import Writer, clients

LISTENING = "SELECT application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' ORDER BY 1"


@pytest.fixture
def with_redis(stack: Stack) -> dict[str, str]:
    return {
        "DATABASE_URL": stack.postgres.url(),
        "REDIS_URL": stack.redis.url,
        "USE_REDIS_NOTIFIER": "true",
        "BRIDGE_REDIS_PREFIX": stack.settings().redis_prefix,
        "BRIDGE_PORT": "0",
        "BRIDGE_RETRY_SECONDS": "0.5",
        "BRIDGE_DRAIN_SECONDS": "1",
    }


@pytest.fixture
def without_redis(with_redis: dict[str, str]) -> dict[str, str]:
    return with_redis | {"USE_REDIS_NOTIFIER": "false", "REDIS_URL": "redis://127.0.0.1:1"}


@contextmanager
def traffic(stack: Stack, running: PodProcess, count: int = 4) -> Iterator[Traffic]:
    """A writer, and clients at all workers."""
    writer = Writer(stack.postgres.url())
    with clients(*[running.running.url] * count) as made:
        flowing = Traffic(writer.start(), {f"client {n}": client for n, client in enumerate(made)})
        try:
            flowing.flow()
            yield flowing
        finally:
            writer.stop()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_for_sessions(stack: Stack, *expected: str) -> None:
    """Wait until exactly these listen, as the database shows it."""

    def listening() -> list[str]:
        return [row[0] for row in stack.postgres.execute(LISTENING)]

    wait_until(lambda: listening() == list(expected), lambda: str(listening()))


def test_a_stopped_listener_is_stood_in_for_and_nothing_is_lost(stack: Stack, without_redis: dict[str, str]) -> None:
    with pod(without_redis) as running, traffic(stack, running) as flowing:
        with stopped(running.pid("listener")):
            wait_for_sessions(stack, "bridge fallback", "bridge fallback", "bridge listener")
            flowing.flow()
        wait_for_sessions(stack, "bridge listener")
        flowing.flow()
        flowing.settle()


def test_a_killed_listener_is_one_announced_gap(stack: Stack, without_redis: dict[str, str]) -> None:
    with pod(without_redis) as running, traffic(stack, running) as flowing:
        running.wait_for_successor("listener", running.kill("listener"))
        wait_for_sessions(stack, "bridge listener")
        flowing.flow()
        flowing.settle(gaps=1)


def test_a_stopped_worker_misses_nothing(stack: Stack, without_redis: dict[str, str]) -> None:
    with pod(without_redis) as running, traffic(stack, running) as flowing:
        with stopped(running.pid("worker 1")):
            time.sleep(5)  # longer than the outlet waits for it
        wait_for_sessions(stack, "bridge listener")
        flowing.flow()
        flowing.settle()


def test_redis_and_the_listener_fail_one_inside_the_other(stack: Stack, with_redis: dict[str, str]) -> None:
    with pod(with_redis) as running, traffic(stack, running) as flowing:
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
