"""A consumer in the same process: everything once and in order, however slowly it reads, and a gap where that ends."""

from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core import events, topics
from bridge.core.events import Notification as Heard
from bridge.core.position import Position
from bridge.core.wire import OVERLOADED
from bridge.feed.delivery import Delivery
from bridge.feed.source import FeedState
from bridge.hub import Buffers, Hub, Inbox
from bridge.inprocess import Subscription
from bridge.stream import Event, Gap, ModeChange, Notification, Subscribed
from bridge.telemetry import Metrics
from tests.support.loops import LOOPS, Loop, run_on

TERM = 100
METRICS = Metrics()
LIVE = FeedState("direct")


class Process:
    """A hub that is fed by hand, and what its consumers need."""

    def __init__(self, *, history_entries: int = 1000, buffer_bytes: int = 1 << 20, all_bytes: int = 1 << 20) -> None:
        self.delivery = Delivery(lambda items: self.hub.deliver(items), METRICS)
        self.hub = Hub(
            ["c", "d"],
            Buffers(1 << 20, all_bytes),
            history_entries,
            METRICS,
            self.delivery.timeline,
            self.delivery.newest,
        )
        self.buffer_bytes = buffer_bytes
        self.inboxes: list[Inbox] = []
        self._tasks: list[Callable[[], Awaitable[None]]] = []
        self._seq = 0

    def go_live(self) -> None:
        self.delivery.begin(Position(TERM, 0))
        self.hub.set_live(Position(TERM, 0))

    def inbox(self) -> Inbox:
        self.inboxes.append(Inbox(self._tasks.append, self.hub.buffers, limit_bytes=self.buffer_bytes))
        return self.inboxes[-1]

    def subscribe(self, channel: str = "c", after: str | None = None) -> Subscription:
        return Subscription(self.hub, topics.Subscription(frozenset({channel})), after, self.inbox, LIVE)

    def deliver(self, count: int, channel: str = "c") -> None:
        first, self._seq = self._seq + 1, self._seq + count
        heard = [
            events.event(Position(TERM, seq), Heard(channel, b'{"n":%d}' % seq)) for seq in range(first, first + count)
        ]
        self.delivery.offer(heard)

    async def run_tasks(self) -> None:
        """What was to run for the clients: their replays."""
        async with anyio.create_task_group() as group:
            while self._tasks:
                group.start_soon(_run, self._tasks.pop())


async def _run(task: Callable[[], Awaitable[None]]) -> None:
    await task()


async def at_hand(process: Process, subscription: Subscription, most: int = 1 << 30) -> list[Event]:
    """What the subscription gives without anybody else's doing, so many events of it."""
    got: list[Event] = []

    async def read() -> None:
        while len(got) < most:
            got.append(await anext(subscription))

    before = None
    while before != (len(got), len(process.inboxes)):
        before = len(got), len(process.inboxes)
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
                group.start_soon(process.run_tasks)
            group.cancel_scope.cancel()
    return got


def numbers(got: Sequence[Event]) -> list[int]:
    return [event.payload["n"] for event in got if isinstance(event, Notification)]


@pytest.mark.parametrize("loop", LOOPS)
def test_it_begins_with_subscribed_when_a_source_is_live(loop: Loop) -> None:
    async def main() -> None:
        process = Process()
        subscription = process.subscribe()
        assert await at_hand(process, subscription) == []
        process.go_live()
        process.deliver(2)
        process.deliver(1, "d")
        first, *rest = await at_hand(process, subscription)
        assert first == Subscribed(("c",), {}, None, f"{TERM}-0")
        assert numbers(rest) == [1, 2]
        assert subscription.cursor == f"{TERM}-2"

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_reads_too_slowly_goes_on_from_the_history(loop: Loop) -> None:
    async def main() -> None:
        process = Process(buffer_bytes=300)
        process.go_live()
        slow, fast = process.subscribe(), process.subscribe("d")
        for _ in range(50):
            process.deliver(10)
            process.deliver(1, "d")
        assert process.inboxes[0].held_bytes < 2000
        got = await at_hand(process, slow)
        assert numbers(got) == [n for n in range(1, 551) if n % 11]
        assert [type(event) for event in got if not isinstance(event, Notification)] == [Subscribed]
        assert len(numbers(await at_hand(process, fast))) == 50

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_is_further_behind_than_the_history_is_told_so(loop: Loop) -> None:
    async def main() -> None:
        process = Process(buffer_bytes=300, history_entries=20)
        process.go_live()
        subscription = process.subscribe()
        process.deliver(3)
        process.deliver(3)
        for _ in range(40):
            process.deliver(3)
        got = await at_hand(process, subscription)
        gaps = [event for event in got if isinstance(event, Gap)]
        assert [(gap.reason, gap.pending) for gap in gaps] == [("history_trimmed", False)]
        place = got.index(gaps[0])
        before, after = numbers(got[:place]), numbers(got[place:])
        assert before == list(range(1, len(before) + 1))
        assert after == list(range(after[0], 127))
        assert gaps[0].after == f"{TERM}-{before[-1]}"

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_what_all_hold_together_is_bounded_and_lost_for_nobody(loop: Loop) -> None:
    async def main() -> None:
        process = Process(all_bytes=1000)
        process.go_live()
        subscription = process.subscribe()
        assert isinstance(await anext(subscription), Subscribed)
        for _ in range(50):
            process.deliver(1)
        assert process.hub.buffers.total_bytes <= 1000
        assert process.inboxes[0].close_code == OVERLOADED
        assert numbers(await at_hand(process, subscription)) == list(range(1, 51))

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("is_live", [True, False])
def test_who_loses_its_buffer_before_it_reads_misses_nothing(loop: Loop, is_live: bool) -> None:
    """It begins with what comes next after `subscribe`, or once a source is live, whenever it is read."""

    async def main() -> None:
        process = Process(all_bytes=1000)
        if is_live:
            process.go_live()
            process.deliver(3)
        subscription = process.subscribe()
        if not is_live:
            process.go_live()
        for _ in range(3):
            process.deliver(20)
        assert process.inboxes[0].close_code == OVERLOADED
        assert subscription.cursor is None
        first, *rest = await at_hand(process, subscription)
        begins = 3 if is_live else 0
        assert first == Subscribed(("c",), {}, None, f"{TERM}-{begins}")
        assert numbers(rest) == list(range(begins + 1, begins + 61))
        assert len(rest) == 60
        process.deliver(1)
        assert numbers(await at_hand(process, subscription)) == [begins + 61]

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_loses_its_buffer_again_and_again_before_it_reads_misses_nothing(loop: Loop) -> None:
    async def main() -> None:
        process = Process(all_bytes=1000)
        process.go_live()
        subscription = process.subscribe()
        got: list[Event] = []
        for _ in range(5):
            process.deliver(40)
            got += await at_hand(process, subscription, 1)
            process.inboxes[-1].too_slow(OVERLOADED)
            process.deliver(1)
        got += await at_hand(process, subscription)
        assert numbers(got) == list(range(1, 206))
        assert [type(event) for event in got if not isinstance(event, Notification)] == [Subscribed]

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_loses_its_buffer_and_began_nobody_knows_where_is_told_of_a_gap(loop: Loop) -> None:
    async def main() -> None:
        process = Process()
        process.hub.set_live(None)
        subscription = process.subscribe()
        process.go_live()
        process.deliver(5)
        process.inboxes[0].too_slow(OVERLOADED)
        process.deliver(1)
        got = await at_hand(process, subscription)
        assert [type(event) for event in got] == [Subscribed, Gap]
        process.deliver(1)
        assert numbers(await at_hand(process, subscription)) == [7]

    run_on(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_loses_its_buffer_before_a_source_is_live_begins_when_it_is(loop: Loop) -> None:
    async def main() -> None:
        process = Process()
        subscription = process.subscribe()
        subscription.publish(events.published("c", b"1"))
        process.inboxes[0].too_slow(OVERLOADED)
        assert await at_hand(process, subscription) == []
        process.go_live()
        process.deliver(2)
        first, *rest = await at_hand(process, subscription)
        assert first == Subscribed(("c",), {}, None, f"{TERM}-0")
        assert numbers(rest) == [1, 2]

    run_on(loop, main)


def test_changes_of_mode_come_once_and_also_after_a_pause() -> None:
    async def main() -> None:
        process = Process(buffer_bytes=300)
        process.go_live()
        subscription = process.subscribe()
        subscription.tell(FeedState("none", "why"))
        subscription.tell(FeedState("redis"))
        got = await at_hand(process, subscription)
        assert [event for event in got if isinstance(event, ModeChange)] == [
            ModeChange("none", "why"),
            ModeChange("redis"),
        ]
        process.deliver(20)
        subscription.tell(FeedState("direct", "lost"))
        got = await at_hand(process, subscription)
        assert [event for event in got if isinstance(event, ModeChange)] == [ModeChange("direct", "lost")]
        assert numbers(got) == list(range(1, 21))

    run_on("asyncio", main)


@pytest.mark.parametrize("loop", LOOPS)
def test_what_applications_publish_needs_no_live_source(loop: Loop) -> None:
    async def main() -> None:
        process = Process()
        subscription = process.subscribe()
        subscription.publish(events.published("c", b"1"))
        subscription.publish(events.published("d", b"2"))
        process.go_live()
        subscription.publish(events.published("c", b"3"))  # the hub does that now
        process.delivery.publish(events.published("c", b"4"))
        got = await at_hand(process, subscription)
        assert [event.payload for event in got if isinstance(event, Notification)] == [1, 4]
        assert [type(event) for event in got] == [Notification, Subscribed, Notification]

    run_on(loop, main)


def test_only_one_task_reads_and_who_is_cancelled_has_taken_nothing() -> None:
    async def main() -> None:
        process = Process()
        process.go_live()
        subscription = process.subscribe()
        assert isinstance(await anext(subscription), Subscribed)
        got: list[Event] = []

        async def read() -> None:
            got.append(await anext(subscription))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.sleep(0.01)
            with pytest.raises(anyio.BusyResourceError, match="a subscription of its own"):
                await anext(subscription)
            process.deliver(1)
            group.cancel_scope.cancel()
        process.deliver(1)
        assert numbers([*got, *await at_hand(process, subscription)]) == [1, 2]

    run_on("trio", main)
    run_on("asyncio", main)


def test_closing_ends_the_iteration_and_leaves_nothing_in_the_hub() -> None:
    async def main() -> None:
        process = Process()
        process.go_live()
        subscription = process.subscribe()
        ended = anyio.Event()

        async def read() -> None:
            async for _ in subscription:
                pass
            ended.set()

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            process.deliver(3)
            await anyio.sleep(0.01)
            subscription.close()
            await ended.wait()
        subscription.close()
        assert process.hub.client_count == 0
        assert process.hub.buffers.total_bytes == 0
        with pytest.raises(StopAsyncIteration):
            await anext(subscription)

    run_on("asyncio", main)
    run_on("trio", main)


@given(
    steps=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=30),
    buffer_bytes=st.sampled_from([1, 200, 2000]),
    history_entries=st.sampled_from([5, 50, 5000]),
)
def test_any_pace_gives_everything_once_in_order_or_a_gap(
    steps: list[tuple[int, int]], buffer_bytes: int, history_entries: int
) -> None:
    """Deliver so many, read so many, again and again: what is missing lies in the gaps, and only there."""

    async def main() -> None:
        process = Process(buffer_bytes=buffer_bytes, history_entries=history_entries)
        process.go_live()
        subscription = process.subscribe()
        got: list[Event] = []
        total = 0
        for delivered, read in steps:
            process.deliver(delivered)
            total += delivered
            got += await at_hand(process, subscription, read)
        got += await at_hand(process, subscription)
        expected = 1
        for event in got:
            if isinstance(event, Gap):
                assert event.reason == "history_trimmed"
                assert event.before is not None
                assert event.after == f"{TERM}-{expected - 1}"
                expected = int(event.before.partition("-")[2])
            elif isinstance(event, Notification):
                assert event.payload["n"] == expected
                expected += 1
        assert expected == total + 1
        assert history_entries < 5000 or not any(isinstance(event, Gap) for event in got)

    run_on("trio", main)
