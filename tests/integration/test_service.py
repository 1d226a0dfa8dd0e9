"""The whole bridge as processes on real servers: what a user sees of the main path."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import psycopg
import pytest
import redis

from tests.support.process import BridgeProcess, bridge, clean_environment, wait_until
from tests.support.stack import Stack

LISTENING = "SELECT application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' ORDER BY 1"


@pytest.fixture
def settings(stack: Stack) -> dict[str, str]:
    return stack.environment()


@contextmanager
def sessions(stack: Stack, expected: list[str]) -> Iterator[None]:
    """The predecessor's query shows these sessions, before the body and after it."""

    def now() -> list[str]:
        return [row[0] for row in stack.postgres.execute(LISTENING)]

    wait_until(lambda: now() == expected, lambda: f"{now()} listen, not {expected}")
    yield
    assert now() == expected


def send(stack: Stack, payload: str, channel: str = "match_change") -> None:
    stack.postgres.execute("SELECT pg_notify(%s, %s)", channel, payload)


def test_from_notify_to_a_client_through_redis(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings, "serve") as running:
        running.wait_until_ready()
        with sessions(stack, ["bridge listener"]), running.client("/ws/match/7/stats") as client:
            send(stack, '{"match_id": 7}')
            send(stack, '{"match_id": 8}')
            send(stack, '{"match_id": "7", "x": 1.0}', "scoreboard_change")
            first, second = client.take(2)
        assert (first["type"], first["channel"], first["payload"]) == ("notification", "match_change", {"match_id": 7})
        assert second["payload"] == {"match_id": "7", "x": 1.0}
        assert re.fullmatch(r"\d+-\d+", first["id"])
        status, body = running.get("/health")
        health = json.loads(body)
        assert (status, health["status"], health["mode"]) == (200, "ok", "redis")
        assert running.status()["links"]["redis"]["appending"] is True
        assert b"notify_bridge_deliveries_total 2.0" in running.get("/metrics")[1]


def test_a_server_without_listener_holds_no_session(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings, "listen") as listener, bridge(settings, "serve", "--no-listener") as server:
        listener.wait_until_ready()
        server.wait_until_ready()
        with sessions(stack, ["bridge listener"]), server.client("/ws?channel=match_change") as client:
            send(stack, "not json")
            assert client.next()["payload"] == "not json"
        assert listener.get("/ws")[0] == 404


@pytest.mark.parametrize(
    ("arguments", "expected"), [((), ["bridge listener"]), (("--no-listener",), ["bridge fallback"])]
)
def test_with_redis_off(
    stack: Stack, settings: dict[str, str], arguments: tuple[str, ...], expected: list[str]
) -> None:
    settings |= {"USE_REDIS_NOTIFIER": "false", "REDIS_URL": "redis://127.0.0.1:1"}
    with bridge(settings, "serve", *arguments) as running:
        running.wait_until_ready()
        with sessions(stack, expected), running.client() as client:
            send(stack, "")
            assert client.next()["payload"] == ""
        assert json.loads(running.get("/health")[1])["mode"] == "direct"


def test_three_listeners_publish_each_notification_once(stack: Stack, settings: dict[str, str]) -> None:
    with ExitStack() as listeners:
        for _ in range(3):
            listeners.enter_context(bridge(settings, "listen")).wait_until_ready()
        with sessions(stack, ["bridge listener"] * 3), redis.Redis(port=stack.redis.port) as client:
            events = client.pubsub(ignore_subscribe_messages=True)
            events.subscribe(f"{settings['BRIDGE_REDIS_PREFIX']}:events")
            events.get_message(timeout=30)
            for number in range(200):
                send(stack, str(number))
            send(stack, "last")
            seen: list[Any] = []
            wait_until(lambda: take(events, seen) and seen[-1] == "last", lambda: f"only {len(seen)} came")
            assert seen == [*range(200), "last"]
            time.sleep(0.6)  # longer than a standby waits before it appends what it believes to be missing
            take(events, seen)
            assert len(seen) == 201
            events.close()


def take(events: Any, seen: list[Any]) -> bool:
    while message := events.get_message():
        seen.append(json.loads(message["data"])["payload"])
    return bool(seen)


def test_a_hundred_thousand_in_one_transaction(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings, "serve") as running:
        running.wait_until_ready()
        with running.client() as client:
            before = resident_bytes(running)
            stack.postgres.execute(
                "SELECT count(pg_notify('match_change', json_build_object('n', n)::text)) "
                "FROM generate_series(1, 100000) n"
            )
            numbers = [message["payload"]["n"] for message in client.take(100_000)]
            assert numbers == list(range(1, 100_001))
            assert resident_bytes(running, "VmHWM") - before < 150e6
        wait_until(
            lambda: resident_bytes(running) - before < 75e6,
            lambda: f"it still holds {resident_bytes(running) - before} bytes more",
        )


def stamped(line: str) -> bool:
    return re.match(r"\d{4}-\d\d-\d\dT", line) is not None


def resident_bytes(running: BridgeProcess, what: str = "VmRSS") -> int:
    with open(f"/proc/{running.process.pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(what))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_everything_in_order_at_once(
    stack: Stack, settings: dict[str, str], number: signal.Signals
) -> None:
    with bridge(settings | {"BRIDGE_DRAIN_SECONDS": "60"}, "serve") as running:
        running.wait_until_ready()
        with running.client() as client:
            started = time.monotonic()
            assert running.end(number) == 0
            assert time.monotonic() - started < 50
            with pytest.raises(Exception, match="1001"):
                client.next()
        assert "Traceback" not in running.log()
        wait_until(lambda: not stack.postgres.execute(LISTENING), lambda: "a session is left")


def test_a_bridge_that_starts_first_waits_for_its_servers(stack: Stack, settings: dict[str, str]) -> None:
    stack.postgres.stop()
    stack.redis.stop()
    try:
        with bridge(settings, "serve") as running:
            wait_until(lambda: running.log().count("Reconnecting in") >= 2, running.log)
            assert running.get("/ready")[0] == 503
            status, body = running.get("/health")
            assert (status, json.loads(body)["status"]) == (200, "down")
            lines = running.log().splitlines()
            traced = [line for line, after in pairwise(lines) if "Connection error" in line and not stamped(after)]
            assert len(traced) == 2, "one stack trace for each link, at the first failure of its row"
            stack.redis.start()
            stack.postgres.start()
            running.wait_until_ready()
            with running.client() as client:
                send(stack, "1")
                assert client.next()["payload"] == 1
    finally:
        for server in (stack.redis, stack.postgres):
            server.stop()
            server.start()


def test_embedded_from_the_command_line(tmp_path: Any) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with bridge(environment, "serve", "--port", "0") as running:
        running.wait_until_ready()
        here: dict[str, Any] = {"env": clean_environment(environment), "cwd": tmp_path, "text": True}
        command = [sys.executable, "-m", "bridge"]
        here["env"]["PYTHONPATH"] = sys.path[0] if sys.path[0] else "."
        tail = subprocess.Popen([*command, "tail", "--json"], stdout=subprocess.PIPE, **here)
        assert tail.stdout is not None
        try:
            assert json.loads(tail.stdout.readline())["type"] == "subscribed"
            subprocess.run([*command, "notify", "match_change", '{"match_id": 7}'], check=True, timeout=30, **here)
            assert json.loads(tail.stdout.readline())["payload"] == {"match_id": 7}
        finally:
            tail.kill()
            tail.wait()
            tail.stdout.close()
        with psycopg.connect(re.findall(r"postgresql://\S+", running.log())[0].rstrip(".,;")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert running.end() == 0
