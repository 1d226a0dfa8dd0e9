"""The world of one run: the servers, the processes, and the applications that notify."""

import pathlib
from random import Random

import anyio
import msgspec
from anyio.abc import TaskGroup

from bridge.errors import PodLost
from bridge.links.redis_url import RedisTarget
from tests.sim.clients import AWAY_SECONDS, Traveller
from tests.sim.plan import Plan, Readers
from tests.sim.postgres_server import PostgresServer
from tests.sim.process import CHANNELS, Process
from tests.sim.redis_server import RedisServer
from tests.sim.runtime import Agenda, Loop
from tests.sim.wire import ServerEnd, Wire
from tests.support.oracle import Committed, View

ALL_CHANNELS = sorted({channel for channels in CHANNELS for channel in channels})


class World:
    """Everything that there is in one run."""

    def __init__(self, plan: Plan, choices: Random, loop: Loop = "trio") -> None:
        self.agenda = Agenda()
        self.choices = choices
        self.seed = plan.seed
        self.with_redis = plan.with_redis
        self.readers: Readers = "tasks" if loop == "asyncio" and plan.readers == "sockets" else plan.readers
        self.hurries = False
        """Whether slow readers read as fast as they can from now on."""
        self.committed: list[Committed] = []
        self.views: list[View] = []
        self.redis = RedisServer()
        self.postgres = PostgresServer(choices)
        self.processes = [
            Process(
                self,
                f"{one.kind}{number}",
                one.channel_set,
                listens=one.kind != "worker",
                serves=one.kind != "listener",
                history_entries=plan.history_entries,
            )
            for number, one in enumerate(plan.processes)
        ]
        self.travellers = [
            Traveller(self, number, channel_set, frozenset(CHANNELS[channel_set]))
            for number, channel_set in enumerate({one.channel_set for one in self.processes if one.serves})
        ]
        for process, one in zip(self.processes, plan.processes, strict=True):
            process.pod = None if one.pod is None else self.processes[one.pod]
        self._by_name = {process.name: process for process in self.processes}
        self.pod_wires: list[Wire] = []
        self._number = 0
        self.tasks: TaskGroup | None = None

    async def connect(self, target: RedisTarget) -> Wire:
        """A connection of the process whose name is the host in its Redis URL."""
        process = self._by_name[target.host]
        wire = await self.redis.connect(process.to_redis)
        process.wires = [one for one in process.wires if not one.closed]
        process.wires.append(wire)
        return wire

    async def connect_pod(self, path: pathlib.Path) -> Wire:
        """A connection of the worker of this name to the listener of its pod."""
        process = self._by_name[path.name]
        await process.to_pod.travel(1)
        wire = Wire(process.to_pod)
        if process.pod is None or not process.pod.accept(ServerEnd(wire)):
            raise PodLost("cannot connect to the pod's listener: refused")
        process.wires = [*(one for one in process.wires if not one.closed), wire]
        self.pod_wires = [*(one for one in self.pod_wires if not one.closed), wire]
        return wire

    def start(self, tasks: TaskGroup) -> None:
        self.tasks = tasks
        tasks.start_soon(self.agenda.run)
        for process in self.processes:
            process.start(tasks)
        for traveller in self.travellers:
            tasks.start_soon(traveller.travel)

    @property
    def present_views(self) -> list[View]:
        """Of all clients that are connected now."""
        staying = [view for process in self.processes for view in process.views]
        return staying + [one.view for one in self.travellers if one.view is not None]

    async def settle(self) -> None:
        """Wait until all travellers are somewhere; they stay there. Nobody reads slowly any more."""
        self.hurries = True
        for traveller in self.travellers:
            traveller.settled = True
        while not all(traveller.connected for traveller in self.travellers):  # noqa: ASYNC110 - costs no real time
            await anyio.sleep(AWAY_SECONDS)

    def new_view(self, name: str, channels: frozenset[str]) -> View:
        view = View(f"{name}#{len(self.views)}", channels, len(self.committed))
        self.views.append(view)
        return view

    def commit(self, count: int, size_bytes: int = 0) -> None:
        """One transaction with so many notifications, on any channels."""
        new: list[Committed] = []
        for _ in range(count):
            self._number += 1
            new.append((self.choices.choice(ALL_CHANNELS), self._number))
        self.commit_all(new, size_bytes)

    def commit_all(self, new: list[Committed], size_bytes: int = 0) -> None:
        self.postgres.commit(
            [(channel, msgspec.json.encode({"n": n, "x": "x" * size_bytes})) for channel, n in new],
            lambda: self.committed.extend(new),
        )

    def commit_last(self) -> list[Committed]:
        """One notification on each channel."""
        last = [(channel, self._number + 1 + i) for i, channel in enumerate(ALL_CHANNELS)]
        self._number += len(last)
        self.commit_all(last)
        return last
