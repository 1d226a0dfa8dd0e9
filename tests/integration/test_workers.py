"""`serve --workers N` on real servers: what a user sees of several processes that work as one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets.sync.client
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus

from tests.support.cli import run
from tests.support.fleet import Traffic
from tests.support.pod_process import PodProcess, pod, runs
from tests.support.process import BridgeProcess, JsonClient, bridge, clean_environment, wait_until
from tests.support.stack import Stack
from tests.support.traffic import Writer
from tests.support.traffic import clients as listening_clients

LISTENING = "SELECT application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' ORDER BY 1"


@pytest.fixture
def settings(stack: Stack) -> dict[str, str]:
    return {
        "DATABASE_URL": stack.postgres.url(),
        "REDIS_URL": stack.redis.url,
        "USE_REDIS_NOTIFIER": "true",
        "BRIDGE_REDIS_PREFIX": stack.settings().redis_prefix,
        "BRIDGE_PORT": "0",
        "BRIDGE_RETRY_SECONDS": "0.5",
        "BRIDGE_DRAIN_SECONDS": "1",
    }


def without_redis(settings: dict[str, str]) -> dict[str, str]:
    return settings | {"USE_REDIS_NOTIFIER": "false", "REDIS_URL": "redis://127.0.0.1:1"}


def sessions(stack: Stack) -> list[str]:
    """Who listens, as the database shows it."""
    return [row[0] for row in stack.postgres.execute(LISTENING)]


def send(stack: Stack, payload: str, channel: str = "match_change") -> None:
    stack.postgres.execute("SELECT pg_notify(%s, %s)", channel, payload)


@contextmanager
def clients(running: BridgeProcess, count: int) -> Iterator[list[JsonClient]]:
    with ExitStack() as all_of_them:
        yield [all_of_them.enter_context(running.client()) for _ in range(count)]


@contextmanager
def connections(running: BridgeProcess, count: int, *, at_once: bool) -> Iterator[None]:
    """So many clients on bare sockets; `at_once` none waits for the others."""
    parts = urlsplit(running.url)
    head = (
        f"GET /ws HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", parts.port or 80), timeout=20))
            peer.sendall(head)
            if not at_once:
                assert peer.recv(12) == b"HTTP/1.1 101"
            made.append(peer)
        if at_once:
            for peer in made:
                assert peer.recv(12) == b"HTTP/1.1 101"
        yield


@contextmanager
def traffic(stack: Stack, running: BridgeProcess, count: int = 4) -> Iterator[Traffic]:
    """A writer, and clients at all workers."""
    writer = Writer(stack.postgres.url())
    with listening_clients(*[running.url] * count) as made:
        flowing = Traffic(writer.start(), {f"client {n}": client for n, client in enumerate(made)})
        try:
            flowing.flow()
            yield flowing
        finally:
            writer.stop()


def spread(running: PodProcess) -> int:
    """How many clients there are; fails unless every worker has some."""
    counts = [one["clients"] for one in running.workers()]
    assert all(counts), counts
    return sum(counts)


def metrics(running: BridgeProcess) -> dict[str, float]:
    """Series by name and labels, as the text shows them."""
    text = running.get("/metrics")[1].decode()
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# --- one pod, seen from outside ---


@pytest.mark.parametrize("with_redis", [True, False])
def test_one_session_feeds_the_clients_of_all_workers(stack: Stack, settings: dict[str, str], with_redis: bool) -> None:
    with pod(settings if with_redis else without_redis(settings)) as running:
        bridge_process = running.running
        with clients(bridge_process, 4) as connected:
            assert spread(running) == 4
            for number in range(20):
                send(stack, str(number))
            for client in connected:
                assert [message["payload"] for message in client.take(20)] == list(range(20))
            assert sessions(stack) == ["bridge listener"]
        status = bridge_process.status()
        assert (status["status"], status["mode"]) == ("ok", "redis" if with_redis else "direct")
        assert [one["name"] for one in status["processes"]] == ["listener", "worker 1", "worker 2"]
        assert status["links"]["postgres"]["state"] == "proven"
        assert json.loads(bridge_process.get("/health")[1])["status"] == "ok"
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
        assert running.running.status()["embedded"] is True
        assert b"<html" in running.running.get("/")[1]
        done = run(tmp_path, ["notify", "match_change", '{"match_id":7}'])
        assert (done.returncode, done.stderr) == (0, "")
        assert client.next()["payload"] == {"match_id": 7}
        done = run(tmp_path, ["doctor"])
        assert (done.returncode, "has 1 listener, 2 workers" in done.stdout) == (0, True), done.stdout
        pids = running.pids()
        assert running.running.end() == 0
        assert not any(map(runs, pids))


# --- the end ---


def test_all_workers_drain_together(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings | {"BRIDGE_DRAIN_SECONDS": "2"}) as running, clients(running.running, 20) as connected:
        process = running.running
        started = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: process.get("/ready")[0] == 503, lambda: "still ready")
        assert process.status()["draining"] is True
        with pytest.raises(InvalidStatus) as refused:
            websockets.sync.client.connect(process.url.replace("http", "ws", 1) + "/ws", proxy=None)
        assert refused.value.response.status_code == 503
        wait_until(lambda: any(map(closed, connected)), lambda: "nobody was sent away")
        send(stack, '"still here"')
        heard = [client for client in connected[-3:] if not closed(client)]
        assert process.process.wait(10) == 0
        assert 1.8 < time.monotonic() - started < 5
        assert [client.connection.protocol.close_code for client in connected] == [1001] * 20
        assert all(client.next(1)["payload"] == "still here" for client in heard)
        assert "Traceback" not in process.log()


def closed(client: JsonClient) -> bool:
    return client.connection.protocol.close_rcvd is not None


def test_a_second_signal_ends_all_at_once(settings: dict[str, str]) -> None:
    with pod(settings | {"BRIDGE_DRAIN_SECONDS": "60"}) as running, clients(running.running, 4) as connected:
        process = running.running
        pids = running.pids()
        process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: process.get("/ready")[0] == 503, lambda: "still ready")
        started = time.monotonic()
        assert process.end() == 0
        assert time.monotonic() - started < 2
        wait_until(lambda: all(map(closed, connected)), lambda: "somebody was not told")
        assert not any(map(runs, pids))


def test_a_terminal_ends_it_once_and_only_the_supervisor_hears_it(settings: dict[str, str], tmp_path: Path) -> None:
    """Ctrl-C is SIGINT to the whole process group."""
    with (
        (tmp_path / "stderr").open("ab") as log,
        subprocess.Popen(
            [sys.executable, "-m", "bridge", "serve", "--workers", "2"],
            env=clean_environment(settings) | {"PYTHONPATH": str(Path.cwd())},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=log,
            process_group=0,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"Listening on http://127.0.0.1:")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(10) == 0
        said = (tmp_path / "stderr").read_text()
        assert said.count("Received SIGINT, ending") == 1
        assert said.count("Draining") == 2
        assert "Traceback" not in said


def catches_sigterm(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("after_seconds", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_a_signal_while_it_starts_ends_it(settings: dict[str, str], tmp_path: Path, after_seconds: float) -> None:
    running = BridgeProcess(("serve", "--workers", "2"), settings, tmp_path)
    try:
        wait_until(lambda: catches_sigterm(running.process.pid), lambda: "it never does")
        time.sleep(after_seconds)
        assert running.end() == 0, running.log()
        assert "Traceback" not in running.log()
    finally:
        running.process.kill()
        running.process.wait()
        assert running.process.stdout is not None
        running.process.stdout.close()


def test_a_stopped_child_does_not_stop_the_end(settings: dict[str, str]) -> None:
    with pod(settings) as running:
        pid = running.pid("worker 2")
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        running.running.process.send_signal(signal.SIGTERM)
        running.running.process.send_signal(signal.SIGTERM)
        assert running.running.process.wait(10) == 0
        assert time.monotonic() - started < 9
        assert not runs(pid)


def test_nobody_is_left_behind_where_the_supervisor_is_killed(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings) as running, clients(running.running, 4) as connected:
        pids = running.pids()
        running.running.process.kill()
        wait_until(lambda: all(map(closed, connected)), lambda: "somebody was not told", 10)
        assert {client.connection.protocol.close_code for client in connected} == {1001}
        wait_until(lambda: not any(map(runs, pids)), lambda: f"{[*filter(runs, pids)]} still run", 10)
    wait_until(lambda: not sessions(stack), lambda: "a session is left")


# --- failures ---


def test_a_killed_worker_is_replaced_and_its_clients_go_on_elsewhere(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings) as running, clients(running.running, 4) as connected:
        process = running.running
        send(stack, "0")
        ids = [client.next()["id"] for client in connected]
        assert len(set(ids)) == 1
        started = time.monotonic()
        pid = running.kill("worker 1")
        send(stack, "1")
        lost = [client for client in connected if ended(client)]
        assert 0 < len(lost) < 4
        for _ in lost:
            with process.client(f"/ws?after={ids[0]}") as again:
                assert again.next()["payload"] == 1
        assert time.monotonic() - started < 2
        running.wait_for_successor("worker 1", pid)
        assert re.search(r"ERROR +worker 1 \(pid \d+\) was ended by SIGKILL; it is started again", process.log())
        assert [one["restarts"] for one in running.workers()] == [1, 0]
        found = metrics(process)
        assert found["notify_bridge_process_restarts_total{role=worker}"] == 1
        assert found["notify_bridge_process_restarts_total{role=listener}"] == 0
        with connections(process, 20, at_once=False):  # who has none takes the next ones
            wait_until(lambda: max(one["clients"] for one in running.workers()) <= 16, lambda: str(running.workers()))


def ended(client: JsonClient) -> bool:
    """Whether the connection ends; else the next message is read."""
    try:
        client.next()
    except websockets.exceptions.ConnectionClosed:
        return True
    return False


def test_a_killed_listener_is_replaced(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings) as running, running.running.client() as client:
        pid = running.kill("listener")
        wait_until(
            lambda: json.loads(running.running.get("/health")[1])["status"] == "degraded",
            lambda: "nobody has noticed",
        )
        running.wait_for_successor("listener", pid)
        wait_until(lambda: sessions(stack) == ["bridge listener"], lambda: str(sessions(stack)))
        send(stack, '"again"')
        message = client.next()
        while message["type"] != "notification":
            message = client.next()
        assert message["payload"] == "again"
        wait_until(lambda: running.running.get("/ready")[0] == 200, running.running.log)


def test_redis_and_a_worker_are_killed_and_nothing_is_lost(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings) as running, traffic(stack, running.running) as flowing:
        stack.redis.kill()
        try:
            wait_until(
                lambda: running.running.status()["mode"] == "direct",
                lambda: f"no fallback:\n{running.running.log()}",
            )
            flowing.flow()
            assert sessions(stack) == ["bridge listener"], "the listener feeds the workers"
        finally:
            stack.redis.start()
        running.wait_until_well()
        assert sessions(stack) == ["bridge listener"]
        assert running.running.status()["mode"] == "redis"
        flowing.flow()
        flowing.settle()


def test_a_worker_that_is_killed_in_fallback_comes_back_to_its_listener(stack: Stack, settings: dict[str, str]) -> None:
    with pod(without_redis(settings)) as running, traffic(stack, running.running) as flowing:
        pid = running.kill("worker 2")
        running.wait_for_successor("worker 2", pid)
        assert sessions(stack) == ["bridge listener"]
        with listening_clients(*[running.running.url] * 2) as more:
            survivors = {name: client for name, client in flowing.clients.items() if client.ended is None}
            assert 0 < len(survivors) < 4
            flowing.clients = survivors | {f"later {n}": client for n, client in enumerate(more)}
            flowing.flow()
            flowing.settle()


def test_a_child_that_cannot_begin_ends_everything_with_its_error(
    stack: Stack, settings: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(tmp_path, ["serve", "--workers", "2", "--port", str(taken.getsockname()[1])], **settings)
    assert done.returncode == 1
    assert "cannot listen on 127.0.0.1" in done.stderr
    done = run(tmp_path, ["serve", "--workers", "2", "--tls-cert", "none", "--tls-key", "none"], **settings)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = run(tmp_path, ["serve", "--workers", "2"], **settings | {"REDIS_URL": "redis+sentinel://"})
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


# --- numbers ---


def test_metrics_and_status_are_of_all_processes(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings | {"BRIDGE_MAX_CLIENTS": "50"}) as running, clients(running.running, 4) as connected:
        process = running.running
        for number in range(3):
            send(stack, str(number))
        for client in connected:
            client.take(3)
        for _ in range(4):  # whichever worker answers
            found = metrics(process)
            assert found["notify_bridge_deliveries_total"] == 12
            assert found["notify_bridge_notifications_received_total"] == 3
            assert found["notify_bridge_log_entries_appended_total"] == 4, "the session's marker is an entry too"
            assert (found["notify_bridge_clients"], found["notify_bridge_max_clients"]) == (4, 50)
            assert found["notify_bridge_link_up{link=postgres}"] == 1
            assert [found[f"notify_bridge_mode{{mode={mode}}}"] for mode in ("redis", "direct", "none")] == [1, 0, 0]
            assert found["notify_bridge_latency_seconds_count{leg=log_to_delivered}"] == 6
            status = process.status()
            assert (status["clients"], status["max_clients"]) == (4, 50)
            assert status["latency"]["samples"] == 6
        wait_until(lambda: process.status()["rates"]["deliveries_per_second"] > 0, lambda: str(process.status()))
        pid = running.kill("worker 1")
        running.wait_for_successor("worker 1", pid)
        found = metrics(process)
        assert found["notify_bridge_deliveries_total"] == 12, "what it counted is not lost with it"
        assert 0 < found["notify_bridge_clients"] < 4


def test_metrics_have_the_names_of_one_process(settings: dict[str, str]) -> None:
    def names(running: BridgeProcess) -> set[str]:
        return {name for name in metrics(running) if "round_trip" not in name}

    with pod(settings) as running:
        of_a_pod, pod_keys = names(running.running), set(running.running.status())
    with bridge(settings, "serve") as alone:
        alone.wait_until_ready()
        assert of_a_pod - names(alone) == {
            "notify_bridge_process_restarts_total{role=listener}",
            "notify_bridge_process_restarts_total{role=worker}",
        }
        assert names(alone) <= of_a_pod
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
        wait_until(lambda: running.running.status()["clients"] == 3, lambda: "it still counts")
        with running.running.client():
            pass
        pid = running.kill("worker 1")
        running.wait_for_successor("worker 1", pid)
        with running.running.client():  # the dead one's places are free
            pass


@pytest.mark.parametrize("at_once", [True, False])
def test_clients_are_spread_evenly(settings: dict[str, str], at_once: bool) -> None:
    with pod(settings) as running, connections(running.running, 1000, at_once=at_once):
        wait_until(lambda: running.running.status()["clients"] == 1000, lambda: str(running.workers()))
        assert all(one["clients"] <= 550 for one in running.workers()), running.workers()


def test_a_stopped_worker_delays_nobody(settings: dict[str, str]) -> None:
    with pod(settings) as running:
        pid = running.pid("worker 1")
        os.kill(pid, signal.SIGSTOP)
        try:
            with connections(running.running, 50, at_once=False):
                pass  # while it still counts, each may take some milliseconds
            started = time.monotonic()
            with connections(running.running, 200, at_once=False):
                assert time.monotonic() - started < 2.0
        finally:
            os.kill(pid, signal.SIGCONT)
        running.wait_until_well()


def test_a_silent_process_is_said_to_be_silent(settings: dict[str, str]) -> None:
    with pod(settings) as running:
        pid = running.pid("listener")
        os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            status: dict[str, Any] = running.running.status()
            assert time.monotonic() - started < 1.9
            assert [one["status"] for one in status["processes"]] == ["silent", "ok", "ok"]
            assert status["status"] == "degraded"
        finally:
            os.kill(pid, signal.SIGCONT)
        running.wait_until_well()


def test_sighup_goes_to_all(settings: dict[str, str]) -> None:
    with pod(settings) as running:
        running.running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: running.running.log().count("Received SIGHUP") == 3, running.running.log)
        running.wait_until_well()
