"""How a bridge ends while clients are connected, as a process on real servers."""

import http.client
import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets.sync.client
from websockets.exceptions import InvalidStatus

from tests.support.process import BridgeProcess, JsonClient, bridge, wait_until
from tests.support.stack import Stack

DRAIN_SECONDS = 8.0
"""So long that a busy machine does not take a quarter of it for anything else."""
COUNT = 40


@pytest.fixture
def settings(stack: Stack) -> dict[str, str]:
    return {
        "DATABASE_URL": stack.postgres.url(),
        "BRIDGE_CHANNELS": "match_change",
        "BRIDGE_PORT": "0",
        "BRIDGE_DRAIN_SECONDS": str(DRAIN_SECONDS),
    }


@contextmanager
def clients(running: BridgeProcess, count: int) -> Iterator[list[JsonClient]]:
    with ExitStack() as all_of_them:
        yield [all_of_them.enter_context(running.client()) for _ in range(count)]


def close_of(client: JsonClient) -> tuple[int, str]:
    protocol = client.connection.protocol
    assert protocol.close_rcvd is not None
    return protocol.close_rcvd.code, protocol.close_rcvd.reason


def closed(client: JsonClient) -> bool:
    return client.connection.protocol.close_rcvd is not None


def stream(running: BridgeProcess) -> tuple[int, str | None, bytes]:
    """Status, type and whole body of a request for a stream of events."""
    connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=30)
    try:
        connection.request("GET", "/sse")
        response = connection.getresponse()
        return response.status, response.headers["content-type"], response.read()
    finally:
        connection.close()


def test_clients_leave_one_after_the_other_and_hear_everything_until_then(
    stack: Stack, settings: dict[str, str]
) -> None:
    with bridge(settings, "serve") as running, clients(running.wait_until_ready(), COUNT) as connected:
        started = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: running.get("/ready")[0] == 503, lambda: "still ready")
        health = json.loads(running.get("/health")[1])
        assert (health["status"], health["draining"]) == ("ok", True)
        with pytest.raises(InvalidStatus) as refused:
            websockets.sync.client.connect(running.url.replace("http", "ws", 1) + "/ws", proxy=None)
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["Retry-After"]) > 0
        status, content_type, body = stream(running)
        assert (status, content_type) == (200, "text/event-stream; charset=utf-8")
        assert re.fullmatch(rb"retry: \d+\n\n", body)
        left: dict[int, float] = {}

        def all_left() -> bool:
            for number, client in enumerate(connected):
                if number not in left and closed(client):
                    left[number] = time.monotonic() - started
            return len(left) == COUNT

        wait_until(lambda: all_left() or len(left) > COUNT / 3, lambda: f"only {len(left)} left")
        stack.postgres.execute("SELECT pg_notify('match_change', 'still here')")
        heard = [client for number, client in enumerate(connected) if number not in left]
        assert heard
        wait_until(all_left, lambda: f"only {len(left)} left")
        assert running.process.wait(60) == 0
        took = time.monotonic() - started
        assert DRAIN_SECONDS * 0.9 < took < DRAIN_SECONDS + 40
        times = sorted(left.values())
        assert times[COUNT // 4] < DRAIN_SECONDS / 2 < times[3 * COUNT // 4]
        for client in connected:
            code, reason = close_of(client)
            assert code == 1001
            assert re.fullmatch(r"retry=[1-9]\d*", reason)
        payloads: list[Any] = [client.next()["payload"] for client in heard[-COUNT // 8 :]]
        assert payloads == ["still here"] * len(payloads)
        assert "Traceback" not in running.log()


def test_a_second_signal_ends_it_at_once(stack: Stack, settings: dict[str, str]) -> None:
    settings["BRIDGE_DRAIN_SECONDS"] = "60"
    with bridge(settings, "serve") as running, clients(running.wait_until_ready(), 5) as connected:
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: running.get("/ready")[0] == 503, lambda: "still ready")
        started = time.monotonic()
        assert running.end(signal.SIGINT) == 0
        assert time.monotonic() - started < 50
        wait_until(lambda: all(map(closed, connected)), lambda: "somebody was not told")
        assert {close_of(client)[0] for client in connected} == {1001}


def test_sighup_while_it_starts_and_while_it_ends_changes_nothing(settings: dict[str, str]) -> None:
    with bridge(settings, "serve") as running:
        for _ in range(50):
            running.process.send_signal(signal.SIGHUP)
        running.wait_until_ready()
        running.process.send_signal(signal.SIGTERM)
        with suppress(ProcessLookupError):
            while running.process.poll() is None:
                running.process.send_signal(signal.SIGHUP)
        assert running.process.wait(60) == 0, running.log()


def test_sighup_ends_nothing(stack: Stack, settings: dict[str, str]) -> None:
    settings["BRIDGE_DRAIN_SECONDS"] = "60"
    with bridge(settings, "serve") as running, clients(running.wait_until_ready(), 1) as connected:
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "Received SIGHUP" in running.log(), running.log)
        stack.postgres.execute("SELECT pg_notify('match_change', 'x')")
        assert connected[0].next()["payload"] == "x"
        started = time.monotonic()
        assert running.end() == 0
        assert time.monotonic() - started < 50, "one client takes no share of the time for all"
