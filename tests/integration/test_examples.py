"""The examples as users run them: a FastAPI application under uvicorn with four workers, and a trio program.

All workers together hold no LISTEN session beside the listener's, while Redis feeds them.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

import bridge.client
from bridge import Gap, Notification, Subscribed
from bridge.client import connect
from tests.support.application import Application, Blocks, uvicorn
from tests.support.fleet import LISTENER, LISTENING, SETTLE_SECONDS, Fleet, Servers, Traffic, running_fleet
from tests.support.fleet import postgres as postgres
from tests.support.fleet import redis as redis
from tests.support.fleet import servers as servers
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.postgres import PostgresServer
from tests.support.process import clean_environment, wait_until
from tests.support.redis import RedisServer
from tests.support.traffic import Client, Writer

APP = "examples.fastapi_app:app"
WORKERS = 4
FALLBACK = "bridge fallback"


@pytest.fixture(scope="module")
def fleet(servers: Servers) -> Iterator[Fleet]:
    """The listener, and settings that lead to its log."""
    with running_fleet(servers, "examples") as fleet:
        fleet.add("listener", LISTENER)
        fleet.wait()
        yield fleet


@pytest.fixture(scope="module")
def app(fleet: Fleet) -> Iterator[Application]:
    """The FastAPI example with four workers, all of which are live."""
    with uvicorn(fleet.settings, APP, "--workers", str(WORKERS)) as app:
        app.wait_for_workers(WORKERS)
        app.wait_for("redis")
        yield app


@pytest.fixture
def whole(app: Application, fleet: Fleet) -> Application:
    """Everything is as it is when nothing has failed."""
    fleet.wait_until_healthy()
    app.wait_for_workers(WORKERS)
    fleet.wait_for_sessions("bridge listener")
    return app


@contextmanager
def client_of_each(app: Application, path: str = "/ws") -> Iterator[dict[int, Client]]:
    """A client at each worker, by the worker's pid."""
    made: dict[int, Client] = {}
    try:
        for worker in app.workers():
            with app.only(worker):
                made[worker] = Client(app.url, path).wait_until_subscribed()
        yield made
    finally:
        for client in made.values():
            client.close()


@contextmanager
def most_sessions(fleet: Fleet) -> Iterator[list[int]]:
    """The largest number of LISTEN sessions that was seen while inside, looked at all the time."""
    most, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], len(fleet.postgres.execute(LISTENING)))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join(10)


def test_four_workers_hold_no_session_and_lose_nothing_when_redis_is_killed(
    whole: Application, fleet: Fleet, redis: RedisServer
) -> None:
    writer = Writer(fleet.postgres.url(), 200.0)
    with client_of_each(whole) as clients, client_of_each(whole, "/ws/match/7/stats") as narrow:
        assert len(clients) == WORKERS
        assert fleet.names() == ["bridge listener"]
        traffic = Traffic(writer.start(), {f"worker {pid}": client for pid, client in clients.items()})
        try:
            traffic.flow(1.0)
            assert fleet.names() == ["bridge listener"]
            with most_sessions(fleet) as most:
                redis.kill()
                fleet.wait_for_sessions("bridge listener", *[FALLBACK] * WORKERS)
                traffic.flow(2.0)
                redis.start()
                fleet.wait_for_sessions("bridge listener")
                traffic.flow(1.0)
            assert most[0] == WORKERS + 1
            assert all(client.ended is None for client in clients.values())
        finally:
            writer.stop()
            redis.kill()
            redis.start()
        traffic.settle()
        wanted = [number for number in writer.committed if number % 10 == 7]
        for client in narrow.values():
            wait_until(lambda client=client: client.has(wanted[-1]), lambda: "the last one is missing")  # type: ignore[misc]
            assert sorted(a.number for a in client.of_type("notification") if a.number is not None) == wanted
    assert fleet.wait_for_sessions("bridge listener")


def test_clients_of_a_killed_worker_go_on_at_another_one(whole: Application, fleet: Fleet) -> None:
    writer = Writer(fleet.postgres.url(), 200.0, after=10_000_000).start()
    try:
        with client_of_each(whole) as clients:
            victim, client = next(iter(clients.items()))
            wait_until(lambda: len(client.of_type("notification")) > 50, lambda: "nothing comes")
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: client.ended is not None, lambda: "the connection has not ended")
            before = client.messages
            last = before[-1]
            cursor = last.get("cursor") or last.get("id") or last["position"]
            other = next(pid for pid in clients if pid != victim)
            with whole.only(other):
                again = Client(whole.url, f"/ws?after={cursor}").wait_until_subscribed()
            try:
                time.sleep(0.5)
                writer.stop()
                wait_until(lambda: again.has(writer.last), lambda: "the last one is missing", SETTLE_SECONDS)
                assert again.of_type("gap") == []
                first = int(client.arrivals[1].number or 0)
                heard = [a.number for a in (*client.arrivals, *again.arrivals) if a.number is not None]
                assert heard == [number for number in writer.committed if number >= first]
            finally:
                again.close()
    finally:
        writer.stop()
    wait_until(
        lambda: len(whole.workers()) == WORKERS and victim not in whole.workers(),
        lambda: f"no worker takes its place:\n{whole.log()[-3000:]}",
    )
    assert fleet.wait_for_sessions("bridge listener")


@pytest.mark.parametrize("loop", LOOPS)
def test_the_client_of_the_library_notices_nothing_when_workers_die(
    loop: Loop, whole: Application, fleet: Fleet
) -> None:
    first = {"asyncio": 20_000_000, "uvloop": 30_000_000, "trio": 40_000_000}[loop]
    writer = Writer(fleet.postgres.url(), 200.0, after=first)
    heard: list[int] = []
    gaps: list[Gap] = []

    async def main() -> None:
        async with connect(whole.url, retry_seconds=0.2) as client:
            assert isinstance(await anext(client), Subscribed)
            writer.start()
            for count in (WORKERS - 1, WORKERS):
                await read(client, 100)
                for pid in whole.workers()[:count]:
                    os.kill(pid, signal.SIGKILL)
                await read(client, 200)
            await anyio.to_thread.run_sync(writer.stop)
            while not heard or heard[-1] != writer.last:
                await read(client, 1)

    async def read(client: bridge.client.Client, count: int) -> None:
        """So many notifications more."""
        wanted = len(heard) + count
        while len(heard) < wanted:
            event = await anext(client)
            if isinstance(event, Notification):
                heard.append(event.payload["n"])
            elif isinstance(event, Gap):
                gaps.append(event)

    try:
        run_on(loop, main)
    finally:
        writer.stop()
    assert heard == list(writer.committed)
    assert gaps == []


def test_what_the_example_serves(whole: Application, postgres: PostgresServer) -> None:
    status, page = whole.get("/")
    assert status == 200
    assert b"EventSource" in page
    well = {"status": "ok", "mode": "redis", "reason": ""}
    wait_until(lambda: whole.health() == well, lambda: f"{whole.health()}")  # one worker may just have begun
    assert whole.get("/ws")[0] == 426
    assert whole.get("/sse", Host="evil.example")[0] == 403
    assert whole.get("/sse?token=a-secret")[0] == 400
    own, stream = Client(whole.url, "/matches/7/live").wait_until_subscribed(), Blocks(whole, "/sse/match/7/stats")
    try:
        stream.until("event: subscribed\n")
        for number in (8, 7):
            postgres.execute("SELECT pg_notify('match_change', %s)", f'{{"n":{number},"match_id":{number}}}')
        wait_until(lambda: own.has(7), lambda: "nothing came")
        assert not own.has(8)
        stream.until('"payload":{"n":7,"match_id":7}')
        assert '"n":8' not in stream.text
    finally:
        own.close()
        stream.close()
    with pytest.raises(AssertionError, match="403"):
        Client(whole.url, "/matches/0/live")
    assert "token=***" in whole.log()
    assert "a-secret" not in whole.log()


def test_a_trio_program_handles_everything_at_least_once(fleet: Fleet, tmp_path: Path) -> None:
    postgres = fleet.postgres
    positions, output = tmp_path / "positions", tmp_path / "output"

    def start() -> subprocess.Popen[bytes]:
        with output.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "examples/trio_app.py", str(positions)],
                env=clean_environment(fleet.settings) | {"PYTHONPATH": str(Path.cwd())},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def handled(number: int) -> bool:
        return all(f"{who}: " in output.read_text() for who in ("scoreboard", "audit")) and (
            f"{{'n': {number}}}" in output.read_text() and output.read_text().count("audit: ") >= number
        )

    def say(number: int) -> None:
        postgres.execute("SELECT pg_notify('match_change', %s)", f'{{"n":{number}}}')

    program = start()
    try:
        wait_until(lambda: len(list(positions.glob("*"))) == 2, lambda: f"no positions:\n{output.read_text()}")
        for number in (1, 2, 3):
            say(number)
        wait_until(lambda: handled(3), lambda: f"not handled:\n{output.read_text()}")
        program.kill()
        program.wait()
        for number in (4, 5):
            say(number)
        program = start()
        wait_until(lambda: handled(5), lambda: f"not handled:\n{output.read_text()}")
        shown = [line for line in output.read_text().splitlines() if line.startswith("scoreboard")]
        numbers = [int(line.rpartition(": ")[2].rstrip("}")) for line in shown]
        assert list(dict.fromkeys(numbers)) == [1, 2, 3, 4, 5]
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 130
    finally:
        program.kill()
        program.wait()
