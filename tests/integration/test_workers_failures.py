"""Processes of `serve --workers N` that die, and a Redis that does: others take over, and clients lose nothing."""

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import websockets.sync.client

from tests.support.cli import run
from tests.support.pod_process import pod
from tests.support.process import JsonClient, wait_until
from tests.support.stack import Stack
from tests.support.traffic import clients as listening_clients
from tests.support.workers import (
    clients,
    closed,
    connections,
    measured,
    send,
    sessions,
    traffic,
    without_redis,
)
from tests.support.workers import settings as settings


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
        assert time.monotonic() - started < 50
        running.wait_for_successor("worker 1", pid)
        assert re.search(r"ERROR +worker 1 \(pid \d+\) was ended by SIGKILL; it is started again", process.log())
        assert [one["restarts"] for one in running.workers()] == [1, 0]
        found = measured(process, bool)
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
                lambda: running.status()["mode"] == "direct",
                lambda: f"no fallback:\n{running.running.log()}",
            )
            flowing.flow()
            assert sessions(stack) == ["bridge listener"], "the listener feeds the workers"
        finally:
            stack.redis.start()
        running.wait_until_well()
        assert sessions(stack) == ["bridge listener"]
        assert running.status()["mode"] == "redis"
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


def test_sigterm_to_one_worker_sends_its_clients_to_the_others(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings) as running, clients(running.running, 4) as connected:
        pid = running.pid("worker 1")
        os.kill(running.pid("listener"), signal.SIGTERM)  # as a service manager does that signals everybody
        os.kill(pid, signal.SIGTERM)
        running.wait_for_successor("worker 1", pid)
        wait_until(lambda: any(map(closed, connected)), lambda: "nobody was sent away")
        assert sum(map(closed, connected)) < 4
        assert {client.close_code for client in connected if closed(client)} == {1001}
        assert [one["restarts"] for one in running.processes()] == [0, 1, 0]
        assert sessions(stack) == ["bridge listener"]
