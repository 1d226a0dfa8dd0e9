"""The counters of the hub say what clients were told: by everything that all of them have read."""

import pytest
import trio

from bridge.core.events import Filled, Gap, late
from bridge.core.position import Position, Timeline
from bridge.core.topics import Subscription
from bridge.hub import Hub
from bridge.hub.encoding import Protocol
from bridge.telemetry.metrics import PREFIX
from tests.support.peers import EVERYTHING, Peer, happening, kinds, make_hub, making_peers, of_kind, sample

ONLY_A = Subscription(frozenset({"a"}))


def gaps(hub: Hub) -> dict[str, float]:
    """The final gaps counted so far, by reason."""
    found = hub._metrics.registry.restricted_registry([PREFIX + "gaps_total"]).collect()
    counted = [one for metric in found for one in metric.samples if one.value]
    assert all(one.labels["scope"] == "client" for one in counted), "the others are counted where they come from"
    return {one.labels["reason"]: one.value for one in counted}


def final_gaps(*peers: Peer) -> list[str]:
    told = [gap for peer in peers for gap in of_kind("gap", peer.messages)]
    return sorted(gap["reason"] for gap in told if not gap.get("pending"))


def events_read(*peers: Peer) -> int:
    return sum(len(of_kind("notification", peer.messages)) for peer in peers)


@pytest.mark.parametrize("protocol", ["ws", "sse"])
async def test_deliveries_are_events_and_replays_are_apart(protocol: Protocol) -> None:
    hub = make_hub()
    hub.set_live(Position(1, 0))
    async with making_peers(hub) as made:
        one, other = made.subscribe(protocol=protocol), made.subscribe(ONLY_A)
        hub.deliver([happening(n, "ab"[n % 2]) for n in range(1, 11)])
        for _ in range(3):
            hub.tick()  # positions are no events
        back = made.subscribe(after="1-4", protocol=protocol)
        hub.deliver([happening(11)])
        await one.pong()
        assert "position" in kinds(await other.pong())
        replayed = await back.pong()
        assert sample(hub, "deliveries_total") == events_read(one, other) + 1 == 11 + 6 + 1
        assert len(of_kind("notification", replayed)) == 7
        assert sample(hub, "replayed_events_total") == 6
        assert sample(hub, "events_total") == 11
        assert gaps(hub) == {}


async def test_late_events_are_events_and_gaps_are_not() -> None:
    timeline = Timeline()
    hub = make_hub(timeline=timeline)
    hub.set_live(Position(1, 0))
    hole = Position(1, 1), Position(2, 0)
    async with making_peers(hub) as made:
        peers = [made.subscribe(), made.subscribe()]
        hub.deliver([happening(1)])
        hub.deliver([Gap(*hole, "failover", pending=True)])
        hub.deliver([happening(1, term=2, number=3)])
        timeline.relate(Position(2, 0), Position(1, 3))
        hub.deliver([late(happening(2), hole), Filled(*hole)])
        for peer in peers:
            await peer.pong()
        assert sample(hub, "deliveries_total") == events_read(*peers) == 6
        assert sample(hub, "events_total") == 3
        assert kinds(peers[0].messages).count("filled") == 1
        assert gaps(hub) == {}, "nothing was lost"


async def test_every_gap_that_a_client_alone_is_told_of_is_counted() -> None:
    hub = make_hub(history_entries=100)
    hub.set_live(Position(1, 0))
    hub.deliver([happening(n) for n in range(1, 301)])
    async with making_peers(hub) as made:
        trimmed = made.subscribe(ONLY_A, after="1-5", buffer_bytes=1 << 20)
        unknown = [made.subscribe(after=after) for after in ("nonsense", f"1-{10**12}")]
        fine = made.subscribe(after="1-299")
        for peer in (trimmed, fine, *unknown):
            await peer.read(lambda messages: len(messages) > 1)
        await trimmed.read_until(300)
        assert final_gaps(trimmed, fine, *unknown) == ["history_trimmed", "unknown_position", "unknown_position"]
        assert gaps(hub) == {"history_trimmed": 1, "unknown_position": 2}


async def test_a_gap_that_another_process_left_open_and_this_one_cannot_fill_is_counted() -> None:
    hub = make_hub()
    hub.set_live(Position(1, 0))
    hub.deliver([happening(n) for n in range(1, 6)])
    hub.deliver([Gap(Position(1, 5), Position(1, 8), "postgres_session_lost"), happening(8)])
    async with making_peers(hub) as made:
        peer = made.subscribe(after="1-8~1-4_1-8")
        await peer.read(lambda messages: len(messages) > 1)
        assert final_gaps(peer) == ["failover"]
        assert gaps(hub) == {"failover": 1}


@pytest.mark.parametrize("protocol", ["ws", "sse"])
async def test_a_client_that_misses_events_is_counted_when_it_begins_to(protocol: Protocol) -> None:
    hub = make_hub(drops=True, client_bytes=20_000)
    hub.set_live(Position(1, 0))
    async with making_peers(hub) as made:
        slow, other = made.subscribe(protocol=protocol), made.subscribe(EVERYTHING, buffer_bytes=1 << 22)
        for n in range(1, 301):
            hub.deliver([happening(n, size=500)])
        assert sample(hub, "slow_drops_total") == 1
        assert gaps(hub) == {}, "it is told when it reads again"
        await slow.read_kind("gap")
        assert gaps(hub) == {"slow_client": 1}
        assert final_gaps(slow, other) == ["slow_client"]
        assert sample(hub, "slow_disconnects_total") == 0


async def test_buffers_that_are_full_together_make_each_client_miss_once() -> None:
    hub = make_hub(drops=True, client_bytes=1 << 20, total_bytes=50_000)
    hub.set_live(Position(1, 0))
    async with making_peers(hub) as made:
        peers = [made.subscribe(Subscription(frozenset({channel}))) for channel in "ab"]
        for n in range(1, 401):
            hub.deliver([happening(n, "ab"[n % 2], size=500)])
        lagging = [peer for peer in peers if peer.client.lagging]
        assert lagging
        assert sample(hub, "slow_drops_total") == len(lagging)


async def test_a_client_that_is_disconnected_is_no_drop() -> None:
    hub = make_hub(client_bytes=20_000)
    hub.set_live(Position(1, 0))
    async with making_peers(hub) as made:
        made.subscribe()
        for n in range(1, 301):
            hub.deliver([happening(n, size=500)])
        await trio.lowlevel.checkpoint()
        assert (sample(hub, "slow_disconnects_total"), sample(hub, "slow_drops_total")) == (1, 0)
