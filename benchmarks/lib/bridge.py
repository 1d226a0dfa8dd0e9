"""A bridge to measure: `python -m bridge serve` as a process of its own, on embedded servers or on given ones.

with servers() as (database_url, redis_url), bridge(database_url, redis_url, workers=2) as running:
    running.port, running.pids(), running.status()
"""

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO, Any, Literal, NamedTuple

from benchmarks.lib.failure import BenchmarkFailed
from benchmarks.lib.processes import tree
from bridge.embedded import started
from bridge.errors import BridgeError

START_SECONDS = 30.0
END_SECONDS = 30.0


class Servers(NamedTuple):
    database_url: str
    redis_url: str


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """DATABASE_URL and REDIS_URL of the environment where both are set, else embedded servers for the block."""
    database_url, redis_url = os.environ.get("DATABASE_URL"), os.environ.get("REDIS_URL")
    if database_url and redis_url:
        yield Servers(database_url, redis_url)
        return
    try:
        with started() as embedded:
            yield Servers(embedded.database_url, embedded.redis_url)
    except BridgeError as error:
        raise BenchmarkFailed(f"no servers: {error}") from error


class RunningBridge:
    """A bridge that is ready."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        self.process = process
        self.port = 0
        self._log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pids(self) -> list[int]:
        """The bridge's processes, not those of PostgreSQL or Redis."""
        return tree(self.process.pid)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            body: bytes = answer.read()
        return body

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/status"))
        return found

    def metric(self, name: str) -> float:
        """The sum of this metric's samples, whatever their labels."""
        found = re.findall(rf"^{name}(?:{{[^\n]*}})? (\S+)$".encode(), self.get("/metrics"), re.MULTILINE)
        return sum(map(float, found))

    def log(self) -> str:
        """What it has written to standard error so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def wait_until_listening(self) -> None:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        found = re.search(rb":(\d+)$", self.process.stdout.readline().rstrip()) if ready else None
        if found is None:
            last = self.log().strip().splitlines()[-1:] or ["it says nothing"]
            raise BenchmarkFailed(f"the bridge did not start: {last[0]}")
        self.port = int(found[1])

    def wait_until(self, mode: str) -> None:
        """A source feeds it, and it is this one: `redis` or `direct`."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError):
                self.get("/ready")
                if json.loads(self.get("/health"))["mode"] == mode:
                    return
            time.sleep(0.05)
        raise BenchmarkFailed(f"the bridge is not in {mode} mode after {START_SECONDS:g} s")


@contextlib.contextmanager
def bridge(
    database_url: str,
    redis_url: str,
    *,
    mode: Literal["redis", "direct"] = "direct",
    workers: int | None = None,
    max_clients: int = 20_000,
    settings: dict[str, str] | None = None,
    arguments: tuple[str, ...] = (),
    command: Literal["serve", "listen"] = "serve",
) -> Iterator[RunningBridge]:
    """A bridge on a free port, ready in this mode, for the block. `settings`: more of the environment."""
    ours = re.compile(r"BRIDGE_|DB_|DATABASE_URL$|REDIS_URL$|USE_REDIS_NOTIFIER$|PG")
    environment = {key: value for key, value in os.environ.items() if not ours.match(key)} | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "USE_REDIS_NOTIFIER": "true" if mode == "redis" else "false",
        "BRIDGE_REDIS_PREFIX": f"benchmark_{os.getpid()}_{time.monotonic_ns():x}",
        "BRIDGE_PORT": "0",
        "BRIDGE_MAX_CLIENTS": str(max_clients),
        "BRIDGE_DRAIN_SECONDS": "0",
        "BRIDGE_LOG_LEVEL": "warning",
        **(settings or {}),
    }
    line = [sys.executable, "-m", "bridge", command, *arguments]
    if workers is not None:
        line += ["--workers", str(workers)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment)
        running = RunningBridge(process, log)
        try:
            running.wait_until_listening()
            running.wait_until(mode)
            yield running
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and where that does not help in time, SIGKILL."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
