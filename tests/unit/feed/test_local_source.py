"""The own listener's tape as a source: it brings what it hears until the log has joined, and nothing after."""

from collections.abc import Sequence

import trio
import trio.testing

from bridge.core.events import Event, Heard, Marker, Notification
from bridge.core.position import Position
from bridge.feed.delivery import Delivery, Item
from bridge.feed.local_source import LocalSource
from bridge.feed.source import FeedState
from bridge.relay.tape import Tape
from bridge.telemetry import Metrics, Observable


class Listener:
    def __init__(self) -> None:
        self.session = Observable[object | None](object())
        self.draining = Observable(False)


def heard(seq: int) -> Heard:
    return Heard(Position(7, seq), Notification("c", b"%d" % seq))


async def test_after_the_log_has_joined_it_is_silent(autojump_clock: trio.testing.MockClock) -> None:
    delivered: list[int] = []

    def sink(items: Sequence[Item]) -> None:
        delivered.extend(item.position.seq for item in items if isinstance(item, Event))

    states: list[FeedState] = []
    tape, delivery = Tape(100, 1 << 20), Delivery(sink, Metrics())
    tape.extend([Heard(Position(7, 0), Marker(7, "n", "d", "listener", "p"))])
    delivery.open_beside()
    source = LocalSource(Listener(), tape, "d", delivery, beside_log=True)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, states.append)
        await trio.testing.wait_all_tasks_blocked()
        tape.extend([heard(1)])
        await trio.testing.wait_all_tasks_blocked()
        assert delivered == [1]
        assert list(delivery.beside) == [7]
        delivery.joined()
        tape.extend([heard(2)])
        await trio.testing.wait_all_tasks_blocked()
        assert delivered == [1]
        assert list(delivery.beside) == []
        nursery.cancel_scope.cancel()
    assert set(states) == {FeedState("direct")}
