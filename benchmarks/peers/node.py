"""Node with the packages ws and pg: what most people write first."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.lib.bridge import Servers
from benchmarks.lib.machine import command_version
from benchmarks.lib.processes import tree
from benchmarks.lib.publisher import Publisher, payload
from benchmarks.lib.receiver import ClientForm
from benchmarks.lib.system import Running, System
from benchmarks.peers.common import APPS, NODE, NPM, app, without


@contextlib.contextmanager
def start(servers: Servers) -> Iterator[Running]:
    command: list[str | Path] = ["node", APPS / "node.js", NODE / "node_modules"]
    with app(command, "node", servers.database_url) as (port, process), Publisher(servers.database_url) as publisher:
        yield Running(
            port,
            ClientForm("/"),
            lambda: tree(process.pid),
            publisher.burst,
            lambda number: publisher.send(payload(number)),
        )


def versions() -> dict[str, str]:
    found = {"Node": command_version("node", "--version") or "unknown"}
    for package in NPM:
        found[f"npm {package}"] = json.loads((NODE / "node_modules" / package / "package.json").read_text())["version"]
    return found


SYSTEM = System(
    "Node, ws and pg",
    "peer",
    start,
    promises="none: lost while PostgreSQL or a client is away, and nobody says so",
    source="PostgreSQL NOTIFY",
    missing=lambda: without("node", *(NODE / "node_modules" / package for package in NPM)),
    versions=versions,
)
