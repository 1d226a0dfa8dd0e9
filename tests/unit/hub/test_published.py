"""What applications publish: to whoever wants it, once, with the client's own cursor, and beside all that counts."""

import json

import pytest

from bridge.core import events
from bridge.core.events import Gap, Published
from bridge.core.position import Position
from bridge.core.topics import Subscription
from bridge.core.wire import TOO_SLOW
from bridge.hub.encoding import Protocol
from tests.support.frames import Message
from tests.support.peers import EVERYTHING, happening, kinds, make_hub, making_peers, numbers, peers, sample


def publication(number: int, channel: str = "a", **more: object) -> Published:
    return events.published(channel, json.dumps({"n": number, **more}).encode())


def told(number: int, cursor: str, channel: str = "a") -> Message:
    return {"type": "notification", "id": None, "channel": channel, "payload": {"n": number}, "cursor": cursor}


async def test_it_comes_in_order_and_moves_nobody() -> None:
    hub = make_hub()
    async with peers(hub, EVERYTHING) as (peer,):
        hub.deliver([happening(1), publication(7), happening(2), publication(8, "b")])
        _, first, published, second, last = await peer.read_count(5)
        assert published == told(7, "1-1")
        assert last == told(8, "1-2", "b")
        assert numbers([first, second]) == [1, 2]
        assert hub.position == Position(1, 2)
    assert sample(hub, "events_total") == 4
    assert sample(hub, "deliveries_total") == 4


async def test_it_goes_to_those_who_want_it_once() -> None:
    hub = make_hub()
    seven, other = Subscription(frozenset({"a"}), (("m", ("7",)),)), Subscription(frozenset({"b"}))
    async with making_peers(hub) as made:
        hub.deliver([happening(1)])
        picky, elsewhere, greedy = made.subscribe(seven), made.subscribe(other), made.subscribe(seven)
        hub.subscribe(greedy.client, "all", EVERYTHING)
        hub.subscribe(greedy.client, "again", EVERYTHING)
        hub.deliver([publication(2, m=7), publication(3, m=8), publication(4, m="7"), publication(5, "b")])
        assert numbers(await picky.pong()) == [2, 4]
        assert numbers(await elsewhere.pong()) == [5]
        assert numbers(await greedy.pong()) == [2, 3, 4, 5]


@pytest.mark.parametrize("payload", [b"7", b'"text"', b"null", b"[]", b'""'])
async def test_a_payload_without_fields_matches_no_filter(payload: bytes) -> None:
    hub = make_hub()
    async with peers(hub, Subscription(frozenset({"a"}), (("m", ("7",)),)), EVERYTHING) as (picky, eager):
        hub.deliver([happening(1), events.published("a", payload)])
        assert kinds(await picky.pong()) == ["subscribed"]
        assert kinds(await eager.pong()) == ["subscribed", "notification", "notification"]


async def test_its_cursor_says_the_gaps_of_its_client() -> None:
    hub = make_hub()
    async with making_peers(hub) as made:
        hub.deliver([happening(1)])
        before = made.subscribe()
        gap = Gap(Position(1, 1), Position(1, 5), "failover", pending=True)
        hub.deliver([gap, happening(5)])
        after = made.subscribe()
        hub.deliver([publication(9)])
        *_, event, lacking = await before.read_count(4)
        *_, whole = await after.read_count(2)
        assert lacking == told(9, event["cursor"])  # type: ignore[call-overload]
        assert whole == told(9, "1-5")


@pytest.mark.parametrize("protocol", ["ws", "sse"])
async def test_a_client_that_goes_on_after_it_misses_nothing_and_gets_nothing_twice(protocol: Protocol) -> None:
    hub = make_hub()
    async with making_peers(hub) as made:
        first = made.subscribe(protocol=protocol)
        hub.deliver([happening(1), publication(7)])
        if protocol == "sse":
            await first.read_count(3)
            cursor = first.reader.source.blocks[-1].last_event_id  # type: ignore[union-attr]
        else:
            *_, message = await first.read_count(3)
            cursor = message["cursor"]  # type: ignore[call-overload]
        made.disconnect(first)
        hub.deliver([happening(2), publication(8), happening(3)])
        second = made.subscribe(after=cursor, protocol=protocol)
        hub.deliver([publication(9)])
        assert numbers(await second.pong()) == [2, 3, 9]


async def test_before_anything_is_known_nobody_is_told() -> None:
    hub = make_hub(live=False)
    async with peers(hub, EVERYTHING) as (peer,):
        hub.deliver([publication(1)])
        hub.set_live(None)
        hub.deliver([publication(2)])
        hub.deliver([happening(1), publication(3)])
        assert numbers(await peer.pong()) == [1, 3]


async def test_a_quiet_client_is_not_told_its_position_right_after_it() -> None:
    hub = make_hub()
    async with peers(hub, EVERYTHING) as (peer,):
        hub.deliver([happening(1)])
        hub.tick()
        hub.tick()
        hub.deliver([publication(7)])
        hub.tick()
        assert kinds(await peer.pong()) == ["subscribed", "notification", "notification"]


@pytest.mark.parametrize("drops", [False, True])
async def test_a_client_that_reads_too_slowly_suffers_alone(*, drops: bool) -> None:
    hub = make_hub(client_bytes=1 << 16, drops=drops)
    async with making_peers(hub) as made:
        hub.deliver([happening(1)])
        slow, quick = made.subscribe(), made.subscribe()
        await slow.read_count(1)
        for number in range(100):
            hub.deliver([publication(number, pad="x" * 7000)])
            assert numbers(await quick.read_until(number))[-1] == number
        if not drops:
            assert kinds(await slow.read(lambda messages: "close" in kinds(messages)))[-1] == "close"
            assert slow.client.close_code == TOO_SLOW
            return
        got = list(await slow.pong())
        assert kinds(got) == ["subscribed"] + ["notification"] * (len(got) - 1)
        assert len(got) < 50
        hub.deliver([happening(200)])
        assert numbers(await slow.read_until(200))[-1] == 200
