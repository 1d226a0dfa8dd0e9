"""/metrics and /status of real processes on real servers: what they say is what happened, also while Redis is gone."""

import signal
from collections.abc import Callable
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge import __version__
from bridge.telemetry.metrics import Refusal
from tests.support.postgres import free_port
from tests.support.process import BridgeProcess, bridge, wait_until
from tests.support.stack import Stack

PREFIX = "notify_bridge_"
LATENCY = "latency_seconds"


class Scrape:
    """One reading of /metrics."""

    def __init__(self, text: str) -> None:
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.values[sample.name, frozenset(sample.labels.items())] = sample.value

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value of a series; None where there is none."""
        return self.values.get((PREFIX + name, frozenset(labels.items())))

    def at_most(self, seconds: float, leg: str) -> float | None:
        """So many batches took so long at most."""
        return self(f"{LATENCY}_bucket", leg=leg, le=str(seconds))


def scrape(running: BridgeProcess) -> Scrape:
    status, body = running.get("/metrics")
    assert status == 200
    return Scrape(body.decode())


def wait_for(running: BridgeProcess, condition: Callable[[Scrape], object]) -> Scrape:
    """A reading of which this holds."""
    found: list[Scrape] = []

    def holds() -> object:
        found[:] = [scrape(running)]
        return condition(found[0])

    wait_until(holds, lambda: f"it stays at {found[0].values if found else None}")
    return found[0]


@pytest.fixture
def settings(stack: Stack) -> dict[str, str]:
    return stack.environment(BRIDGE_CHANNELS="b,a", BRIDGE_PROBE_SECONDS="1", BRIDGE_MAX_CLIENTS="50")


def send(stack: Stack, payload: str = "{}") -> None:
    stack.postgres.execute("SELECT pg_notify('a', %s)", payload)


def test_one_process_with_everything(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings, "serve") as running:
        running.wait_until_ready()
        with running.client() as client:
            for _ in range(3):
                send(stack)
                client.next()
            wait_for(running, lambda now: now("probe_round_trip_seconds", link="postgres") is not None)
            found = wait_for(running, lambda now: now(f"{LATENCY}_count", leg="received_to_appended") == 3)
            assert found("build_info", version=__version__) == 1
            assert [found("mode", mode=mode) for mode in ("redis", "direct", "none")] == [1, 0, 0]
            assert (found("link_up", link="postgres"), found("link_up", link="redis")) == (1, 1)
            for link in ("postgres", "redis"):
                assert 0 < (found("probe_round_trip_seconds", link=link) or 0) < 5
            assert (found("clients"), found("max_clients"), found("draining"), found("pending_gaps")) == (1, 50, 0, 0)
            assert (found("notifications_received_total"), found("events_total")) == (3, 3)
            assert found("deliveries_total") == 3
            assert found("log_entries_appended_total") == 4, "the session's marker is an entry too"
            assert 0 <= (found("heartbeat_age_seconds") or 0) < 5
            assert found("backlog_oldest_seconds") == 0
            assert found(f"{LATENCY}_count", leg="received_to_delivered") == 3
            assert found(f"{LATENCY}_count", leg="received_to_appended") == 3
            assert found(f"{LATENCY}_count", leg="log_to_delivered") == 0
            delivered, appended = (
                found(f"{LATENCY}_sum", leg=leg) or 0 for leg in ("received_to_delivered", "received_to_appended")
            )
            assert appended > 0
            assert 0 < delivered < 20
            status = running.status()
        expected = {"embedded": False, "auth": "none", "max_clients": 50, "buffered_bytes": 0, "slow_disconnects": 0}
        assert {name: status[name] for name in expected} == expected
        assert status["channels"] == ["a", "b"]
        assert 0 < status["uptime_seconds"] < 60
        assert status["latency"]["samples"] == 3
        assert status["latency"]["leg"] == "received_to_delivered"
        assert 0 < status["latency"]["p50_ms"] <= status["latency"]["p99_ms"] < 20_000
        assert status["links"]["redis"]["round_trip_seconds"] > 0


def test_listener_and_server_apart(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings, "listen") as listener, bridge(settings, "serve", "--no-listener") as server:
        listener.wait_until_ready()
        server.wait_until_ready()
        with server.client() as client:
            send(stack)
            client.next()
        heard = wait_for(listener, lambda now: now(f"{LATENCY}_count", leg="received_to_appended"))
        told = scrape(server)
        assert heard(f"{LATENCY}_count", leg="received_to_appended") == 1
        assert heard(f"{LATENCY}_count", leg="received_to_delivered") == 0
        assert (heard("link_up", link="postgres"), heard("link_up", link="redis")) == (1, 1)
        assert heard("mode", mode="redis") == 1
        assert told(f"{LATENCY}_count", leg="log_to_delivered") == 1
        assert told(f"{LATENCY}_count", leg="received_to_delivered") == 0, "this process received nothing"
        assert told("notifications_received_total") == 0
        assert (told("link_up", link="postgres"), told("link_up", link="redis")) == (None, 1)
        assert told("probe_round_trip_seconds", link="postgres") is None
        beaten = wait_for(server, lambda now: now("probe_round_trip_seconds", link="redis") is not None)
        assert 0 < (beaten("probe_round_trip_seconds", link="redis") or 0) < 5
        status = listener.status()
        assert (status["latency"]["leg"], status["latency"]["samples"]) == ("received_to_appended", 1)
        assert status["channels"] == ["a", "b"]
        assert (status["embedded"], status["uptime_seconds"] > 0) == (False, True)
        assert server.status()["latency"]["leg"] == "log_to_delivered"


def test_directly_from_postgresql(stack: Stack, settings: dict[str, str]) -> None:
    direct = settings | {"USE_REDIS_NOTIFIER": "false"}
    for arguments in (("serve",), ("serve", "--no-listener")):
        with bridge(direct, *arguments) as running:
            running.wait_until_ready()
            with running.client() as client:
                send(stack)
                client.next()
            found = scrape(running)
            assert found(f"{LATENCY}_count", leg="received_to_delivered") == 1
            assert found("notifications_received_total") == 1
            assert (found("link_up", link="postgres"), found("link_up", link="redis")) == (1, None)
            assert found("probe_round_trip_seconds", link="redis") is None
            assert found("mode", mode="direct") == 1
            assert (found("backlog_entries"), found("backlog_oldest_seconds")) == (0, 0)
            assert running.status()["latency"]["leg"] == "received_to_delivered"


def test_while_redis_is_gone(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings, "listen") as listener, bridge(settings, "serve", "--no-listener") as server:
        listener.wait_until_ready()
        server.wait_until_ready()
        with server.client() as client:
            stack.redis.kill()
            try:
                fallen = wait_for(server, lambda now: now("mode", mode="direct") == 1)
                assert (fallen("link_up", link="postgres"), fallen("link_up", link="redis")) == (1, 0)
                assert (fallen("pending_gaps"), fallen("switches_total")) == (1, 1)
                assert (fallen("reconnects_total", link="redis") or 0) >= 1
                assert fallen("gaps_total", reason="failover", scope="process") == 0, "a pending gap is no loss"
                send(stack)
                assert client.next()["pending"] is True
                assert client.next()["type"] == "notification"
                assert scrape(server)(f"{LATENCY}_count", leg="received_to_delivered") == 1
                waiting = wait_for(listener, lambda now: (now("backlog_entries") or 0) >= 2)
                assert waiting("backlog_entries") == 2, "the event, and the marker of the server's session"
                assert (waiting("backlog_oldest_seconds") or 0) > 0
                waiting = wait_for(listener, lambda now: now("link_up", link="redis") == 0)
                assert waiting("mode", mode="none") == 1
            finally:
                stack.redis.start()
            back = wait_for(server, lambda now: now("mode", mode="redis") == 1)
            assert (back("pending_gaps"), back("switches_total")) == (0, 2)
            assert back("link_up", link="postgres") is None
            assert back("gaps_total", reason="failover", scope="process") == 0
            caught_up = wait_for(listener, lambda now: now("backlog_entries") == 0)
            waited = caught_up(f"{LATENCY}_sum", leg="received_to_appended")
            assert (waited or 0) > 0.05, "what waited for Redis has waited"


def test_a_delay_is_seen_as_long_as_it_was(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings | {"BRIDGE_REDIS_TIMEOUT_SECONDS": "5"}, "serve") as running:
        running.wait_until_ready()
        with running.client() as client:
            with stack.redis.paused():
                send(stack)
                wait_for(running, lambda now: (now("backlog_oldest_seconds") or 0) > 0.3)
            client.next()
        found = scrape(running)
        assert found.at_most(0.25, "received_to_delivered") == 0
        assert found(f"{LATENCY}_count", leg="received_to_delivered") == 1
        assert (found(f"{LATENCY}_sum", leg="received_to_delivered") or 0) > 0.3
        assert running.status()["latency"]["p99_ms"] > 300


def test_lost_sessions_and_gaps(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings, "serve") as running:
        running.wait_until_ready()
        stack.postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bridge listener'"
        )
        found = wait_for(running, lambda now: now("gaps_total", reason="postgres_session_lost", scope="process"))
        assert found("gaps_total", reason="postgres_session_lost", scope="process") == 1
        assert (found("reconnects_total", link="postgres") or 0) >= 1
        assert [gap["reason"] for gap in running.status()["gaps"]] == ["postgres_session_lost"]


def test_clients_that_come_back_are_counted(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings | {"BRIDGE_HISTORY_ENTRIES": "20"}, "serve") as running:
        running.wait_until_ready()
        with running.client() as client:
            for n in range(60):
                send(stack, str(n))
            ids = [message["id"] for message in client.take(60)]
        before = scrape(running)
        with running.client(f"/ws?after={ids[-6]}") as client:
            assert [message["payload"] for message in client.take(5)] == [55, 56, 57, 58, 59]
        resumed = wait_for(running, lambda now: now("clients") == 0)
        assert resumed("replayed_events_total") == 5
        assert resumed("deliveries_total") == before("deliveries_total"), "replays are counted apart"
        assert (resumed("sent_bytes_total") or 0) > (before("sent_bytes_total") or 0)
        assert resumed("gaps_total", reason="history_trimmed", scope="client") == 0
        for after, reason in ((ids[0], "history_trimmed"), ("1-1", "unknown_position"), ("?", "unknown_position")):
            was = scrape(running)("gaps_total", reason=reason, scope="client") or 0
            with running.client(f"/ws?after={after}") as client:
                gap = client.next()
            assert (gap["type"], gap["reason"]) == ("gap", reason)
            assert scrape(running)("gaps_total", reason=reason, scope="client") == was + 1


def test_who_is_turned_away_is_counted(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings | {"BRIDGE_MAX_CLIENTS": "1"}, "serve") as running:
        running.wait_until_ready()
        with running.client():
            running.get("/ws")
            running.get("/sse?channel=nope")
            running.get("/sse?nonsense=1")
            running.get("/sse")
            running.get("/nothing")
        found = scrape(running)
        refused = {reason: found("refused_total", reason=reason) for reason in get_args(Refusal)}
        assert refused == dict.fromkeys(refused, 0) | {"bad_request": 3, "full": 1}


def test_links_that_cannot_be_opened_are_down(stack: Stack, settings: dict[str, str]) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    settings |= {"DATABASE_URL": f"postgresql://u@{nobody}/d", "REDIS_URL": f"redis://{nobody}"}
    settings["BRIDGE_RETRY_SECONDS"] = "0.1"
    for arguments in (("serve",), ("serve", "--no-listener"), ("listen",)):
        with bridge(settings, *arguments) as running:
            found = wait_for(running, lambda now: (now("reconnects_total", link="postgres") or 0) > 1)
            assert found("link_up", link="postgres") == 0
            assert found("link_up", link="redis") == 0
            assert found("mode", mode="none") == 1
            assert found("probe_round_trip_seconds", link="postgres") is None
            assert found("probe_round_trip_seconds", link="redis") is None
            assert running.status()["latency"]["p50_ms"] is None


def test_while_it_drains(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings | {"BRIDGE_DRAIN_SECONDS": "5"}, "serve") as running:
        running.wait_until_ready()
        with running.client(), running.client():
            running.process.send_signal(signal.SIGTERM)
            found = wait_for(running, lambda now: now("draining") == 1)
            running.get("/sse")
            assert scrape(running)("refused_total", reason="draining") == 1
            assert found("mode", mode="redis") == 1
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(60) == 0
