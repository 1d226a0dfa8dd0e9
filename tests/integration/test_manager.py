"""`MatchDataWebSocketManager` on real servers, used as its predecessor was, on every event loop."""

import ast
import asyncio
import itertools
import re
import signal
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, WebSocket

from bridge import BridgeError, MatchDataWebSocketManager, SettingsError
from bridge.asgi import draining
from bridge.asgi import manager as managing
from tests.support import postgres as pg
from tests.support import redis as rd
from tests.support.asgi import socket, stream
from tests.support.fleet import LISTENER, LISTENING, Fleet, Servers, running_fleet
from tests.support.fleet import postgres as postgres
from tests.support.fleet import redis as redis
from tests.support.fleet import servers as servers
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.terminated import heard as heard
from tests.support.terminated import sent_away, terminate

numbers = itertools.count(1)
ASYNCIO: tuple[Loop, ...] = ("asyncio", "uvloop")

SNIPPETS = {
    "direct": "manager = MatchDataWebSocketManager(db_url=pg_url, use_redis=False)",
    "redis": """
        manager = MatchDataWebSocketManager(
            db_url=pg_url,
            use_redis=True,
            redis_url="redis://localhost:6379"
        )
        """,
}
"""As users of the predecessor have them, after the import: only the ports are those of the tests."""


@pytest.fixture(scope="module")
def fleet(servers: Servers) -> Iterator[Fleet]:
    with running_fleet(servers, "pg_notify") as fleet:
        fleet.add("listener", LISTENER)
        fleet.wait()
        yield fleet


def made(mode: str, postgres: pg.PostgresServer, redis: rd.RedisServer) -> MatchDataWebSocketManager:
    """What a snippet makes."""
    snippet = textwrap.dedent(SNIPPETS[mode]).replace("localhost:6379", f"127.0.0.1:{redis.port}")
    names: dict[str, Any] = {"pg_url": postgres.url()}
    exec(compile(ast.parse(f"from bridge import MatchDataWebSocketManager\n{snippet}"), "snippet", "exec"), names)
    manager = names["manager"]
    assert isinstance(manager, MatchDataWebSocketManager)
    return manager


def application(manager: MatchDataWebSocketManager) -> FastAPI:
    app = FastAPI(routes=manager.routes(path="/all"))

    @app.websocket("/ws/match/{match_id}/stats")
    async def stats(websocket: WebSocket, match_id: int) -> None:
        await manager.handle(websocket, match_id)

    return app


async def use(manager: MatchDataWebSocketManager, mode: str, postgres: pg.PostgresServer) -> None:
    """Serve clients with a manager that runs."""
    assert (manager.is_connected, manager.mode) == (True, mode)
    app = application(manager)
    async with socket(app, "/ws/match/7/stats") as client, socket(app, "/all/ws/match_change") as other:
        assert (await client.heard(1))[0]["where"] == {"match_id": "7"}
        await other.heard(1)
        first, second = next(numbers), next(numbers)
        for number, match_id in ((first, 8), (second, 7)):
            payload = f'{{"n":{number},"match_id":{match_id}}}'
            await anyio.to_thread.run_sync(postgres.execute, "SELECT pg_notify('match_change', %s)", payload)
        await other.until(lambda: second in other.numbers)
        await client.until(lambda: second in client.numbers)
        assert other.numbers[-2:] == [first, second]  # before them, what was on its way when they subscribed
        assert first not in client.numbers


async def sessions(postgres: pg.PostgresServer) -> list[str]:
    return [name for name, _ in await anyio.to_thread.run_sync(postgres.execute, LISTENING)]


@pytest.mark.parametrize("loop", ASYNCIO)
@pytest.mark.parametrize("mode", SNIPPETS)
def test_startup_and_shutdown(
    loop: Loop, mode: str, fleet: Fleet, postgres: pg.PostgresServer, redis: rd.RedisServer
) -> None:
    async def main() -> None:
        manager = made(mode, postgres, redis)
        assert not manager.is_connected
        for _ in range(2):  # it can be started again
            await manager.startup()
            await manager.startup()
            await use(manager, mode, postgres)
            assert (await sessions(postgres)).count("bridge fallback") == (mode == "direct")
            async with socket(application(manager), "/ws/match/7/stats") as client:
                await client.heard(1)
                await manager.shutdown()
                await client.ended()
                assert client.close_code == 1001
            await manager.shutdown()
            assert (manager.is_connected, manager.mode) == (False, "none")
            with anyio.fail_after(30):
                while "bridge fallback" in await sessions(postgres):  # noqa: ASYNC110 (another process's view)
                    await anyio.sleep(0.02)

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("mode", SNIPPETS)
def test_as_a_context_manager(
    loop: Loop, mode: str, fleet: Fleet, postgres: pg.PostgresServer, redis: rd.RedisServer
) -> None:
    async def main() -> None:
        async with made(mode, postgres, redis) as manager:
            await use(manager, mode, postgres)
            with pytest.raises(BridgeError, match="runs already"):
                await manager.__aenter__()
        assert not manager.is_connected

    run_on(loop, main)


def test_startup_does_not_wait_for_ever_and_clients_hear_later(
    postgres: pg.PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managing, "STARTUP_SECONDS", 0.2)
    postgres.stop()

    async def main() -> None:
        manager = MatchDataWebSocketManager(db_url=postgres.url(), retry_seconds=0.2)
        began = time.monotonic()
        await manager.startup()
        try:
            assert time.monotonic() - began < 30
            assert not manager.is_connected
            async with socket(application(manager), "/ws/match/7/stats") as client:
                await client.until(lambda: client.accepted)
                await anyio.to_thread.run_sync(postgres.start)
                assert (await client.heard(1))[0]["type"] == "subscribed"
            assert manager.is_connected
        finally:
            await manager.shutdown()

    try:
        run_on("asyncio", main)
    finally:
        postgres.stop()
        postgres.start()


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_wrong_is_said(loop: Loop) -> None:
    bad = MatchDataWebSocketManager(db_url="postgresql://here:0/db")

    async def main() -> None:
        with pytest.raises(BridgeError, match=r"call startup\(\) first"):
            _ = bad.feed
        with pytest.raises(SettingsError, match="db_url"):
            async with bad:
                pass
        if loop == "trio":
            with pytest.raises(BridgeError, match="on trio, use the manager as a context manager"):
                await bad.startup()
        else:
            with pytest.raises(SettingsError, match="db_url"):
                await bad.startup()
        await bad.shutdown()

    run_on(loop, main)


@pytest.mark.parametrize("loop", ASYNCIO)
def test_a_startup_that_is_cancelled_leaves_nothing(loop: Loop) -> None:
    async def main() -> None:
        manager = MatchDataWebSocketManager(db_url="postgresql://postgres@127.0.0.1:1/db")
        with anyio.move_on_after(0.1) as scope:
            await manager.startup()
        assert scope.cancelled_caught
        assert not manager.is_connected
        with pytest.raises(BridgeError):
            _ = manager.feed

    run_on(loop, main)


@pytest.mark.parametrize("loop", ASYNCIO)
@pytest.mark.parametrize("db_url", ["postgresql://postgres@127.0.0.1:1/db", "postgresql://here:0/db"])
def test_a_startup_that_is_cancelled_while_it_opens_says_so(loop: Loop, db_url: str) -> None:
    """Whether what it opens would have opened or not."""

    async def main() -> None:
        manager = MatchDataWebSocketManager(db_url=db_url)
        with anyio.fail_after(30):
            starting = asyncio.create_task(manager.startup())
            asyncio.get_running_loop().call_soon(starting.cancel)  # after its first step, before the feed's own
            with pytest.raises(asyncio.CancelledError):
                await starting
        assert not manager.is_connected
        assert {task.get_name() for task in asyncio.all_tasks()}.isdisjoint({"MatchDataWebSocketManager"})

    run_on(loop, main)


def without_servers(monkeypatch: pytest.MonkeyPatch) -> MatchDataWebSocketManager:
    monkeypatch.setattr(managing, "STARTUP_SECONDS", 0.0)
    return MatchDataWebSocketManager(db_url="postgresql://postgres@127.0.0.1:1/db")


async def end_by_signal(manager: MatchDataWebSocketManager, heard: list[int]) -> None:
    """By a signal, while clients are there whose subscriptions wait for a database."""
    app = application(manager)
    async with socket(app, "/ws/match/7/stats") as client, stream(app, "/all/sse") as events:
        await client.until(lambda: client.accepted)
        await events.body_holds("retry: ")
        await sent_away(client, events, heard)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_signal_sends_clients_away(loop: Loop, heard: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    manager = without_servers(monkeypatch)
    handler = signal.getsignal(signal.SIGTERM)

    async def main() -> None:
        async with manager:
            await end_by_signal(manager, heard)
        assert signal.getsignal(signal.SIGTERM) is handler

    run_on(loop, main)


@pytest.mark.parametrize("loop", ASYNCIO)
@pytest.mark.parametrize("beside", ["nothing", "shorter", "longer"])
def test_a_signal_sends_clients_away_after_startup_too(
    loop: Loop, beside: str, heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the application has `draining` itself, and whichever of the two ends first."""
    manager = without_servers(monkeypatch)
    handler = signal.getsignal(signal.SIGTERM)

    async def main() -> None:
        await manager.startup()
        with nullcontext() if beside == "nothing" else draining(manager.feed):
            await end_by_signal(manager, heard)
            if beside == "longer":
                await manager.shutdown()
        await manager.shutdown()

    run_on(loop, main)
    heard.clear()
    terminate()
    assert heard == [signal.SIGTERM]
    if beside != "longer":
        assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("loop", ASYNCIO)
def test_startup_in_another_thread_leaves_signals_alone(
    loop: Loop, heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = without_servers(monkeypatch)
    handler = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    async def main() -> None:
        await manager.startup()
        async with socket(application(manager), "/ws/match/7/stats") as client:
            await client.until(lambda: client.accepted)
            seen.append(signal.getsignal(signal.SIGTERM))
            await manager.shutdown()
            await client.ended()
            seen.append(client.close_code)

    thread = threading.Thread(target=run_on, args=(loop, main))
    thread.start()
    thread.join(30)
    assert seen == [handler, 1001]


@pytest.mark.parametrize("loop", LOOPS)
def test_while_it_does_not_run_clients_are_told_to_come_back(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = without_servers(monkeypatch)

    async def refuses() -> None:
        app = application(manager)
        for path in ("/ws/match/7/stats?token=secret", "/all/ws?token=secret"):
            async with socket(app, path) as client, socket(app, path, answers=False) as simple:
                await client.ended()
                await simple.ended()
                assert (client.status, simple.close_code) == (503, 1001)
                assert any(b"retry-after" in dict(message.get("headers", [])) for message in client.sent)
                assert simple.close_reason.startswith("retry=")
                assert b"secret" not in client.scope["query_string"]
        async with stream(app, "/all/sse?token=secret") as events:
            await events.ended()
            assert (events.status, events.whole) == (200, True)
            assert events.headers["content-type"].startswith("text/event-stream")
            assert re.fullmatch(r"retry: \d+\n\n", events.body)
            assert b"secret" not in events.scope["query_string"]

    def warnings() -> int:
        return sum(record.levelname == "WARNING" and "call startup() first" in record.message for record in records)

    records = caplog.records

    async def main() -> None:
        await refuses()
        assert warnings() == 1  # a crowd comes back again and again
        async with manager, socket(application(manager), "/ws/match/7/stats") as client:
            await client.until(lambda: client.accepted)
        await refuses()

    run_on(loop, main)
    assert warnings() == 2
