"""The hub against kernel buffers that are full, peers that are gone and clients that read in time."""

import logging
from typing import Any

import pytest
import trio

from bridge.core.events import Event, Filled, Gap, late
from bridge.core.position import Position
from bridge.core.topics import Subscription
from bridge.hub.client import State
from bridge.hub.fanout import JOINED_BYTES
from bridge.hub.hub import PING_TICKS, QUIET_TICKS
from bridge.hub.socket_client import CLOSE_SECONDS
from tests.support.frames import Message
from tests.support.peers import EVERYTHING, Peer, happening, make_hub, numbers, peers, sample


def has_close(messages: list[Message]) -> bool:
    return any(isinstance(message, tuple) and message[0] == "close" for message in messages)


def state(peer: Peer) -> State:
    return peer.client.state


async def test_subscribed_comes_first_then_everything_in_order() -> None:
    hub = make_hub()
    hub.deliver([happening(1)])
    async with peers(hub, Subscription(frozenset({"a"}), (("n", ("3",)),)), EVERYTHING) as (picky, eager):
        hub.deliver([happening(n) for n in range(2, 5)])
        hub.deliver([happening(5, "b")])
        subscribed, *events = await picky.read_count(2)
        assert subscribed == {
            "type": "subscribed",
            "channels": ["a"],
            "where": {"n": "3"},
            "sub": None,
            "position": "1-1",
        }
        assert numbers(events) == [3]
        assert numbers(await eager.read_count(5)) == [2, 3, 4, 5]
        assert hub.position == Position(1, 5)
    assert sample(hub, "events_total") == 5
    assert sample(hub, "deliveries_total") == 5


async def test_nobody_is_told_subscribed_before_a_source_is_live() -> None:
    hub = make_hub(live=False)
    async with peers(hub, EVERYTHING) as (peer,):
        hub.deliver([happening(1)])
        assert hub.client_count == 1
        hub.set_live(Position(1, 7))
        hub.deliver([happening(8)])
        subscribed, after = await peer.read_count(2)
        assert isinstance(subscribed, dict)
        assert subscribed["position"] == "1-7"
        assert numbers([after]) == [8]
        hub.set_waiting()
        hub.deliver([happening(9)])
        assert numbers(await peer.read_count(3)) == [8, 9]


async def test_a_client_that_leaves_while_waiting_is_forgotten() -> None:
    hub = make_hub(live=False)
    async with peers(hub, EVERYTHING, EVERYTHING) as (gone, stays):
        hub.remove(gone.client)
        hub.remove(gone.client)
        hub.set_live(None)
        assert len(await stays.read_count(1)) == 1
        assert hub.client_count == 1


async def test_gaps_go_to_everybody_whatever_the_filter() -> None:
    hub = make_hub()
    nothing = Subscription(frozenset({"b"}), (("n", ("no",)),))
    async with peers(hub, nothing, EVERYTHING) as found:
        gap = Gap(Position(1, 1), Position(1, 5), "failover", pending=True)
        hub.deliver([happening(1), gap, happening(5), Filled(Position(1, 1), Position(1, 5))])
        picky, eager = [await peer.read_count(count) for peer, count in zip(found, (3, 5), strict=True)]
        assert [m["type"] for m in picky if isinstance(m, dict)] == ["subscribed", "gap", "filled"]
        kinds = [m["type"] for m in eager if isinstance(m, dict)]
        assert kinds == ["subscribed", "notification", "gap", "notification", "filled"]


@pytest.mark.parametrize("batch", [1, 7, 500])
async def test_a_reader_that_resumes_in_time_loses_nothing(batch: int) -> None:
    hub = make_hub()
    async with peers(hub, EVERYTHING, EVERYTHING) as (late, other):
        expected = list(range(1500))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.read_count, 1501)
            for start in range(0, len(expected), batch):
                hub.deliver([happening(n, size=n % 200) for n in expected[start : start + batch]])
                await trio.lowlevel.checkpoint()
        assert numbers(other.messages) == expected
        assert late.client.held_bytes > 0
        assert hub.buffers.total_bytes > 0
        assert numbers(await late.read_count(1501)) == expected
        await late.client.flushed()
        assert late.client.held_bytes == 0
        assert (hub.buffers.total_bytes, hub.buffers.holding) == (0, set())
        hub.deliver([happening(1500)])
        assert numbers(await late.read_count(1502))[-1] == 1500


async def test_a_burst_larger_than_a_joined_write_stays_in_order() -> None:
    hub = make_hub(client_bytes=1 << 24)
    async with peers(hub, EVERYTHING) as (peer,):
        count = 3 * JOINED_BYTES // 8000
        hub.deliver([happening(n, size=8000) for n in range(count)])
        assert numbers(await peer.read_count(count + 1)) == list(range(count))


@pytest.mark.parametrize("batch", [1, 40])
async def test_a_stalled_reader_gets_4008_after_whole_frames(batch: int, caplog: pytest.LogCaptureFixture) -> None:
    hub = make_hub(client_bytes=50_000)
    with caplog.at_level(logging.DEBUG, "bridge"):
        async with peers(hub, EVERYTHING, EVERYTHING) as (stalled, healthy):
            for start in range(0, 400, batch):
                hub.deliver([happening(n, size=1000) for n in range(start, start + batch)])
                await healthy.read_count(start + batch + 1)
            assert numbers(healthy.messages) == list(range(400))
            assert hub.client_count == 1
            assert state(stalled) is State.CLOSING
            assert hub.buffers.total_bytes < 2000
            messages = await stalled.read(has_close)
            assert messages[-1] == ("close", (4008, "resume with after"))
            received = numbers(messages)
            assert received == list(range(len(received)))
            assert 0 < len(received) < 400
    assert sample(hub, "slow_disconnects_total") == 1
    assert [(record.levelname, "4008" in record.message) for record in caplog.records] == [("DEBUG", True)]


async def test_a_peer_that_never_reads_is_reset(autojump_clock: trio.testing.MockClock) -> None:
    hub = make_hub(client_bytes=50_000)
    async with peers(hub, EVERYTHING) as (stalled,):
        hub.deliver([happening(n, size=1000) for n in range(200)])
        assert state(stalled) is State.CLOSING
        await trio.sleep(CLOSE_SECONDS + 1)
        assert state(stalled) is State.CLOSED
        assert hub.buffers.total_bytes == 0
        assert (await stalled.read_all())[-1] == ("end", None)


async def test_shared_bytes_count_once_and_the_fullest_buffer_goes_first() -> None:
    hub = make_hub(total_bytes=100_000)
    only_b = Subscription(frozenset({"b"}))
    async with peers(hub, EVERYTHING, EVERYTHING, only_b) as (one, two, three):
        hub.deliver([happening(n, "b", size=1000) for n in range(20)])
        full = hub.buffers.total_bytes
        assert max(peer.client.held_bytes for peer in (one, two, three)) <= full < 40_000
        hub.deliver([happening(n, "a", size=1000) for n in range(100)])
        assert [state(peer) for peer in (one, two)] == [State.CLOSING] * 2
        assert state(three) is State.OPEN
        assert hub.buffers.total_bytes <= 100_000
        assert numbers(await three.read_count(21)) == list(range(20))
        assert {peer.client.close_code for peer in (one, two)} == {4013}
    assert sample(hub, "slow_disconnects_total") == 2


async def test_a_peer_that_is_gone_disturbs_nobody() -> None:
    hub = make_hub()
    async with peers(hub, *[EVERYTHING] * 5) as found:
        for peer in found[::2]:
            peer.end.close()
        hub.deliver([happening(1)])
        assert hub.client_count == 2
        assert [state(peer) for peer in found[::2]] == [State.CLOSED] * 3
        hub.deliver([happening(2)])
        for peer in found[1::2]:
            assert numbers(await peer.read_count(3)) == [1, 2]
    assert sample(hub, "slow_disconnects_total") == 0


async def test_a_peer_that_goes_while_frames_are_held_is_forgotten() -> None:
    hub = make_hub()
    async with peers(hub, EVERYTHING) as (peer,):
        hub.deliver([happening(n, size=1000) for n in range(100)])
        assert peer.client.held_bytes > 0
        peer.end.close()
        with trio.fail_after(30):
            await peer.client.flushed()
        assert state(peer) is State.CLOSED
        hub.deliver([])
        assert (hub.client_count, hub.buffers.total_bytes) == (0, 0)


async def test_nothing_follows_a_close_frame() -> None:
    hub = make_hub()
    async with peers(hub, EVERYTHING) as (peer,):
        peer.client.end(1008, "enough")
        peer.client.end(1001)
        peer.client.put(b"\x81\x02no")
        hub.deliver([happening(1)])
        peer.client.finish()
        peer.client._raw.close()
        assert [m for m in await peer.read_all() if isinstance(m, tuple)] == [
            ("close", (1008, "enough")),
            ("end", None),
        ]
        assert hub.client_count == 0


async def test_quiet_clients_are_told_their_position() -> None:
    hub = make_hub()
    async with peers(hub, EVERYTHING, Subscription(frozenset({"b"}))) as (busy, quiet):
        for n in range(QUIET_TICKS):
            hub.deliver([happening(n)])
            hub.tick()
        assert (await quiet.read_count(2))[1] == {"type": "position", "cursor": f"1-{QUIET_TICKS - 1}"}
        assert numbers(await busy.read_count(1 + QUIET_TICKS)) == list(range(QUIET_TICKS))


async def test_a_peer_without_a_sign_of_life_is_dropped() -> None:
    hub = make_hub()
    async with peers(hub, EVERYTHING, EVERYTHING) as (dead, alive):

        def one_ping(**after: Any) -> None:
            for _ in range(PING_TICKS):
                hub.tick(**after)

        one_ping()
        assert ("ping", b"") in await dead.read_count(2)
        one_ping(after_pause=True)
        assert hub.client_count == 2
        alive.client.heard = True
        one_ping()
        assert hub.client_count == 1
        assert (state(dead), state(alive)) == (State.CLOSED, State.OPEN)


def late_in(hole: tuple[Position, Position], seq: int) -> Event:
    return late(happening(seq), hole)


async def test_late_events_and_the_end_of_a_gap_are_for_those_who_were_told_of_it() -> None:
    hub = make_hub()
    hole = (Position(1, 3), Position(2, 0))
    async with peers(hub, EVERYTHING) as (before,):
        hub.deliver([happening(3), Gap(*hole, "failover", pending=True)])
        async with peers(hub, EVERYTHING) as (after,):
            hub.deliver([happening(9), late_in(hole, 4), late_in(hole, 5), Filled(*hole), happening(10)])
            told = await before.read_count(8)
            assert numbers(told) == [3, 9, 4, 5, 10]
            assert [m["type"] for m in told if isinstance(m, dict)][2] == "gap"
            assert [m["type"] for m in told if isinstance(m, dict)][6] == "filled"
            messages = await after.read_count(3)
            assert numbers(messages) == [9, 10]
            assert [m["type"] for m in messages if isinstance(m, dict)] == [
                "subscribed",
                "notification",
                "notification",
            ]


async def test_a_final_gap_that_was_never_pending_is_for_everybody() -> None:
    hub = make_hub()
    async with peers(hub, EVERYTHING, EVERYTHING) as both:
        hub.deliver([Gap(Position(1, 3), Position(2, 0), "failover")])
        for peer in both:
            assert (await peer.read_count(2))[1]["reason"] == "failover"  # type: ignore[call-overload]


async def test_a_late_event_outside_of_every_gap_is_for_those_who_had_surely_subscribed_before_it() -> None:
    hub = make_hub(live=False)
    hub.set_live(Position(1, 3))
    async with peers(hub, EVERYTHING) as (before,):
        hub.set_live(Position(1, 9))
        async with peers(hub, EVERYTHING) as (after,):
            hub.deliver([late(happening(5), None), happening(10)])
            assert numbers(await before.read_count(3)) == [5, 10]
            assert numbers(await after.read_count(2)) == [10]
