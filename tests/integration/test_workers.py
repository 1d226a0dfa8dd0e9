"""`serve --workers N` on real servers: what a user sees of several processes that work as one."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import websockets.sync.client
from websockets.exceptions import InvalidStatus

from tests.support.cli import run
from tests.support.pod_process import PodProcess, pod, runs
from tests.support.process import bridge, wait_until
from tests.support.stack import Stack
from tests.support.workers import (
    clients,
    connections,
    measured,
    metrics,
    pod_settings,
    send,
    sessions,
    without_redis,
)
from tests.support.workers import settings as settings


@pytest.fixture(scope="module")
def shared(stack: Stack) -> Iterator[PodProcess]:
    """A pod that every test leaves as it found it."""
    with pod(pod_settings(stack)) as running:
        yield running


@pytest.fixture
def empty(shared: PodProcess) -> PodProcess:
    """The same, without clients."""
    shared.wait_until_well()
    wait_until(lambda: shared.status()["clients"] == 0, lambda: str(shared.workers()))
    return shared


@pytest.mark.parametrize("with_redis", [True, False])
def test_one_session_feeds_the_clients_of_all_workers(stack: Stack, settings: dict[str, str], with_redis: bool) -> None:
    with pod(settings if with_redis else without_redis(settings)) as running:
        bridge_process = running.running
        with clients(bridge_process, 4) as connected:
            for number in range(20):
                send(stack, str(number))
            for client in connected:
                assert [message["payload"] for message in client.take(20)] == list(range(20))
            assert sessions(stack) == ["bridge listener"]
        running.wait_until_well()
        status = running.status()
        assert status["mode"] == ("redis" if with_redis else "direct")
        assert [one["name"] for one in status["processes"]] == ["listener", "worker 1", "worker 2"]
        assert status["links"]["postgres"]["state"] == "proven"
        wait_until(lambda: json.loads(bridge_process.get("/health")[1])["status"] == "ok", bridge_process.log)
        assert bridge_process.end() == 0
        log = bridge_process.log()
        assert "Traceback" not in log
        assert "ERROR" not in log
        assert re.search(r"INFO +Connected to PostgreSQL \[listener\]\n", log)
    wait_until(lambda: not sessions(stack), lambda: "a session is left")


def test_without_a_listener_there_is_none(stack: Stack, settings: dict[str, str]) -> None:
    with bridge(settings, "listen") as listener, pod(settings, "--no-listener") as running:
        listener.wait_until_ready()
        assert [one["name"] for one in running.processes()] == ["worker 1", "worker 2"]
        with clients(running.running, 2) as connected:
            send(stack, "1")
            assert [client.next()["payload"] for client in connected] == [1, 1]
            assert sessions(stack) == ["bridge listener"]


def test_one_worker_is_a_process_too(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings, workers=1) as running, running.running.client() as client:
        assert [one["role"] for one in running.processes()] == ["listener", "worker"]
        send(stack, "1")
        assert client.next()["payload"] == 1


def test_log_lines_in_json_name_their_process(settings: dict[str, str]) -> None:
    with pod(settings | {"BRIDGE_LOG_FORMAT": "json"}) as running:
        assert running.running.end() == 0
        lines = [json.loads(line) for line in running.running.log().splitlines()]
        assert {"listener", "worker 1", "worker 2"} <= {line.get("process") for line in lines}
        assert all("[" not in line["message"] for line in lines)


def test_embedded_servers_the_page_and_the_other_commands(tmp_path: Path) -> None:
    with pod({"XDG_RUNTIME_DIR": str(tmp_path)}, "--port", "0") as running, running.running.client() as client:
        assert running.status()["embedded"] is True
        assert b"<html" in running.running.get("/")[1]
        done = run(tmp_path, ["notify", "match_change", '{"match_id":7}'])
        assert (done.returncode, done.stderr) == (0, "")
        assert client.next()["payload"] == {"match_id": 7}
        done = run(tmp_path, ["doctor"])
        assert (done.returncode, "has 1 listener, 2 workers" in done.stdout) == (0, True), done.stdout
        pids = running.pids()
        assert running.running.end() == 0
        assert not any(map(runs, pids))


def test_metrics_and_status_are_of_all_processes(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings | {"BRIDGE_MAX_CLIENTS": "50"}) as running, clients(running.running, 4) as connected:
        process = running.running
        for number in range(3):
            send(stack, str(number))
            for client in connected:
                client.take(1)
        for _ in range(4):  # whichever worker answers
            expected = {
                "notify_bridge_deliveries_total": 12,
                "notify_bridge_notifications_received_total": 3,
                "notify_bridge_log_entries_appended_total": 4,  # the session's marker is an entry too
                "notify_bridge_clients": 4,
                "notify_bridge_max_clients": 50,
                "notify_bridge_link_up{link=postgres}": 1,
                "notify_bridge_mode{mode=redis}": 1,
                "notify_bridge_mode{mode=direct}": 0,
                "notify_bridge_mode{mode=none}": 0,
                "notify_bridge_latency_seconds_count{leg=log_to_delivered}": 6,
            }
            measured(process, lambda now: expected.items() <= now.items())  # noqa: B023
            said = {"clients": 4, "max_clients": 50}
            wait_until(lambda: said.items() <= running.status().items(), lambda: str(running.status()))  # noqa: B023
            wait_until(lambda: running.status()["latency"]["samples"] == 6, lambda: str(running.status()))
        running.wait_until_well()
        wait_until(lambda: running.status()["rates"]["deliveries_per_second"] > 0, lambda: str(running.status()))
        pid = running.kill("worker 1")
        running.wait_for_successor("worker 1", pid)
        found = measured(process, lambda now: 0 < now["notify_bridge_clients"] < 4)
        assert found["notify_bridge_deliveries_total"] == 12, "what it counted is not lost with it"


def test_metrics_have_the_names_of_one_process(settings: dict[str, str]) -> None:
    def names(found: dict[str, float]) -> set[str]:
        return {name for name in found if "round_trip" not in name}

    with pod(settings) as running:
        of_a_pod, pod_keys = names(measured(running.running, bool)), set(running.status())
    with bridge(settings, "serve") as alone:
        alone.wait_until_ready()
        assert of_a_pod - names(metrics(alone)) == {
            "notify_bridge_process_restarts_total{role=listener}",
            "notify_bridge_process_restarts_total{role=worker}",
        }
        assert names(metrics(alone)) <= of_a_pod
        assert pod_keys - set(alone.status()) == {"processes"}
        assert set(alone.status()) <= pod_keys


def test_most_clients_are_counted_over_all_workers(settings: dict[str, str]) -> None:
    with pod(settings | {"BRIDGE_MAX_CLIENTS": "4"}) as running, clients(running.running, 4) as connected:
        url = running.running.url.replace("http", "ws", 1) + "/ws"
        for _ in range(4):
            with pytest.raises(InvalidStatus) as refused:
                websockets.sync.client.connect(url, proxy=None)
            assert refused.value.response.status_code == 503
        connected[0].connection.close()
        wait_until(lambda: running.status()["clients"] == 3, lambda: "it still counts")
        with running.running.client():
            pass
        pid = running.kill("worker 1")
        running.wait_for_successor("worker 1", pid)
        with running.running.client():  # the dead one's places are free
            pass


@pytest.mark.parametrize("at_once", [True, False])
def test_clients_are_spread_evenly(empty: PodProcess, at_once: bool) -> None:
    """However uneven they are where a worker got no processor for a while: those who come next make up for it."""
    counts: list[int] = []
    with ExitStack() as more:

        def even() -> bool:
            count = 100 if counts else 1000
            more.enter_context(connections(empty.running, count, at_once=at_once and not counts))
            total = sum(counts) + count
            wait_until(lambda: counted() == total, lambda: f"{counts} clients, and not {total}")
            return max(counts) <= 0.55 * total

        def counted() -> int:
            counts[:] = [one["clients"] for one in empty.workers()]
            return sum(counts)

        wait_until(even, lambda: f"{counts} clients")


def test_a_stopped_worker_delays_nobody(empty: PodProcess) -> None:
    pid = empty.pid("worker 1")
    os.kill(pid, signal.SIGSTOP)
    try:
        with connections(empty.running, 50, at_once=False):
            pass  # while it still counts, each may take some milliseconds
        started = time.monotonic()
        with connections(empty.running, 200, at_once=False):
            assert time.monotonic() - started < 25
    finally:
        os.kill(pid, signal.SIGCONT)
    empty.wait_until_well()


def test_a_silent_process_is_said_to_be_silent(empty: PodProcess) -> None:
    pid = empty.pid("listener")
    os.kill(pid, signal.SIGSTOP)
    try:
        status: dict[str, Any] = {}

        def told() -> bool:
            started = time.monotonic()
            status.update(empty.status())
            assert time.monotonic() - started < 20
            return [one["status"] for one in status["processes"]] == ["silent", "ok", "ok"]

        wait_until(told, lambda: str(status))
        assert status["status"] == "degraded"
    finally:
        os.kill(pid, signal.SIGCONT)
    empty.wait_until_well()


def test_sighup_goes_to_all(empty: PodProcess) -> None:
    empty.running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: empty.running.log().count("Received SIGHUP") == 3, empty.running.log)
    empty.wait_until_well()
