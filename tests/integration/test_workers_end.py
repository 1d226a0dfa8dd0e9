"""How `serve --workers N` begins and ends: in order, at once, and without its supervisor."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets.sync.client
from websockets.exceptions import InvalidStatus

from tests.support.pod_process import pod, runs
from tests.support.process import BridgeProcess, clean_environment, wait_until
from tests.support.stack import Stack
from tests.support.workers import (
    clients,
    closed,
    send,
    sessions,
)
from tests.support.workers import settings as settings


def test_all_workers_drain_together(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings | {"BRIDGE_DRAIN_SECONDS": "8"}) as running, clients(running.running, 20) as connected:
        process = running.running
        started = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: process.get("/ready")[0] == 503, lambda: "still ready")
        wait_until(lambda: process.status()["draining"] is True, lambda: "it does not say so")
        with pytest.raises(InvalidStatus) as refused:
            websockets.sync.client.connect(process.url.replace("http", "ws", 1) + "/ws", proxy=None)
        assert refused.value.response.status_code == 503
        wait_until(lambda: any(map(closed, connected)), lambda: "nobody was sent away")
        send(stack, '"still here"')
        heard = [client for client in connected[-3:] if not closed(client)]
        assert process.process.wait(60) == 0
        assert 7 < time.monotonic() - started < 50
        wait_until(lambda: all(map(closed, connected)), lambda: "somebody was not told")
        assert [client.close_code for client in connected] == [1001] * 20
        assert all(client.next()["payload"] == "still here" for client in heard)
        assert "Traceback" not in process.log()


def test_a_second_signal_ends_all_at_once(settings: dict[str, str]) -> None:
    with pod(settings | {"BRIDGE_DRAIN_SECONDS": "60"}) as running, clients(running.running, 4) as connected:
        process = running.running
        pids = running.pids()
        process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: process.get("/ready")[0] == 503, lambda: "still ready")
        started = time.monotonic()
        assert process.end() == 0
        assert time.monotonic() - started < 50
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
        assert process.wait(60) == 0
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
        assert running.running.process.wait(60) == 0
        assert time.monotonic() - started < 50
        assert not runs(pid)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory in which the socket of a pod has room."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


def test_nobody_is_left_behind_where_the_supervisor_is_killed(
    stack: Stack, settings: dict[str, str], short_path: Path
) -> None:
    with pod(settings | {"TMPDIR": str(short_path)}) as running, clients(running.running, 4) as connected:
        assert [path.name for path in short_path.glob("notify-bridge-*/*")] == ["listener.sock"]
        pids = running.pids()
        running.running.process.kill()
        wait_until(lambda: all(map(closed, connected)), lambda: "somebody was not told")
        assert {client.close_code for client in connected} == {1001}
        wait_until(lambda: not any(map(runs, pids)), lambda: f"{[*filter(runs, pids)]} still run")
    wait_until(lambda: not sessions(stack), lambda: "a session is left")
    assert not list(short_path.iterdir())
