"""Going on after a cursor: what a client is told at once, what it waits for, and what is left when it goes."""

import itertools

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bridge.core.cursor import Cursor
from bridge.core.events import Filled, Gap, late
from bridge.core.position import Position, Timeline
from bridge.core.topics import Subscription
from bridge.hub import Hub
from bridge.hub.client import State
from bridge.hub.encoding import Protocol
from bridge.hub.resume import RECENT_TERM, RELATE_SECONDS
from tests.support.frames import Message
from tests.support.peers import (
    EVERYTHING,
    Peer,
    happening,
    kinds,
    make_hub,
    making_peers,
    numbers,
    of_kind,
)

ONLY_A, ONLY_B = Subscription(frozenset({"a"})), Subscription(frozenset({"b"}))
HOLE = Position(1, 5), Position(2, 0)


def hub_with(count: int, size: int = 0, **options: int) -> Hub:
    """A hub that has delivered so many events from 1-1 on."""
    hub = make_hub(live=False, **options)  # type: ignore[arg-type]
    hub.set_live(Position(1, 0))
    for n in range(1, count + 1):
        hub.deliver([happening(n, size=size)])
    return hub


def cursors(messages: list[Message]) -> list[str]:
    """What a client would go on with after each message."""
    return [str(m.get("cursor") or m.get("id") or m.get("position")) for m in messages if isinstance(m, dict)]


@pytest.mark.parametrize("text", ["", "garbage", "1-1~", "\udce4", "1-1\r\nx: y", "1" * 9000])
async def test_garbage_is_told_so_at_once_and_goes_live(text: str) -> None:
    hub = hub_with(3)
    async with making_peers(hub) as made:
        peer = made.subscribe(after=text)
        hub.deliver([happening(4)])
        subscribed, gap, event = await peer.read_count(3)
        assert isinstance(subscribed, dict)
        assert subscribed["position"] is None, "whoever loses the gap must not go on from behind it"
        assert gap == {"type": "gap", "after": None, "before": "1-4", "reason": "unknown_position", "cursor": "1-3"}
        assert numbers([event]) == [4]


async def test_a_term_of_long_ago_is_told_so_at_once() -> None:
    hub = make_hub(live=False)
    hub.set_live(Position(2 * RECENT_TERM, 5))
    async with making_peers(hub) as made:
        peer = made.subscribe(after="7-7")
        with trio.fail_after(RELATE_SECONDS / 4):
            subscribed, gap = await peer.read_count(2)
        assert isinstance(gap, dict)
        assert (gap["after"], gap["reason"]) == ("7-7", "unknown_position")
        assert isinstance(subscribed, dict)
        assert subscribed["position"] == "7-7"


async def test_a_term_of_a_moment_ago_is_waited_for(autojump_clock: MockClock) -> None:
    timeline = Timeline()
    hub = make_hub(live=False, timeline=timeline)
    hub.set_live(Position(10, 0))
    hub.deliver([happening(n, term=10) for n in range(1, 6)])
    async with making_peers(hub) as made:
        related, never = made.subscribe(after="11-1"), made.subscribe(after="12-1")
        await trio.sleep(RELATE_SECONDS - 1)
        assert related.now() == []
        timeline.relate(Position(11, 0), Position(10, 2))
        await trio.sleep(2)
        assert numbers(related.now()) == [4, 5]
        assert kinds(related.messages) == ["subscribed", "notification", "notification"]
        assert kinds(never.now()) == ["subscribed", "gap"]
        assert [made.tasks(peer) for peer in (related, never)] == [0, 0]


async def test_a_position_that_this_process_has_not_reached_is_waited_for(autojump_clock: MockClock) -> None:
    hub = hub_with(3)
    async with making_peers(hub) as made:
        ahead, absurd = made.subscribe(after="1-5"), made.subscribe(after=f"1-{10**12}")
        await trio.sleep(1)
        assert kinds(absurd.now()) == ["subscribed", "gap"]
        assert ahead.now() == []
        hub.deliver([happening(n) for n in range(4, 9)])
        await trio.sleep(1)
        hub.deliver([happening(9)])
        assert numbers(ahead.now()) == [6, 7, 8, 9]


async def test_a_client_that_comes_before_the_hub_is_live_waits_with_its_cursor(autojump_clock: MockClock) -> None:
    hub = hub_with(5)
    hub.set_waiting()
    async with making_peers(hub) as made:
        peers = [made.subscribe(after="1-2"), made.subscribe(after="1-2", protocol="sse"), made.subscribe()]
        await trio.sleep(60)
        assert [peer.now() for peer in peers] == [[]] * 3
        hub.set_live(Position(1, 5))
        await trio.sleep(1)
        hub.deliver([happening(6)])
        assert [numbers(peer.now()) for peer in peers] == [[3, 4, 5, 6], [3, 4, 5, 6], [6]]


async def test_a_trimmed_position_begins_with_a_gap_to_what_is_left() -> None:
    hub = hub_with(500, history_entries=100)
    async with making_peers(hub) as made:
        peer = made.subscribe(after="1-7", buffer_bytes=1 << 20)
        subscribed, gap, first = await peer.read_count(3)
        assert isinstance(subscribed, dict)
        assert subscribed["position"] == "1-7"
        assert isinstance(gap, dict)
        assert (gap["after"], gap["reason"]) == ("1-7", "history_trimmed")
        assert gap["before"] == f"1-{numbers([first])[0]}"
        messages = await peer.read_until(500)
        assert numbers(messages) == list(range(numbers([first])[0], 501))


@pytest.mark.parametrize("protocol", ["ws", "sse"])
async def test_a_replay_larger_than_the_buffer_comes_in_rounds_while_events_go_on(protocol: Protocol) -> None:
    hub = hub_with(300, size=500, client_bytes=20_000)
    async with making_peers(hub) as made:
        peer = made.subscribe(after="1-0", protocol=protocol)
        for n in range(301, 341):
            assert peer.client.held_bytes <= 20_000
            hub.deliver([happening(n, size=500)])
            await peer.read_until((n - 300) * 5)
        messages = await peer.read_until(340)
        assert numbers(messages) == list(range(1, 341))
        assert peer.client.state is State.OPEN
        await wait_all_tasks_blocked()
        assert made.tasks(peer) == 0


async def test_a_gap_that_opens_and_is_filled_during_a_replay() -> None:
    for filled in (True, False):
        hub = hub_with(5, size=20_000, client_bytes=40_000)
        async with making_peers(hub) as made:
            peer = made.subscribe(after="1-0")
            await peer.read_until(1)
            hub.deliver(
                [Gap(*HOLE, "failover", pending=True), happening(1, term=2, number=8), late(happening(6), HOLE)]
            )
            await peer.read_until(3)
            end = Filled(*HOLE) if filled else Gap(*HOLE, "failover")
            hub.deliver([late(happening(7), HOLE), end, happening(2, term=2, number=9)])
            messages = await peer.read_until(9)
            assert set(numbers(messages)) >= {1, 2, 3, 4, 5, 8, 9}
            assert {6, 7} <= set(numbers(messages)) or not filled
            assert len(set(numbers(messages))) == len(numbers(messages))
            gaps = [gap for gap in of_kind("gap", messages) if not gap.get("pending")]
            assert [(gap["after"], gap["before"]) for gap in gaps] == ([] if filled else [("1-5", "2-0")])


async def test_what_is_trimmed_during_a_replay_is_told() -> None:
    hub = hub_with(50, size=5_000, client_bytes=20_000, history_entries=50)
    async with making_peers(hub) as made:
        peer = made.subscribe(after="1-0")
        await peer.read_until(1)
        hub.deliver([happening(n) for n in range(51, 151)])
        messages = await peer.read_until(150)
        (gap,) = of_kind("gap", messages)
        before = numbers(messages[: messages.index(gap)])
        after = numbers(messages[messages.index(gap) :])
        assert before == list(range(1, len(before) + 1))
        assert after == list(range(after[0], 151))
        assert (gap["after"], gap["before"]) == (f"1-{before[-1]}", f"1-{after[0]}")


async def test_every_cursor_of_a_story_with_late_events_can_be_gone_on_with() -> None:
    """Joined before, in and after a pending gap; taken up anywhere else, with any message as the last one."""
    hub = hub_with(5)
    async with making_peers(hub) as made:
        before = made.subscribe(after="1-3")
        hub.deliver([Gap(*HOLE, "failover", pending=True), happening(1, term=2, number=11)])
        during = made.subscribe(after="1-4")
        fresh = made.subscribe()
        hub.deliver([late(happening(6), HOLE), happening(2, term=2, number=12), late(happening(7), HOLE)])
        for end in (None, Filled(*HOLE)):
            if end is not None:
                hub.deliver([end, happening(3, term=2, number=13)])
            for peer in (before, during, fresh):
                messages = peer.now()
                for at, cursor in enumerate(cursors(messages)):
                    again = made.subscribe(after=cursor)
                    await wait_all_tasks_blocked()
                    had, rest = messages[: at + 1], again.now()[1:]
                    assert sorted(numbers(had) + numbers(rest)) == sorted(numbers(messages)), cursor
                    assert Cursor.parse(cursors([*had, *rest])[-1]) == hub.cursor(peer.client)
                    assert [gap for gap in of_kind("gap", rest) if not gap.get("pending")] == []
                    made.disconnect(again)
        assert numbers(before.messages) == [4, 5, 11, 6, 12, 7, 13]
        assert numbers(during.messages) == [5, 11, 6, 12, 7, 13]
        assert numbers(fresh.messages) == [12, 13]


async def test_a_client_that_goes_at_any_moment_leaves_nothing(autojump_clock: MockClock) -> None:
    for rounds, after in itertools.product(range(5), ("1-0", "1-35", "99-1", "")):
        hub = hub_with(30, size=1000, client_bytes=8000)
        async with making_peers(hub) as made:
            peer, stays = made.subscribe(after=after), made.subscribe()
            hub.subscribe(peer.client, "x", ONLY_A, "1-3")
            hub.subscribe(peer.client, "y", ONLY_B)
            for _ in range(rounds):
                await trio.sleep(0.05)
                peer.now()
            if rounds % 2:
                peer.client.abort()
                hub.deliver([])
            made.disconnect(peer)
            await trio.sleep(RELATE_SECONDS + 1)
            assert made.tasks(peer) == 0
            assert list(hub.clients) == [stays.client]
            assert (hub.buffers.total_bytes, hub.members.lacking, hub._waiting) == (0, {}, {})


async def read(hub: Hub, peer: Peer) -> list[Message]:
    await wait_all_tasks_blocked()
    return await peer.pong()


async def test_subscriptions_of_one_client_begin_one_after_the_other() -> None:
    """Else the cursor in the replay of one would say that the other had come as far."""
    hub = make_hub(live=False, client_bytes=20_000)
    hub.set_live(Position(1, 0))
    for n in range(1, 61):
        hub.deliver([happening(n, "ab"[n % 2], size=1000)])
    async with making_peers(hub) as made:
        peer = made.connect()
        for name, wanted, after in (("a", ONLY_A, "1-0"), ("b", ONLY_B, "1-20"), ("both", EVERYTHING, None)):
            hub.subscribe(peer.client, name, wanted, after)
        hub.deliver([happening(61, "a"), happening(62, "b")])
        messages = await peer.read(lambda messages: len(numbers(messages)) == 31 + 21 and len(messages) > 55)
        assert [one["sub"] for one in of_kind("subscribed", messages)] == ["a", "b", "both"]
        wanted_numbers = {n for n in range(1, 63) if n % 2 == 0 or n == 61} | {
            n for n in range(21, 63) if n % 2 or n == 62
        }
        assert sorted(numbers(messages)) == sorted(wanted_numbers)
        assert len(numbers(messages)) == len(set(numbers(messages)))


async def test_a_name_in_use_begins_anew_and_unsubscribing_ends_it() -> None:
    hub = hub_with(5)
    async with making_peers(hub) as made:
        peer = made.subscribe(ONLY_A, name="one")
        hub.subscribe(peer.client, "one", ONLY_B)
        hub.deliver([happening(6, "a"), happening(7, "b")])
        assert numbers(await read(hub, peer)) == [7]
        assert hub.unsubscribe(peer.client, "one")
        assert not hub.unsubscribe(peer.client, "one")
        hub.deliver([happening(8, "b")])
        hub.subscribe(peer.client, "one", EVERYTHING, "1-8")
        hub.deliver([happening(9, "b")])
        assert numbers(await peer.read_until(9)) == [7, 9]
        assert hub.subscription_names(peer.client) == {"one"}


async def test_unsubscribing_what_waits_lets_the_next_one_begin(autojump_clock: MockClock) -> None:
    hub = hub_with(5)
    async with making_peers(hub) as made:
        peer = made.subscribe(ONLY_A, "1-9", name="ahead")
        hub.subscribe(peer.client, "next", ONLY_B)
        await trio.sleep(0.5)
        assert peer.now() == []
        assert hub.unsubscribe(peer.client, "ahead")
        await trio.sleep(0.5)
        assert [one["sub"] for one in of_kind("subscribed", peer.now())] == ["next"]
        hub.deliver([happening(6, "b"), happening(10, "a")])
        assert numbers(peer.now()) == [6]


async def test_a_further_subscription_goes_live_first_and_what_it_lacks_comes_late() -> None:
    hub = make_hub(live=False, client_bytes=20_000)
    hub.set_live(Position(1, 0))
    async with making_peers(hub) as made:
        peer = made.subscribe(ONLY_A)
        for n in range(1, 41):
            hub.deliver([happening(n, "ab"[n % 2], size=1000)])
            await peer.read_until(n) if not n % 2 else None
        hub.subscribe(peer.client, "more", EVERYTHING, "1-10")
        hub.deliver([happening(41, "b")])
        messages = await peer.read(lambda messages: kinds(messages)[-1] == "position")
        late_ones = [one for one in of_kind("notification", messages) if one.get("late")]
        assert numbers(late_ones) == list(range(11, 40, 2)), "even ones came by the other subscription"  # type: ignore[arg-type]
        assert sorted(numbers(messages)) == sorted({*range(2, 41, 2), *range(11, 40, 2), 41})
        assert Cursor.parse(late_ones[3]["cursor"]).open_gaps[0].sub is not None
        assert messages[-1] == {"type": "position", "cursor": "1-41"}


async def test_web_sockets_and_streams_hear_the_same_with_the_same_cursors() -> None:
    hub = hub_with(5)
    async with making_peers(hub) as made:
        socket, stream = made.subscribe(after="1-2"), made.subscribe(after="1-2", protocol="sse")
        hub.deliver([Gap(*HOLE, "failover", pending=True), happening(1, term=2, number=8)])
        hub.deliver([late(happening(6), HOLE), Filled(*HOLE), happening(2, term=2, number=9)])
        one, other = await socket.read_until(9), await stream.read_until(9)
        assert one == other
        assert hasattr(stream.reader, "source")
        assert [block.last_event_id for block in stream.reader.source.blocks] == cursors(one)


async def test_clients_that_come_during_a_pending_gap_share_what_they_lack() -> None:
    """Each event is then encoded once for all of them, not once for each."""
    hub = hub_with(5)
    hub.deliver([Gap(*HOLE, "failover", pending=True), happening(1, term=2, number=8)])
    async with making_peers(hub) as made:
        found = [made.subscribe(after=after) for after in ("1-3", "1-5", "2-1~1-5_2-0") for _ in range(20)]
        await wait_all_tasks_blocked()
        assert len(hub.members.cohorts(peer.client for peer in found)) == 1
        hub.deliver([late(happening(6), HOLE)])
        found += [made.subscribe(after=after) for after in ("1-3", "2-1~1-5_2-0", "2-1~1-5_2-0_1-5.1-6")]
        await wait_all_tasks_blocked()
        assert len(hub.members.cohorts(peer.client for peer in found)) <= 2
        hub.deliver([late(happening(7), HOLE), Filled(*HOLE), happening(2, term=2, number=9)])
        for peer in found:
            assert [one for one in numbers(peer.now()) if one in (7, 9)] == [7, 9]
            assert kinds(peer.messages).count("filled") == 1
