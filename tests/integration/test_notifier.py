"""The notifier on real servers and on every event loop, beside a listener that is a process of its own."""

import ast
import itertools
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.abc
import psycopg
import pytest

from bridge.errors import RedisLost
from bridge.links.redis import open_redis, parse_redis_url
from bridge.notifier import RedisNotifierService
from bridge.settings import Settings
from bridge.stream import Gap
from tests.support.fleet import LISTENER, LISTENING, Fleet, Servers, running_fleet
from tests.support.fleet import servers as servers
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.traffic import CHANNELS, Writer

pytestmark = pytest.mark.parametrize("loop", LOOPS)

PREFIX = "notifier"
DIGEST = Settings().digest
WAIT_SECONDS = 60.0
FIRST_NUMBERS = itertools.count(1_000_000)
"""Each is sent once."""
SNIPPET = """\
from src.utils.redis_notifier import RedisNotifierService, init_redis_notifier

# Initialize
notifier = await init_redis_notifier("redis://localhost:6379")

# Publish a notification
await notifier.publish("player_match_change", {"match_id": 123})

# Subscribe and listen
await notifier.subscribe()
notifier.register_callback("player_match_change", my_callback)
await notifier.listen_loop()
"""
"""As applications have it."""


@pytest.fixture(scope="module")
def fleet(servers: Servers) -> Iterator[Fleet]:
    """Servers, and a listener that every test leaves at work."""
    with running_fleet(servers, PREFIX) as running:
        running.add("listener", LISTENER)
        running.wait()
        yield running


@pytest.fixture
def world(fleet: Fleet, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> "World":
    for name in ("DATABASE_URL", "DB_HOST", "REDIS_URL", "USE_REDIS_NOTIFIER"):
        monkeypatch.delenv(name, raising=False)
    fleet.wait_until_healthy()
    return World(fleet, *servers)


@dataclass
class World:
    fleet: Fleet
    postgres: Any
    redis: Any

    def service(self, *, with_database: bool = True, **changes: object) -> RedisNotifierService:
        settings: dict[str, Any] = {"redis_prefix": PREFIX, "retry_seconds": 0.5} | changes
        return RedisNotifierService(self.redis.url, db_url=self.postgres.url() if with_database else None, **settings)

    def send(self, *numbers: int, channel: str = "match_change", pad: int = 0) -> None:
        payload = '{{"n":{0},"pad":"' + "x" * pad + '"}}'
        for number in numbers:
            self.postgres.execute("SELECT pg_notify(%s, %s)", channel, payload.format(number))

    def is_logged(self, number: int) -> bool:
        """Whether the newest entry of the log has this number."""
        newest = self.redis.command("XREVRANGE", f"{PREFIX}:{DIGEST}:log", "+", "-", "COUNT", 1)
        return bool(newest) and b'"n":%d,' % number in newest[0][1][b"e"]

    def fallbacks(self) -> int:
        return sum(name == "bridge fallback" for name, _ in self.postgres.execute(LISTENING))


@dataclass
class Ear:
    """What callbacks were called with."""

    numbers: list[int] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)

    def attach(self, service: RedisNotifierService, *channels: str) -> None:
        for channel in channels:
            service.register_callback(channel, self.take)
        service.register_gap_callback(self.gaps.append)

    async def take(self, channel: str, payload: Any) -> None:
        self.channels.append(channel)
        self.numbers.append(payload["n"])


async def until(condition: Callable[[], object]) -> None:
    """Wait for what other processes do, and nobody tells."""
    with anyio.fail_after(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def listening(service: RedisNotifierService) -> None:
    await until(lambda: service.mode == "redis")


in_thread: Callable[..., Awaitable[Any]] = anyio.to_thread.run_sync


@asynccontextmanager
async def looping(service: RedisNotifierService) -> AsyncIterator[anyio.abc.TaskGroup]:
    """Its loop runs, and ends with the body because the service is closed."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.listen_loop)
        try:
            yield tasks
        finally:
            with anyio.CancelScope(shield=True):
                await service.close()


def test_the_snippet_that_applications_have(loop: Loop, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word by word but for the import. Its port leads to the server of this test."""
    monkeypatch.setenv("DATABASE_URL", world.postgres.url())
    monkeypatch.setenv("BRIDGE_REDIS_PREFIX", PREFIX)
    connect = anyio.connect_tcp

    async def connect_to_the_test(host: str, port: int) -> anyio.abc.SocketStream:
        assert (host, port) == ("localhost", 6379)
        return await connect("127.0.0.1", world.redis.port)

    monkeypatch.setattr(anyio, "connect_tcp", connect_to_the_test)
    source = SNIPPET.replace("from src.utils.redis_notifier import", "from bridge import", 1)
    code = compile(source, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    called: list[tuple[str, Any]] = []

    async def my_callback(channel: str, payload: Any) -> None:
        called.append((channel, payload))

    names: dict[str, Any] = {"my_callback": my_callback}

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(eval, code, names))
            await until(lambda: "notifier" in names)
            await listening(names["notifier"])
            world.send(1, channel="player_match_change")
            await until(lambda: called)
            assert await names["notifier"].publish("player_match_change", {"match_id": 123}) == 1
            await until(lambda: len(called) == 2)
            await names["notifier"].close()

    run_on(loop, main)
    assert called == [("player_match_change", {"n": 1, "pad": ""}), ("player_match_change", {"match_id": 123})]


def test_everybody_sees_what_is_published(loop: Loop, world: World) -> None:
    payloads = [{"match_id": 123}, [1, "ü\n"], "text", 1.5, True, None, "x" * 7997]
    called: list[tuple[str, Any]] = []

    async def main() -> None:
        async with (
            open_redis(parse_redis_url(world.redis.url), timeout_seconds=30, name="tests") as everybody,
            world.service() as service,
            world.service(with_database=False) as other,
            looping(other),
        ):
            await everybody.subscribe(f"{PREFIX}:events")
            other.register_callback("match_change", lambda *said: called.append(said))
            await listening(other)
            for payload in payloads:
                assert await service.publish("match_change", payload) == 1
            assert await service.publish("gameclock_change", 1) == 1
            await until(lambda: len(called) == len(payloads))
            seen: list[tuple[bytes, bytes]] = []
            with anyio.fail_after(WAIT_SECONDS):
                while len(seen) <= len(payloads):
                    seen += await everybody.messages()
        assert [json.loads(data) for _, data in seen[:-1]] == [
            {"type": "notification", "id": None, "channel": "match_change", "payload": payload} for payload in payloads
        ]

    run_on(loop, main)
    assert called == [("match_change", payload) for payload in payloads]


def test_what_is_published_reaches_callbacks_by_redis_alone(loop: Loop, world: World) -> None:
    called: list[tuple[str, Any]] = []

    async def main() -> None:
        async with world.service(with_database=False, redis_prefix="nobody-listens") as service, looping(service):
            service.register_callback("match_change", lambda *said: called.append(said))
            with anyio.fail_after(WAIT_SECONDS):
                while not await service.publish("match_change", 1):  # noqa: ASYNC110 - until the loop hears
                    await anyio.sleep(0.05)
            await until(lambda: called)
            assert service.mode == "none"

    run_on(loop, main)
    assert called == [("match_change", 1)]


def test_many_tasks_publish_and_some_are_cancelled(loop: Loop, world: World) -> None:
    """What is cancelled may come or not; nothing else suffers, and every answer is that of its own command."""
    chance, ear, sent = random.Random(1), Ear(), list[int]()

    async def publish(service: RedisNotifierService, first: int) -> None:
        for number in range(first, first + 20):
            if chance.random() < 0.3:
                with anyio.move_on_after(chance.random() * 0.002):
                    await service.publish("match_change", {"n": -1})
            assert await service.publish("match_change", {"n": number}) == 1
            sent.append(number)

    async def main() -> None:
        async with world.service() as service, looping(service):
            ear.attach(service, "match_change")
            await listening(service)
            async with anyio.create_task_group() as tasks:
                for first in range(0, 400, 20):
                    tasks.start_soon(publish, service, first)
            await service.subscribe()
            await until(lambda: len(ear.numbers) - ear.numbers.count(-1) >= 400)

    run_on(loop, main)
    assert [number for number in ear.numbers if number >= 0] == sent


def test_publish_connects_again(loop: Loop, world: World) -> None:
    async def main() -> None:
        async with world.service() as service:
            world.redis.kill()
            try:
                for _ in range(2):
                    with pytest.raises(RedisLost):
                        await service.publish("match_change", 1)
            finally:
                world.redis.start()
            assert await service.publish("match_change", 1) == 0
            world.redis.kill()
            world.redis.start()
            assert await service.publish("match_change", 1) == 0
            await service.close()
            with pytest.raises(RedisLost, match="has been closed here"):
                await service.publish("match_change", 1)
            await service.connect()
            assert await service.publish("match_change", 1) == 0

    run_on(loop, main)


def test_a_redis_that_hangs_is_said_in_time(loop: Loop, world: World) -> None:
    async def main() -> None:
        async with world.service(redis_timeout_seconds=0.3) as service:
            with world.redis.paused(), anyio.fail_after(8):
                for _ in range(2):
                    with pytest.raises(RedisLost):
                        await service.publish("match_change", 1)
            with anyio.fail_after(WAIT_SECONDS):
                while True:
                    with suppress(RedisLost):  # a busy machine may need longer than 0.3 s
                        assert await service.publish("match_change", 1) == 0
                        break

    run_on(loop, main)


def test_from_subscribe_on_nothing_is_missed_until_the_loop_runs(loop: Loop, world: World) -> None:
    ear = Ear()

    async def main() -> None:
        async with world.service() as service:
            ear.attach(service, "match_change", "scoreboard_change")
            world.send(first := next(FIRST_NUMBERS))
            await until(lambda: world.is_logged(first))
            await service.subscribe("match_change", "gameclock_change")
            world.send(2, 3)
            world.send(4, channel="scoreboard_change")
            world.send(5)
            async with looping(service):
                await until(lambda: len(ear.numbers) == 3)
            world.send(6, 7)
            async with service, looping(service):
                await until(lambda: len(ear.numbers) == 5)

    run_on(loop, main)
    assert ear.numbers == [2, 3, 5, 6, 7]
    assert set(ear.channels) == {"match_change"}
    assert ear.gaps == []


@pytest.mark.parametrize("history", [10_000, 100])
def test_a_slow_callback_holds_up_nobody_and_what_is_lost_is_said(loop: Loop, world: World, history: int) -> None:
    """A thousand notifications of 500 bytes wait: more than the buffer holds."""
    ear, numbers = Ear(), list(range(1000))

    async def main() -> None:
        begun, go_on = anyio.Event(), anyio.Event()

        async def stall(channel: str, payload: Any) -> None:
            begun.set()
            await go_on.wait()

        slow = world.service(client_buffer_bytes=65_536, history_entries=history)
        quick, quick_ear = world.service(), Ear()
        slow.register_callback("match_change", stall)
        ear.attach(slow, "match_change")
        quick_ear.attach(quick, "match_change")
        async with looping(slow), looping(quick):
            await listening(slow)
            await listening(quick)
            with psycopg.connect(world.postgres.url()) as connection:
                for number in numbers:
                    payload = f'{{"n":{number},"pad":"{"x" * 500}"}}'
                    connection.execute("SELECT pg_notify(%s, %s)", ("match_change", payload))
            await until(lambda: quick_ear.numbers == numbers)
            assert ear.numbers == []
            go_on.set()
            await until(lambda: ear.numbers and ear.numbers[-1] == numbers[-1])

    run_on(loop, main)
    if history > len(numbers):
        assert ear.numbers == numbers
        assert ear.gaps == []
    else:
        assert ear.numbers == sorted(set(ear.numbers))
        assert len(ear.numbers) < len(numbers)
        assert [gap.reason for gap in ear.gaps] == ["history_trimmed"]


@pytest.mark.parametrize("with_database", [True, False])
def test_redis_killed_and_started_again(loop: Loop, world: World, with_database: bool) -> None:
    """Empty, too: the listener fills it again. Nothing is lost, and nothing comes twice."""
    ear = Ear()
    writer = Writer(world.postgres.url(), 200.0)

    async def main() -> None:
        service = world.service(with_database=with_database)
        ear.attach(service, *CHANNELS)
        async with service, looping(service):
            await listening(service)
            assert world.fallbacks() == 0
            writer.start()
            try:
                await until(lambda: len(ear.numbers) > 50)
                await in_thread(world.redis.kill)
                try:
                    await until(lambda: service.mode == ("direct" if with_database else "none"))
                    have = len(ear.numbers)
                    if with_database:
                        await until(lambda: len(ear.numbers) > have + 20)
                    else:
                        await anyio.sleep(0.5)
                        assert len(ear.numbers) <= have + 20
                    assert world.fallbacks() == int(with_database)
                finally:
                    await in_thread(world.redis.start)
                await listening(service)
                have = len(ear.numbers)
                await until(lambda: len(ear.numbers) > have + 50)
            finally:
                await in_thread(writer.stop)
            await until(lambda: len(ear.numbers) >= len(writer.committed))
            await until(lambda: world.fallbacks() == 0)

    run_on(loop, main)
    assert sorted(ear.numbers) == sorted(writer.committed)
    assert ear.gaps == []
    if not with_database:
        assert ear.numbers == list(writer.committed)


def test_subscribe_while_the_loop_runs(loop: Loop, world: World) -> None:
    """What it promises comes once each, in that loop or the next one, and so does what the loop brings anyway."""
    ear = Ear()

    async def main() -> None:
        async with world.service() as service:
            ear.attach(service, *CHANNELS)
            await service.subscribe("match_change")
            async with looping(service):
                world.send(1)
                world.send(2, channel="scoreboard_change")
                world.send(3)
                await until(lambda: ear.numbers == [1, 3])
                await service.subscribe("match_change", "scoreboard_change")
                world.send(4, channel="scoreboard_change")
                world.send(5)
                await until(lambda: 5 in ear.numbers)
            world.send(6, channel="scoreboard_change")
            world.send(7)
            async with service, looping(service):
                await until(lambda: 7 in ear.numbers)

    run_on(loop, main)
    assert ear.numbers == [1, 3, 4, 5, 6, 7]
    assert ear.gaps == []


def test_subscribe_while_redis_is_empty(loop: Loop, world: World) -> None:
    """The listener fills it again; what was there before does not come."""
    ear = Ear()

    async def main() -> None:
        async with world.service() as service:
            ear.attach(service, "match_change")
            world.send(1, first := next(FIRST_NUMBERS))
            await until(lambda: world.is_logged(first))
            world.redis.command("FLUSHALL")
            await service.subscribe()
            world.send(2, last := next(FIRST_NUMBERS))
            await until(lambda: world.is_logged(last))
            async with looping(service):
                await until(lambda: last in ear.numbers)
            assert ear.numbers == [2, last]

    run_on(loop, main)
    assert ear.gaps == []


def test_subscribe_without_any_log_and_a_loop_that_begins_later(loop: Loop, world: World) -> None:
    """Nobody heard what came meanwhile, and that is said."""
    ear = Ear()

    async def main() -> None:
        async with world.service(redis_prefix="nobody-listens", heartbeat_timeout_seconds=0.3) as service:
            ear.attach(service, "match_change")
            await service.subscribe()
            world.send(1)
            async with looping(service):
                await until(lambda: service.mode == "direct")
                world.send(2)
                await until(lambda: ear.numbers == [2])

    run_on(loop, main)
    assert [gap.reason for gap in ear.gaps] == ["unknown_position"]


def test_redis_that_goes_between_subscribe_and_the_loop(loop: Loop, world: World) -> None:
    """What only the log has heard comes late, when Redis is back."""
    ear, first = Ear(), next(FIRST_NUMBERS)

    async def main() -> None:
        async with world.service() as service:
            ear.attach(service, "match_change")
            await service.subscribe()
            world.send(1, 2, first)
            await until(lambda: world.is_logged(first))
            await in_thread(world.redis.kill)
            async with looping(service):
                try:
                    await until(lambda: service.mode == "direct")
                    world.send(4)
                    await until(lambda: ear.numbers == [4])
                finally:
                    await in_thread(world.redis.start)
                await listening(service)
                world.send(5)
                await until(lambda: len(ear.numbers) == 5)

    run_on(loop, main)
    assert ear.numbers == [4, 1, 2, first, 5]
    assert ear.gaps == []
