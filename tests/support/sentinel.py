"""A master and a replica, and one Sentinel that watches them: whoever is master may change at any time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis

from tests.support.process import wait_until
from tests.support.redis import Binary, RedisServer, running_redis

SERVICE = "main"
DOWN_AFTER_MILLISECONDS = 2000
"""Less, and a busy machine makes a Sentinel call a server down that only waits for its turn: it would promote again."""
FAILOVER_TIMEOUT_MILLISECONDS = 4000
"""A Sentinel that finds nobody to promote, because a busy machine has kept a replica's answer from it for a tenth of a
second, tries again after twice this time; by default that is after six minutes."""
KNOWN_SECONDS = 40.0
"""A Sentinel asks servers who their replicas are every ten seconds."""


@dataclass
class Watched:
    """Two servers and their Sentinel."""

    sentinel: RedisServer
    servers: tuple[RedisServer, RedisServer]

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.sentinel.port}"

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.place}/{SERVICE}"

    @property
    def master(self) -> RedisServer:
        """Whom the Sentinel calls so."""
        _, port = self.sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def other(self) -> RedisServer:
        master = self.master
        return next(server for server in self.servers if server is not master)

    def settle(self) -> None:
        """Wait until the other one is a replica in step, and the Sentinel knows that there is something to promote."""
        self.other.command("REPLICAOF", "127.0.0.1", self.master.port)
        wait_until(lambda: _in_step(self.other), lambda: f"{self.other.command('ROLE')}")
        wait_until(lambda: self._promotable, lambda: f"{self._replicas()}", KNOWN_SECONDS)

    def fail_over(self) -> None:
        """Promote the replica. The old master goes on as if nothing had happened, for ten seconds or so."""
        self.settle()
        before = self.master
        wait_until(self._begin, lambda: "the Sentinel finds no replica that it could promote")
        wait_until(lambda: self.master is not before, lambda: "no failover")

    def demote(self) -> None:
        """Do to the old master what the Sentinel does when its time has come."""
        other = self.other
        other.command("REPLICAOF", "127.0.0.1", self.master.port)
        for kind in ("normal", "pubsub"):
            other.command("CLIENT", "KILL", "TYPE", kind)

    @property
    def _promotable(self) -> bool:
        other = self.other.port
        return any(
            (one["port"], one["flags"], one["master-link-status"]) == (str(other), "slave", "ok")
            for one in self._replicas()
        )

    def _replicas(self) -> list[dict[str, str]]:
        """What the Sentinel knows of the replicas."""
        answers = [[value.decode() for value in one] for one in self.sentinel.command("SENTINEL", "REPLICAS", SERVICE)]
        return [dict(zip(one[::2], one[1::2], strict=True)) for one in answers]

    def _begin(self) -> bool:
        try:
            self.sentinel.command("SENTINEL", "FAILOVER", SERVICE)
        except redis.ResponseError:  # NOGOODSLAVE, INPROG
            return False
        return True


@contextmanager
def running_sentinel(master: RedisServer, *config: str) -> Iterator[RedisServer]:
    """A Sentinel of the master's kind, alone with its opinion."""
    lines = (
        f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 1",
        f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MILLISECONDS}",
        f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MILLISECONDS}",
    )
    with running_redis(master.binary, *lines, *config, arguments=("--sentinel",)) as sentinel:
        yield sentinel


@contextmanager
def watched_pair(binary: Binary) -> Iterator[Watched]:
    diskless = "repl-diskless-sync-delay 0"
    with (
        running_redis(binary, diskless) as master,
        running_redis(binary, diskless, f"replicaof 127.0.0.1 {master.port}") as replica,
    ):
        wait_until(lambda: _in_step(replica), lambda: f"{replica.command('ROLE')}")
        with running_sentinel(master) as sentinel:
            watched = Watched(sentinel, (master, replica))
            watched.settle()
            yield watched


def _in_step(replica: RedisServer) -> bool:
    return bool(replica.command("ROLE")[3:4] == [b"connected"])
