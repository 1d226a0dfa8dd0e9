"""What the faults happen to: servers, bridge processes behind proxies, a writer, and clients that come and go."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import postgres as pg
from tests.support import redis as rd
from tests.support.fleet import LISTENER, WHOLE, WORKER, Fleet, running_fleet, through
from tests.support.oracle import View, violations
from tests.support.process import wait_until
from tests.support.proxy import Proxy, proxy_of
from tests.support.traffic import Client, Writer, all_committed, view_of

POD = "pod"
KINDS = {
    "listener-1": LISTENER,
    "listener-2": LISTENER,
    "worker-1": WORKER,
    "worker-2": WORKER,
    "whole": WHOLE,
    POD: (*WHOLE, "--workers", "2"),
    "application": ("tests.support.application_process",),
}
SERVING = ("worker-1", "worker-2", "whole", POD, "application")
LISTENING = 4
VISITORS = 3
"""Clients beside those that stay, which come at any time and leave again."""
CALM_SECONDS = 90.0
"""How long the bridge has, after the last fault, until all is well again."""


@dataclass
class Seat:
    """A client and the process it is connected to."""

    name: str
    client: Client
    complete: bool = True
    """Whether it is meant to stay to the end."""


@dataclass
class World:
    """Everything, running."""

    postgres: pg.PostgresServer
    redis: rd.RedisServer
    fleet: Fleet
    to_postgres: dict[str, Proxy]
    to_redis: dict[str, Proxy]
    writer: Writer
    chance: random.Random
    seats: list[Seat] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What was seen to be wrong that the oracle cannot see."""

    @property
    def proxies(self) -> list[Proxy]:
        return [*self.to_postgres.values(), *self.to_redis.values()]

    def killed(self, name: str) -> None:
        """This process was killed on purpose: its clients are not expected to stay."""
        for seat in self.seats:
            if seat.name == name:
                seat.complete = False

    def pod_children(self) -> dict[str, list[int]]:
        """The pids of the pod's children, by their roles; threads have children each."""
        found: dict[str, list[int]] = {}
        for children in Path(f"/proc/{self.fleet.processes[POD].process.pid}/task").glob("*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread, or a child, has just ended
                for pid in children.read_text().split():
                    if arguments := Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0"):
                        found.setdefault(arguments.rpartition("\0")[2], []).append(int(pid))
        return found

    def tend(self) -> None:
        """Start what was killed, seat a client where none is, and let visitors come and go."""
        self.fleet.replace_ended()
        for process in self.fleet.processes.values():
            if not process.url:
                process.wait_until_listening()
        for name in SERVING:
            if not any(seat.name == name and seat.complete for seat in self.seats):
                self._seat(name, complete=True)
        visiting = [seat for seat in self.seats if not seat.complete and seat.client.ended is None]
        if len(visiting) >= VISITORS:
            self.chance.choice(visiting).client.close()
        self._seat(self.chance.choice(SERVING), complete=False)

    def check_connections(self) -> None:
        """A client is only ever sent away by its process's end."""
        for seat in self.seats:
            if seat.complete and seat.client.ended is not None:
                seat.complete = False
                at = seat.client.ended
                self.wrong.append(f"{seat.name} ended a connection at {at:.3f} with code {seat.client.close_code}")

    def wait_until_well(self) -> None:
        """Wait until every process says so, and only the listeners listen."""
        deadline = time.time() + CALM_SECONDS
        while (unwell := self._unwell()) and time.time() < deadline:
            time.sleep(0.2)
        if unwell:
            self.wrong.append(f"not well {CALM_SECONDS:g} s after a fault, at {time.time():.3f}: {unwell}")

    def calm_down(self) -> None:
        """Wait until all is well and everything has arrived."""
        self.wait_until_well()
        self.tend()
        time.sleep(1.0)
        self.writer.stop()
        staying = [seat for seat in self.seats if seat.complete]
        try:
            wait_until(lambda: all(seat.client.has(self.writer.last) for seat in staying), lambda: "")
        except AssertionError:
            self.wrong.append("the last notification has not reached every client")
        time.sleep(3.0)  # what is late, and what ends a pending gap
        self.check_connections()

    def views(self) -> list[View]:
        return [
            view_of(f"client {number} of {seat.name}", seat.client, self.writer, complete=seat.complete)
            for number, seat in enumerate(self.seats)
        ]

    def verdict(self) -> list[str]:
        return [*self.wrong, *violations(all_committed(self.writer), self.views())]

    def announced_as_lost(self) -> int:
        """How many notifications the clients that stayed did not get; where nothing is wrong, they were told of all."""
        missing = 0
        for seat in self.seats:
            if seat.complete:
                got = {arrival.number for arrival in seat.client.arrivals}
                owed = (n for n, sent in self.writer.committed.items() if sent > seat.client.subscribed)
                missing += sum(number not in got for number in owed)
        return missing

    def _seat(self, name: str, *, complete: bool) -> None:
        try:
            client = Client(self.fleet.processes[name].url)
        except (OSError, AssertionError):
            return  # stopped, or not there yet: another time
        self.seats.append(Seat(name, client, complete))

    def _unwell(self) -> dict[str, object]:
        answers: dict[str, object] = {}
        for name, process in self.fleet.processes.items():
            try:
                answer = json.loads(process.get("/health")[1])
            except OSError as error:
                answer = {"status": str(error)}
            if answer["status"] != "ok":
                answers[name] = answer
        listening = self.fleet.names()
        if listening != ["bridge listener"] * LISTENING:
            answers["sessions"] = listening
        return answers


@contextmanager
def world(directory: Path, chance: random.Random, binary: rd.Binary, per_second: float) -> Iterator[World]:
    """Everything running and well; ended at the end."""
    with ExitStack() as stack:
        postgres = stack.enter_context(pg.postgres_server("embedded"))
        redis = stack.enter_context(rd.running_redis(binary))
        to_postgres = {name: stack.enter_context(proxy_of(postgres.port)) for name in KINDS}
        to_redis = {name: stack.enter_context(proxy_of(redis.port)) for name in KINDS}
        fleet = stack.enter_context(running_fleet((postgres, redis), "chaos", directory))
        fleet.settings |= {"BRIDGE_REDIS_TIMEOUT_SECONDS": "1", "BRIDGE_HEARTBEAT_TIMEOUT_SECONDS": "2"}  # more happens
        for name, arguments in KINDS.items():
            fleet.add(
                name,
                arguments,
                DATABASE_URL=through(postgres.url(), to_postgres[name].port),
                REDIS_URL=through(redis.url, to_redis[name].port),
            )
        fleet.wait()
        writer = Writer(postgres.url(), per_second, seed=chance.randrange(1 << 30))
        made = World(postgres, redis, fleet, to_postgres, to_redis, writer, chance)
        made.tend()
        for seat in made.seats:
            seat.client.wait_until_subscribed()
        try:
            writer.start()
            yield made
        finally:
            for seat in made.seats:
                seat.client.close()
