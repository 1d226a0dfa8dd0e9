"""The servers in memory are verified: links to them pass the checks that links to real servers pass."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random
from typing import cast
from unittest import mock

import anyio
import pytest

from bridge.links.openers import Session
from bridge.links.pod import PodLink, open_pod
from bridge.links.postgres import ListenSession
from tests.sim.faults import OUT_OF_MEMORY, READ_ONLY
from tests.sim.plan import Plan, ProcessPlan
from tests.sim.postgres_server import Connection
from tests.sim.process import MemoryLinks
from tests.sim.runtime import LOOPS, Loop, run
from tests.sim.world import World
from tests.support.link_bench import HISTORY_ENTRIES
from tests.support.link_checks import CHECKS, Check
from tests.support.pod import FakePod
from tests.support.pod_checks import POD_CHECKS, PodCheck


class MemoryBench:
    """The bench in memory: a world with one process that does not run, for its links."""

    def __init__(self, world: World) -> None:
        (process,) = world.processes
        self.settings = process.settings
        self.links = MemoryLinks(process.settings, process)
        self._world = world

    async def notify(self, *notifications: tuple[str, str]) -> None:
        self._world.postgres.commit([(channel, payload.encode()) for channel, payload in notifications], lambda: None)

    async def terminate(self, session: Session) -> None:
        connection = cast(Connection, cast(ListenSession, session)._pgconn)
        self._world.postgres.terminate(connection)

    async def flush(self) -> None:
        self._world.redis.data.keys.clear()

    async def delete(self, key: str) -> None:
        for name in [name for name in self._world.redis.data.keys if name.endswith(f":{key}".encode())]:
            del self._world.redis.data.keys[name]

    async def trim_all(self) -> None:
        for stream in self._world.redis.data.streams():
            stream.trim(0)

    async def forget_scripts(self) -> None:
        self._world.redis.data.forget_scripts()

    async def restart_redis_empty(self) -> None:
        await self.stop_redis()
        await self.start_redis()

    async def stop_redis(self) -> None:
        self._world.redis.stop()
        await self.flush()

    async def start_redis(self) -> None:
        self._world.redis.start()

    @asynccontextmanager
    async def out_of_memory(self) -> AsyncIterator[None]:
        async with self._refusing(OUT_OF_MEMORY):
            yield

    @asynccontextmanager
    async def replica(self) -> AsyncIterator[None]:
        async with self._refusing(READ_ONLY):
            yield

    @asynccontextmanager
    async def _refusing(self, error: str) -> AsyncIterator[None]:
        self._world.redis.data.refusal = error
        yield
        self._world.redis.data.refusal = ""


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_memory(check: Check, loop: Loop) -> None:
    async def main(choices: Random) -> None:
        plan = Plan(0, (ProcessPlan("both"),), (), history_entries=HISTORY_ENTRIES)
        world = World(plan, choices, loop)
        with mock.patch("bridge.links.redis._connect", world.connect):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(world.agenda.run)
                await check(MemoryBench(world))
                tasks.cancel_scope.cancel()

    run(0, main, loop)


class MemoryPodBench:
    """The bench of a pod in memory: a world whose processes do not run, and the outlet in place of the listener's."""

    def __init__(self, world: World) -> None:
        self.pod = FakePod(history_entries=5000)
        self._listener, self._worker = world.processes

    def link(self) -> AbstractAsyncContextManager[PodLink]:
        return open_pod(Path(self._worker.name))

    async def serve(self) -> None:
        await self._listener.serve_pod(self.pod.outlet)

    async def kill(self) -> None:
        self._listener.kill()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("check", POD_CHECKS, ids=lambda check: check.__name__)
def test_the_pod_link_in_memory(check: PodCheck, loop: Loop) -> None:
    async def main(choices: Random) -> None:
        world = World(Plan(0, (ProcessPlan("listener"), ProcessPlan("worker", 0, 0)), ()), choices, loop)
        bench = MemoryPodBench(world)
        with mock.patch("bridge.links.pod._connect", world.connect_pod):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(world.agenda.run)
                tasks.start_soon(bench.serve)
                await anyio.wait_all_tasks_blocked()
                await check(bench)
                tasks.cancel_scope.cancel()

    run(0, main, loop)
