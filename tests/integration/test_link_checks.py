"""Links to real servers pass the checks that links to the simulation's servers pass, on every event loop."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskStatus

from bridge.links.openers import RealLinks, Session
from bridge.links.pod import PodLink, open_pod
from bridge.links.sessions import TERM_SHIFT
from tests.support.link_bench import HISTORY_ENTRIES
from tests.support.link_checks import CHECKS, Check
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.pod import FakePod
from tests.support.pod_checks import POD_CHECKS, PodCheck
from tests.support.stack import Stack


class RealBench:
    """The bench on real servers."""

    def __init__(self, stack: Stack) -> None:
        self.settings = stack.settings(probe_seconds=0.3, history_entries=HISTORY_ENTRIES)
        self.links = RealLinks(self.settings)
        self._stack = stack
        self._base = f"{self.settings.redis_prefix}:{self.settings.digest}"

    async def notify(self, *notifications: tuple[str, str]) -> None:
        channels, payloads = map(list, zip(*notifications, strict=True))
        sql = "SELECT count(pg_notify(c, p)) FROM unnest(%s::text[], %s::text[]) n(c, p)"
        await anyio.to_thread.run_sync(partial(self._stack.postgres.execute, sql, channels, payloads))

    async def terminate(self, session: Session) -> None:
        sql = "SELECT pg_terminate_backend(%s)"
        await anyio.to_thread.run_sync(self._stack.postgres.execute, sql, session.term % 2**TERM_SHIFT)

    async def flush(self) -> None:
        self._stack.redis.command("FLUSHALL")

    async def delete(self, key: str) -> None:
        self._stack.redis.command("DEL", f"{self._base}:{key}")

    async def trim_all(self) -> None:
        self._stack.redis.command("XTRIM", f"{self._base}:log", "MAXLEN", "0")

    async def forget_scripts(self) -> None:
        self._stack.redis.command("SCRIPT", "FLUSH")

    async def restart_redis_empty(self) -> None:
        await self.stop_redis()
        await self.start_redis()

    async def stop_redis(self) -> None:
        await anyio.to_thread.run_sync(self._stack.redis.kill)

    async def start_redis(self) -> None:
        await anyio.to_thread.run_sync(self._stack.redis.start)

    @asynccontextmanager
    async def out_of_memory(self) -> AsyncIterator[None]:
        with self._stack.redis.configured(maxmemory=1, maxmemory_policy="noeviction"):
            yield

    @asynccontextmanager
    async def replica(self) -> AsyncIterator[None]:
        self._stack.redis.command("REPLICAOF", "127.0.0.1", "1")
        yield
        self._stack.redis.command("REPLICAOF", "NO", "ONE")


class SocketBench:
    """The bench of a pod on a real socket."""

    def __init__(self, path: Path) -> None:
        self.pod = FakePod(history_entries=5000)
        self._path = path
        self._serving = anyio.CancelScope()

    def link(self) -> AbstractAsyncContextManager[PodLink]:
        return open_pod(self._path)

    async def serve(self, task_status: TaskStatus[None]) -> None:
        with self._serving:
            await self.pod.outlet.serve(self._path, task_status=task_status)

    async def kill(self) -> None:
        self._serving.cancel()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("check", POD_CHECKS, ids=lambda check: check.__name__)
def test_on_a_real_socket(check: PodCheck, loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            bench = SocketBench(tmp_path / "listener.sock")
            await tasks.start(bench.serve)
            await check(bench)
            tasks.cancel_scope.cancel()

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_on_real_servers(check: Check, loop: Loop, stack: Stack) -> None:
    run_on(loop, check, RealBench(stack))
