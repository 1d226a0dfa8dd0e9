"""The predecessor's deployment on this machine: PostgreSQL, Redis, two listeners beside two servers, on free ports.

`CONFORMANCE_PAIR` chooses the servers: `embedded` (PostgreSQL 18, Valkey 9, from wheels), `debian` (PostgreSQL 15 and
Redis 7.0 as packaged) or `redis62` (PostgreSQL 15, Redis 6.2 from a wheel).
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from conformance.lib.processes import Process
from tests.support import postgres as pg
from tests.support import redis as rd
from tests.support.ports import free_port

PAIRS = {"embedded": ("embedded", "valkey"), "debian": ("debian", "redis-debian"), "redis62": ("debian", "redis-6.2")}

LISTENERS = ("listener1", "listener2")
SERVERS = ("server1", "server2")
REDIS = "redis"
POSTGRES = "postgres"

PATIENT = {"BRIDGE_REDIS_TIMEOUT_SECONDS": "10", "BRIDGE_HEARTBEAT_TIMEOUT_SECONDS": "10"}
"""A busy machine holds a process up for seconds. By the defaults that is a failure, logged and told to clients; here
nothing is to fail but what the checks break."""


def pair() -> str:
    return os.environ.get("CONFORMANCE_PAIR", "") or "embedded"


@dataclass
class LocalDeployment:
    """The servers and the processes, each to be killed and started again by its name."""

    postgres: pg.PostgresServer
    redis: rd.RedisServer
    directory: Path
    processes: dict[str, Process] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.postgres.url(),
            "USE_REDIS_NOTIFIER": "true",
            "REDIS_URL": self.redis.url,
            "BRIDGE_DRAIN_SECONDS": "1",
            **PATIENT,
        }

    def begin(self, name: str) -> None:
        """Begin to start a process, at its port if it had one before: one that nobody is given while it is away."""
        arguments = ["listen"] if name in LISTENERS else ["serve", "--no-listener"]
        port = self.urls[name].rpartition(":")[2] if name in self.urls else str(free_port())
        home = self.directory / name
        home.mkdir(exist_ok=True)
        self.processes[name] = Process(arguments, self.settings | {"BRIDGE_PORT": port}, home)

    def begun(self, name: str) -> None:
        self.urls[name] = self.processes[name].listening().url

    def kill(self, name: str) -> None:
        if name == REDIS:
            self.redis.kill()
        elif name == POSTGRES:
            self.postgres.kill()
        else:
            self.processes[name].bury()

    def stop(self, name: str) -> None:
        """End it as an orchestrator does: SIGTERM, and wait."""
        if name == REDIS:
            self.redis.stop()
        elif name == POSTGRES:
            self.postgres.stop()
        else:
            self.processes[name].end()
            self.processes[name].bury()

    def start(self, name: str) -> None:
        if name == REDIS:
            self.redis.start()
        elif name == POSTGRES:
            self.postgres.start()
        else:
            self.begin(name)
            self.begun(name)

    def log(self, name: str) -> str:
        return self.processes[name].log()


@contextmanager
def local_deployment() -> Iterator[LocalDeployment]:
    """Running processes, not yet said to be healthy."""
    if pair() not in PAIRS:
        raise RuntimeError(f"CONFORMANCE_PAIR={pair()} is not known; there are {', '.join(PAIRS)}")
    kind, binary_name = PAIRS[pair()]
    binary = next((each for each in rd.BINARIES if each.name == binary_name and each.path), None)
    if binary is None or (kind == "debian" and not (pg._DEBIAN / "postgres").exists()):
        raise RuntimeError(f"CONFORMANCE_PAIR={pair()} needs PostgreSQL ({kind}) and {binary_name}, not all are here")
    with (
        pg.postgres_server(kind) as postgres,
        rd.running_redis(binary) as redis,
        tempfile.TemporaryDirectory(prefix="conformance-") as directory,
    ):
        deployment = LocalDeployment(postgres, redis, Path(directory))
        try:
            for name in (*LISTENERS, *SERVERS):
                deployment.begin(name)
            for name in (*LISTENERS, *SERVERS):
                deployment.begun(name)
            yield deployment
        finally:
            for process in deployment.processes.values():
                process.bury()
