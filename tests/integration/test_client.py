"""`bridge.client` at real bridges that are killed, drained, cut off, or too fast for it: one stream all the same.

A consumer on each event loop goes through every fault, and the oracle judges each of them.
"""

import signal
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise

import pytest

from bridge.errors import BridgeError
from bridge.stream import Event, Gap, Notification
from tests.support import redis as rd
from tests.support.consumer import Consumer, consumer, consumers
from tests.support.fleet import LISTENER, WORKER, Fleet, Servers, running_fleet
from tests.support.fleet import postgres as postgres
from tests.support.fleet import redis as redis
from tests.support.fleet import servers as servers
from tests.support.loops import LOOPS, Loop
from tests.support.oracle import violations
from tests.support.process import BridgeProcess, bridge, wait_until
from tests.support.redis import free_port
from tests.support.stack import Stack
from tests.support.tokens import SECRET, token
from tests.support.traffic import Writer, all_committed

SETTLE_SECONDS = 60.0
_numbers = count(1_000_000, 1_000_000)


@pytest.fixture(scope="module")
def started(servers: Servers) -> Iterator[Fleet]:
    with running_fleet(servers, "clients") as fleet:
        fleet.add("listener", LISTENER)
        fleet.add("worker", WORKER, BRIDGE_PORT=str(free_port()), BRIDGE_DRAIN_SECONDS="0.5")
        fleet.wait()
        yield fleet


@pytest.fixture
def fleet(started: Fleet) -> Fleet:
    started.whole_again()
    return started


@pytest.fixture
def writer(fleet: Fleet) -> Iterator[Writer]:
    made = Writer(fleet.postgres.url(), after=next(_numbers)).start()
    try:
        yield made
    finally:
        made.stop()


def flow(writer: Writer, consumers: list[Consumer]) -> None:
    """Let it run for a moment, and then until all have what was committed by then."""
    time.sleep(0.3)
    last = writer.last

    def behind() -> list[str]:
        return [str(each) for each in consumers if max(each.numbers[-50:], default=0) < last]

    wait_until(lambda: not behind(), lambda: f"not as far as {last}: {behind()}")


def settle(writer: Writer, consumers: list[Consumer]) -> None:
    """Stop writing, wait for what is on its way, and fail unless the oracle is content."""
    writer.stop()
    committed, last = all_committed(writer), writer.last
    for each in consumers:
        each.wait_for(last)

    def wrong() -> list[str]:
        return violations(committed, [each.view(writer) for each in consumers])

    wait_until(lambda: not wrong(), lambda: "\n".join([*wrong()[:20], *map(str, consumers)]), SETTLE_SECONDS)


def test_a_worker_that_is_killed_and_comes_back(fleet: Fleet, writer: Writer) -> None:
    worker = fleet.processes["worker"]
    with consumers(worker.url) as all_of_them:
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            flow(writer, all_of_them)
            fleet.processes["worker"].process.send_signal(number)
            fleet.processes["worker"].process.wait(60)
            fleet.replace_ended()
            fleet.wait()
        flow(writer, all_of_them)
        settle(writer, all_of_them)
        for each in all_of_them:
            assert each.connections >= 4
            assert each.gaps == []
            reasons = [state.reason for state in each.states]
            assert any(reason.startswith("closed with 1001 retry=") for reason in reasons)


def test_redis_and_the_worker_killed(fleet: Fleet, writer: Writer, redis: rd.RedisServer) -> None:
    """The worker listens itself then, and the next one too: gaps that were pending are filled across connections."""
    worker = fleet.processes["worker"]
    with consumers(worker.url) as all_of_them:
        flow(writer, all_of_them)
        redis.kill()
        try:
            wait_until(lambda: worker.status()["mode"] == "direct", lambda: "it does not fall back")
            flow(writer, all_of_them)
            worker.process.kill()
            worker.process.wait()
            fleet.replace_ended()
            fleet.processes["worker"].wait_until_listening()
            flow(writer, all_of_them)
        finally:
            redis.start()
        fleet.wait_until_healthy()
        flow(writer, all_of_them)
        settle(writer, all_of_them)
        assert all(each.connections >= 2 for each in all_of_them)


@pytest.fixture
def alone(stack: Stack) -> dict[str, str]:
    return {
        "DATABASE_URL": stack.postgres.url(),
        "BRIDGE_PORT": "0",
        "BRIDGE_CHANNELS": "match_change,scoreboard_change,playclock_change",
    }


def number_of(event: Event) -> int:
    assert isinstance(event, Notification)
    return int(event.payload["n"])


def send(stack: Stack, first: int, last: int, size: int = 10) -> None:
    """Notifications with these numbers, so large."""
    stack.postgres.execute(
        "SELECT pg_notify('match_change', json_build_object('n', n, 'x', repeat('x', "
        f"{size}))::text) FROM generate_series({first}, {last}) AS n"
    )


def send_until_gone(stack: Stack, running: BridgeProcess) -> int:
    """Large notifications until the bridge has ended its client, which is too slow; how many there were."""
    sent = 0
    while running.status()["clients"]:
        send(stack, sent + 1, sent + 500, 7000)
        sent += 500
        assert sent <= 10_000, "it is never too slow"
    return sent


@pytest.mark.parametrize("loop", LOOPS)
def test_a_consumer_that_is_too_slow_misses_nothing(stack: Stack, alone: dict[str, str], loop: Loop) -> None:
    settings = alone | {"BRIDGE_CLIENT_BUFFER_BYTES": "100000"}
    with bridge(settings, "serve") as running:
        running.wait_until_ready()
        with consumer(loop, running.url, buffer_bytes=100_000) as slow:
            slow.wait_until_subscribed()
            slow.pace.clear()
            sent = send_until_gone(stack, running)
            assert len(slow.numbers) <= 1
            slow.pace.set()
            slow.wait_for(sent)
            assert slow.numbers == list(range(1, sent + 1))
            assert slow.gaps == []
            assert slow.connections >= 2


@pytest.mark.parametrize("loop", LOOPS)
def test_what_a_slow_consumer_has_missed_for_good_is_declared(stack: Stack, alone: dict[str, str], loop: Loop) -> None:
    settings = alone | {"BRIDGE_CLIENT_BUFFER_BYTES": "100000", "BRIDGE_HISTORY_ENTRIES": "100"}
    with bridge(settings, "serve") as running:
        running.wait_until_ready()
        with consumer(loop, running.url, buffer_bytes=100_000) as slow:
            slow.wait_until_subscribed()
            slow.pace.clear()
            sent = send_until_gone(stack, running)
            send(stack, sent + 1, sent + 1000)
            slow.pace.set()
            slow.wait_for(sent + 1000)
            numbers = slow.numbers
            assert numbers == sorted(set(numbers))
            holes = [(before, after) for before, after in pairwise(numbers) if after != before + 1]
            assert holes
            places = [place for place, event in enumerate(slow.events) if isinstance(event, Gap)]
            around = [(slow.events[place - 1], slow.events[place + 1]) for place in places]
            assert [(number_of(before), number_of(after)) for before, after in around] == holes
            assert {gap.reason for gap in slow.gaps} == {"history_trimmed"}


@pytest.fixture
def guarded(alone: dict[str, str]) -> Iterator[BridgeProcess]:
    with bridge(alone | {"BRIDGE_JWT_KEY": SECRET}, "serve") as running:
        yield running.wait_until_ready()


def short_lived(seconds: float) -> Callable[[], str]:
    return lambda: token({"exp": time.time() + seconds, "channels": ["*_change"]})


@pytest.mark.parametrize("loop", LOOPS)
def test_tokens_that_expire(guarded: BridgeProcess, stack: Stack, loop: Loop) -> None:
    with consumer(loop, guarded.url, token=short_lived(3)) as each:
        each.wait_until_subscribed()
        sent = 0
        while each.connections < 3:
            sent += 1
            send(stack, sent, sent)
            time.sleep(0.02)
            assert sent < 1000
        each.wait_for(sent)
        assert each.numbers == list(range(1, sent + 1))
        assert each.gaps == []
        reasons = {state.reason for state in each.states if state.reason}
        assert reasons == {"closed with 4001 the token has expired"}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_token_that_expires_for_good(guarded: BridgeProcess, loop: Loop) -> None:
    expiring = short_lived(4)()
    with consumer(loop, guarded.url, token=expiring) as each:
        wait_until(lambda: each.error, lambda: str(each))
        assert type(each.error) is BridgeError
        assert "give as `token` a function" in str(each.error)
        assert expiring not in f"{each.error!r} {each.states}"
    with consumer(loop, guarded.url, token=expiring) as refused:
        wait_until(lambda: refused.error, lambda: str(refused))
        assert str(refused.error) == "The bridge refused with HTTP 401: the token has expired"
    with consumer(loop, guarded.url, token=lambda: expiring) as refused:
        wait_until(lambda: refused.error, lambda: str(refused))
        assert [state.state for state in refused.states] == ["connecting", "waiting", "connecting"]
