"""Three Python servers that hear PostgreSQL: Litestar channels, Starlette with broadcaster, plain trio-websocket.

The first two on uvicorn with uvloop and its websockets implementation, pings and compression off; one process each.
"""

import contextlib
from collections.abc import Iterator

from benchmarks.lib.bridge import Servers
from benchmarks.lib.processes import tree
from benchmarks.lib.publisher import Publisher, payload
from benchmarks.lib.receiver import ClientForm
from benchmarks.lib.system import Running, System
from benchmarks.peers.common import APPS, VENV, app, venv_versions, without

PYTHON = VENV / "bin" / "python"


@contextlib.contextmanager
def start(name: str, servers: Servers) -> Iterator[Running]:
    command = [PYTHON, APPS / f"{name}.py"]
    with app(command, name, servers.database_url) as (port, process), Publisher(servers.database_url) as publisher:
        yield Running(
            port,
            ClientForm("/match_change", ready="ready" if name == "plain_trio" else ""),
            lambda: tree(process.pid),
            publisher.burst,
            lambda number: publisher.send(payload(number)),
        )


def system(title: str, name: str, promises: str, *packages: str) -> System:
    def begin(servers: Servers) -> contextlib.AbstractContextManager[Running]:
        return start(name, servers)

    return System(
        title,
        "peer",
        begin,
        promises=promises,
        source="PostgreSQL NOTIFY",
        missing=lambda: without(PYTHON),
        versions=lambda: venv_versions(*packages),
    )


LOST = "none: lost while PostgreSQL or a client is away, and nobody says so"
SYSTEMS = (
    system("Litestar channels", "litestar_channels", LOST, "litestar", "asyncpg", "uvicorn", "uvloop", "websockets"),
    system("Starlette, broadcaster", "starlette_broadcaster", LOST, "starlette", "broadcaster"),
    system("trio-websocket, a task a client", "plain_trio", LOST, "trio-websocket"),
)
