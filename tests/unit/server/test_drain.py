"""How clients are sent away, in virtual time."""

from collections import Counter

import pytest
import trio
import trio.testing

from bridge.hub.client import State
from bridge.hub.retry import RETRY_SECONDS
from bridge.server.drain import LAST_SECONDS, STEP_SECONDS, drain
from bridge.server.limits import Places


class FakeClient:
    """Remembers when and how it was ended; its connection is gone `lingering_seconds` later."""

    def __init__(self, crowd: "Crowd", lingering_seconds: float) -> None:
        self.state = State.OPEN
        self.ended_at = -1.0
        self.said: tuple[int, str] = (0, "")
        self._crowd = crowd
        self._lingering_seconds = lingering_seconds

    def end(self, code: int, reason: str) -> None:
        assert self.state is State.OPEN
        self.state = State.CLOSING
        self.ended_at, self.said = trio.current_time(), (code, reason)
        self._crowd.nursery.start_soon(self._go)

    async def _go(self) -> None:
        await trio.sleep(self._lingering_seconds)
        self.leave()

    def leave(self) -> None:
        self.state = State.CLOSED
        self._crowd.places.taken -= 1


class Crowd:
    """So many clients, as the hub shows them."""

    def __init__(self, nursery: trio.Nursery, count: int, lingering_seconds: float = 0.0) -> None:
        self.nursery = nursery
        self.places = Places(10_000)
        self.clients = [FakeClient(self, lingering_seconds) for _ in range(count)]
        self.places.taken = count


async def drained(count: int, seconds: float, lingering_seconds: float = 0.0) -> tuple[Crowd, float]:
    """A crowd after draining, and how long that took."""
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, count, lingering_seconds)
        await drain(crowd, crowd.places, seconds)  # type: ignore[arg-type]
        took = trio.current_time() - started
        nursery.cancel_scope.cancel()
    return crowd, took


async def test_closes_are_spread_evenly_and_say_when_to_retry(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    crowd, took = await drained(5000, 10)
    assert took < 10 + 2 * STEP_SECONDS
    per_second = Counter(min(9, int(client.ended_at - started)) for client in crowd.clients)
    assert sorted(per_second) == list(range(10))
    assert max(per_second.values()) - min(per_second.values()) <= 3 * 5000 / 10 * STEP_SECONDS
    said = Counter(client.said for client in crowd.clients)
    assert set(said) == {(1001, f"retry={seconds}") for seconds in range(1, RETRY_SECONDS + 1)}


async def test_without_clients_it_ends_at_once_and_one_client_is_closed_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert (await drained(0, 10))[1] == 0
    started = trio.current_time()
    crowd, took = await drained(1, 10)
    assert crowd.clients[0].ended_at == started
    assert took <= 2 * STEP_SECONDS
    assert crowd.places.closed


async def test_without_time_all_go_at_once(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    crowd, took = await drained(100, 0)
    assert {client.ended_at for client in crowd.clients} == {started}
    assert took <= 2 * STEP_SECONDS


async def test_who_does_not_answer_is_not_waited_for_much_longer(autojump_clock: trio.testing.MockClock) -> None:
    _, took = await drained(10, 1, lingering_seconds=1000)
    assert took == pytest.approx(1 + LAST_SECONDS, abs=0.2)


async def test_it_is_over_when_everybody_has_left_by_themselves(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, 10)

        async def leave() -> None:
            await trio.sleep(2)
            for client in crowd.clients:
                if client.state is State.OPEN:
                    client.leave()

        nursery.start_soon(leave)
        started = trio.current_time()
        await drain(crowd, crowd.places, 10)  # type: ignore[arg-type]
        assert trio.current_time() - started < 2 + 2 * STEP_SECONDS
