"""Where peers are installed, and how their processes are started."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.lib.failure import BenchmarkFailed
from benchmarks.lib.lines import LineProcess

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "peers"
VENV, NODE = BUILD / "python", BUILD / "node"
APPS = Path(__file__).parent / "apps"
START_SECONDS = 20.0
INSTALL = "python -m benchmarks.peers install"

DEBIAN = ("nginx-light", "libnginx-mod-nchan", "nats-server")
DEBIAN_NODE = ("nodejs", "npm")
"""Where there is no Node yet, of whatever origin."""
NPM = ("ws", "pg")
PYPI = (
    "uvicorn",
    "uvloop",
    "websockets",
    "httptools",
    "litestar",
    "asyncpg",
    "starlette",
    "broadcaster[postgres]",
    "trio",
    "trio-websocket",
    "psycopg[binary]",
)


def without(*needed: Path | str) -> str | None:
    """None where all of these are there (a name: a command), else what to do."""
    for one in needed:
        if not (one.exists() if isinstance(one, Path) else shutil.which(one)):
            return f"{one} is not there; install the peers with: {INSTALL}"
    return None


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def app(command: Sequence[str | Path], name: str, database_url: str) -> Iterator[tuple[int, LineProcess]]:
    """A process that is given DATABASE_URL and says `listening PORT`; its port."""
    with LineProcess(command, name, os.environ | {"DATABASE_URL": database_url}) as process:
        (port,) = process.answer("listening", START_SECONDS)
        yield int(port), process


@contextlib.contextmanager
def daemon(command: Sequence[str | Path], port: int, log: Path) -> Iterator[int]:
    """A process that listens on this port when it is ready; its id."""
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it says nothing"]
                raise BenchmarkFailed(f"{command[0]} did not start: {last[0]}")
            time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def venv_versions(*packages: str) -> dict[str, str]:
    """Of packages in the peers' virtual environment."""
    found = {}
    for package in packages:
        pattern = f"lib/python*/site-packages/{package.replace('-', '_')}-*.dist-info"
        for directory in VENV.glob(pattern):
            found[package] = directory.name.removesuffix(".dist-info").rpartition("-")[2]
    return found
