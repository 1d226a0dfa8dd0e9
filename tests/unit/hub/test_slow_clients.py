"""Clients that may lose messages instead of their connection: one gap for what was dropped, and it is true."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count, pairwise
from typing import Any

import pytest
import trio

from bridge.core.cursor import Cursor
from bridge.core.events import Filled, Gap, late
from bridge.core.grants import Grant
from bridge.core.position import Position, Timeline
from bridge.hub import Hub
from bridge.hub.client import State
from bridge.hub.encoding import Protocol
from bridge.hub.socket_client import ANSWERS_BYTES
from bridge.hub.talk import Talk
from tests.support.frames import Message
from tests.support.peers import (
    EVERYTHING,
    Peer,
    Peers,
    happening,
    kinds,
    make_hub,
    making_peers,
    numbers,
    of_kind,
    sample,
)

BEGINNING = Position(1, 0)
HOLE = Position(1, 100), Position(2, 0)


@asynccontextmanager
async def dropping(
    *, live_from: Position = BEGINNING, protocol: Protocol = "ws", **options: Any
) -> AsyncIterator[tuple[Hub, Peers, Peer]]:
    """A hub that drops what a client cannot hold, and the first of its clients, which does not read unless told to."""
    hub = make_hub(drops=True, **{"client_bytes": 20_000, **options})
    hub.set_live(live_from)
    async with making_peers(hub) as made:
        yield hub, made, made.subscribe(protocol=protocol)


def flood(hub: Hub, first: int, how_many: int, term: int = 1) -> None:
    """More than a client can hold, in small portions."""
    for n in range(first, first + how_many):
        hub.deliver([happening(n, size=500, term=term)])


def stall(hub: Hub, slow: Peer, how_many: int, term: int = 1) -> None:
    """Events from 1 on that make this client lag."""
    flood(hub, 1, how_many, term)
    assert slow.client.lagging


def assert_true(messages: list[Message], through: int) -> None:
    """Everything through this number came in order, or lies in a gap told at its place."""
    newest = 0
    for message in messages:
        assert isinstance(message, dict)
        if message["type"] == "notification":
            assert message["payload"]["n"] == newest + 1
            newest += 1
        elif message["type"] == "gap":
            assert message["reason"] == "slow_client"
            assert Position.parse(message["after"]) == Position(1, newest)
            newest = Position.parse(message["before"]).seq - 1
            assert message["cursor"] == f"1-{newest}"
    assert newest == through


@pytest.mark.parametrize("protocol", ["ws", "sse"])
@pytest.mark.parametrize("batch", [1, 30])
async def test_what_is_dropped_is_told_in_one_gap(protocol: Protocol, batch: int) -> None:
    async with dropping(protocol=protocol) as (hub, made, slow):
        other = made.subscribe()
        for first in range(1, 301, batch):
            hub.deliver([happening(n, size=500) for n in range(first, first + batch)])
            await other.read_until(first + batch - 1)
        assert slow.client.held_bytes <= 20_000
        await slow.read_kind("gap")
        hub.deliver([happening(301), happening(302)])
        assert_true((await slow.read_until(302))[1:], 302)
        assert len(of_kind("gap", slow.messages)) == 1
        assert numbers(other.messages)[:300] == list(range(1, 301)), "one stalled client costs the others nothing"
        assert slow.client.state is State.OPEN
        assert (hub.buffers.total_bytes, hub.buffers.holding) == (0, set())
    assert sample(hub, "slow_disconnects_total") == 0


async def test_a_client_that_is_always_too_slow_gets_data_between_its_gaps() -> None:
    async with dropping() as (hub, _, slow):
        sent = 0
        for _ in range(20):
            for _ in range(10):
                hub.deliver([happening(sent + n, size=500) for n in range(1, 31)])
                sent += 30
            known = len(of_kind("gap", slow.messages))
            await slow.read_kind("gap", known + 1)
        assert_true(slow.messages[1:], sent)
        told = kinds(slow.messages)
        assert all((one, other) != ("gap", "gap") for one, other in pairwise(told))
        assert told.count("notification") > 20 * 10


async def test_the_limit_of_all_together_makes_the_slowest_lag() -> None:
    async with dropping(client_bytes=1 << 20, total_bytes=50_000) as (hub, _, slow):
        flood(hub, 1, 200)
        assert hub.buffers.total_bytes <= 50_000
        assert slow.client.state is State.OPEN
        await slow.read_kind("gap")
        hub.deliver([happening(201)])
        assert_true((await slow.read_until(201))[1:], 201)


async def test_answers_are_never_dropped() -> None:
    async with dropping() as (hub, _, slow):
        stall(hub, slow, 200)
        hub.subscribe(slow.client, "more", EVERYTHING)
        flood(hub, 201, 100)
        messages = await slow.pong()
        hub.deliver([happening(301)])
        messages = await slow.read_until(301)
        assert [one["sub"] for one in of_kind("subscribed", messages)] == [None, "more"]
        data = [one for one in messages if not isinstance(one, dict) or one["type"] not in ("subscribed", "pong")]
        assert_true(data, 301)


async def test_a_pending_gap_that_comes_and_goes_while_a_client_lags_is_part_of_what_it_missed() -> None:
    async with dropping() as (hub, made, slow):
        other = made.subscribe(buffer_bytes=1 << 20)
        stall(hub, slow, 100)
        hub.deliver([Gap(*HOLE, "failover", pending=True), happening(1, term=2, number=1008)])
        hub.deliver([late(happening(101), HOLE), Filled(*HOLE), happening(2, term=2, number=1009)])
        messages = await slow.read_kind("gap")
        (gap,) = of_kind("gap", messages)
        assert (gap["after"], gap["before"], gap["cursor"]) == (f"1-{numbers(messages)[-1]}", "2-3", "2-2")
        assert "pending" not in gap
        hub.deliver([happening(3, term=2, number=1010)])
        messages = await slow.read_until(1010)
        assert kinds(messages)[-1] == "notification"
        assert "filled" not in kinds(messages)
        assert kinds(await other.read_until(1010)).count("filled") == 1


async def test_a_pending_gap_of_which_a_late_event_was_missed_is_final_and_ends_once() -> None:
    async with dropping() as (hub, _, slow):
        hub.deliver([happening(100), Gap(*HOLE, "failover", pending=True)])
        assert kinds(await slow.read_count(3)) == ["subscribed", "notification", "gap"]
        stall(hub, slow, 200, term=2)
        hub.deliver([late(happening(101), HOLE)])
        messages = await slow.read_kind("gap", 3)
        pending, *told = of_kind("gap", messages)
        assert {(one["after"], one["before"]) for one in told} == {
            ("1-100", "2-0"),
            (told[0]["after"], "2-201"),
        }
        assert all(one["reason"] == "slow_client" and "pending" not in one for one in told)
        assert [[gap.bounds for gap in Cursor.parse(one["cursor"]).open_gaps] for one in told] == [[HOLE], []]
        known = len(messages)
        hub.deliver([late(happening(102), HOLE), Filled(*HOLE), happening(201, term=2, number=1000)])
        rest = (await slow.read_until(1000))[known:]
        assert kinds(rest) == ["notification"]
        assert pending["pending"]


async def test_a_pending_gap_stays_open_for_a_client_that_missed_nothing_of_it() -> None:
    async with dropping() as (hub, _, slow):
        hub.deliver([happening(100), Gap(*HOLE, "failover", pending=True)])
        stall(hub, slow, 200, term=2)
        messages = await slow.read_kind("gap", 2)
        assert Cursor.parse(of_kind("gap", messages)[-1]["cursor"]).open_gaps[0].bounds == HOLE
        known = len(messages)
        hub.deliver([late(happening(101), HOLE), Filled(*HOLE), happening(201, term=2, number=1000)])
        rest = (await slow.read_until(1000))[known:]
        assert kinds(rest) == ["notification", "filled", "notification"]


async def test_a_lagging_client_that_goes_is_forgotten() -> None:
    async with dropping() as (hub, made, slow):
        other = made.subscribe()
        stall(hub, slow, 200, term=2)
        made.disconnect(slow)
        await trio.testing.wait_all_tasks_blocked()
        assert made.tasks(slow) == 0
        hub.deliver([happening(999, term=2)])
        other.client.abort()
        hub.deliver([])
        assert (hub.client_count, hub.buffers.total_bytes, hub.buffers.holding) == (0, 0, set())


# What a client asks for while it lags


ASKED = ['{"type":"ping"}', '{"type":"subscribe","sub":"x","channels":["b"]}']


def asking_for(size: int) -> str:
    """A subscription whose answer has more bytes than that."""
    return '{"type":"subscribe","sub":"x","where":{"f":"%s"}}' % ("v" * size)


def talk_of(hub: Hub, slow: Peer, clock: Callable[[], float] = trio.current_time) -> Talk:
    return Talk(hub, slow.client, Grant(None, (), None), clock)


def lost_in_silence(through: int, before: list[Message], after: list[Message]) -> set[int]:
    """Which of the events with these numbers a client of two connections neither got nor was told of."""
    told = {
        n
        for gap in of_kind("gap", [*before, *after])
        if not gap.get("pending")
        for n in range(Position.parse(gap["after"]).seq + 1, Position.parse(gap["before"]).seq)
    }
    return set(range(1, through + 1)) - set(numbers(before)) - set(numbers(after)) - told


@pytest.mark.parametrize("asked", ASKED, ids=["ping", "subscribe"])
async def test_answers_to_a_lagging_client_come_behind_what_it_missed(asked: str) -> None:
    async with dropping() as (hub, made, slow):
        stall(hub, slow, 300)
        talk_of(hub, slow).hear(asked)
        messages = await slow.read(lambda messages: len(messages) > 1 and kinds(messages)[-1] in ("pong", "subscribed"))
        answer = messages[-1]
        assert isinstance(answer, dict)
        made.disconnect(slow)
        flood(hub, 301, 2)
        again = made.subscribe(after=answer.get("cursor") or answer["position"])
        assert lost_in_silence(302, messages, await again.read_until(302)) == set()
        assert not set(numbers(messages)) & set(numbers(again.messages))


async def test_late_events_that_were_missed_are_told_before_an_answer_claims_them() -> None:
    hole = Position(1, 2), Position(1, 300)
    async with dropping() as (hub, made, slow):
        hub.deliver([happening(1), happening(2), Gap(*hole, "failover", pending=True), happening(300)])
        for n in range(3, 299):
            hub.deliver([late(happening(n, size=500), hole)])
        assert slow.client.lagging
        talk_of(hub, slow).hear(ASKED[0])
        messages = await slow.read_kind("pong")
        messages = messages[: kinds(messages).index("pong") + 1]
        made.disconnect(slow)
        again = made.subscribe(after=of_kind("pong", messages)[0]["cursor"])
        hub.deliver([late(happening(299), hole), Filled(*hole), happening(301)])
        assert lost_in_silence(301, messages, await again.read_until(301)) == set()


async def test_answers_survive_what_takes_the_fullest_buffers_away() -> None:
    async with dropping(client_bytes=1 << 20, total_bytes=50_000) as (hub, _, slow):
        flood(hub, 1, 60)
        hub.subscribe(slow.client, "unknown", EVERYTHING, "nonsense")
        assert 30_000 < slow.client.held_bytes < 50_000
        flood(hub, 61, 100)
        assert slow.client.lagging
        messages = await slow.read_kind("subscribed", 2)
        assert [one["sub"] for one in of_kind("subscribed", messages)] == [None, "unknown"]
        (gap,) = of_kind("gap", messages)
        assert (gap["after"], gap["reason"]) == (None, "slow_client"), "it says that nobody knows since when, too"


async def test_an_answer_for_which_there_is_no_room_comes_all_the_same() -> None:
    async with dropping() as (hub, _, slow):
        n = 0
        while slow.client.held_bytes + 600 <= 20_000:
            n += 1
            hub.deliver([happening(n, size=500)])
        talk = talk_of(hub, slow)
        talk.hear(asking_for(2000))
        talk.hear(ASKED[0])
        messages = await slow.read_kind("pong")
        assert [one["sub"] for one in of_kind("subscribed", messages)] == [None, "x"]


async def test_a_client_that_asks_on_and_on_and_does_not_read_is_ended() -> None:
    async with dropping() as (hub, made, slow):
        flood(hub, 1, 300)
        clock = count(0.0, 0.05)
        talk = talk_of(hub, slow, lambda: next(clock))
        while slow.client.state is State.OPEN:
            talk.hear(asking_for(8000))
            assert hub.buffers.total_bytes < 20_000 + ANSWERS_BYTES + 10_000
        assert slow.client.close_code == 4008
        made.disconnect(slow)
        assert (hub.buffers.total_bytes, hub.buffers.holding) == (0, set())


@pytest.mark.parametrize("how", ["aborted", "ended"])
async def test_nothing_is_kept_for_a_lagging_client_that_has_ended(how: str) -> None:
    async with dropping() as (hub, made, slow):
        stall(hub, slow, 300)
        slow.client.put(b"an answer")
        if how == "aborted":
            slow.client.abort()
        else:
            slow.client.end(1008, "policy")
        held = hub.buffers.total_bytes
        slow.client.put(b"another one")
        assert hub.buffers.total_bytes == held
        made.disconnect(slow)
        assert (hub.buffers.total_bytes, hub.buffers.holding) == (0, set())


async def test_what_was_missed_begins_where_it_began_also_in_the_numbering_of_another_session() -> None:
    """A session of this process's own has a newer term than the log, to which it goes back."""
    session, log = 9, 5
    timeline = Timeline()
    timeline.relate(Position(session, 0), Position(log, 1000))
    async with dropping(live_from=Position(session, 0), timeline=timeline) as (hub, _, slow):
        stall(hub, slow, 300, term=session)
        hub.set_live(Position(log, 1300))
        for n in range(301, 401):
            hub.deliver([happening(1000 + n, size=500, term=log, number=n)])
        messages = await slow.read_kind("gap")
        (gap,) = of_kind("gap", messages)
        assert (gap["after"], gap["before"]) == (f"{session}-{numbers(messages)[-1]}", f"{log}-1401")


async def test_nothing_overtakes_the_gap_of_a_client_that_holds_nothing() -> None:
    async with dropping() as (hub, _, slow):
        send, slow.client.send = slow.client.send, refuses
        hub.deliver([happening(n, size=500) for n in range(1, 101)])  # in one piece, which is more than it may hold
        slow.client.send = send  # the peer has read meanwhile
        talk_of(hub, slow).hear(ASKED[0])
        hub.deliver([happening(101)])
        messages = await slow.read_kind("pong")
        assert kinds(messages) == ["subscribed", "gap", "pong"]
        assert lost_in_silence(101, messages, []) == set()


def refuses(_: bytes) -> int:
    raise BlockingIOError


async def test_clients_whose_answers_fill_the_buffers_cost_the_others_nothing() -> None:
    async with dropping(client_bytes=1 << 20, total_bytes=1 << 20) as (hub, made, slow):
        asking = [slow, *(made.subscribe() for _ in range(5))]
        hub.deliver([happening(n, size=1000) for n in range(1, 200)])
        for peer in asking:
            peer.client.too_slow()
            clock = count(0.0, 0.1)
            talk = talk_of(hub, peer, partial(next, clock))
            for _ in range(28):
                talk.hear(asking_for(8000))
        assert hub.buffers.total_bytes > hub.buffers.all_bytes
        other = made.subscribe()
        flood(hub, 200, 60)
        assert hub.buffers.total_bytes <= hub.buffers.all_bytes
        assert 4013 in {peer.client.close_code for peer in asking}
        assert numbers(await other.read_until(259)) == list(range(200, 260))
        assert "gap" not in kinds(other.messages)


async def test_a_message_that_was_begun_is_finished_however_often_buffers_are_taken_away() -> None:
    async with dropping(client_bytes=1 << 20) as (hub, _, slow):
        hub.deliver([happening(n, size=500) for n in range(1, 200)])
        assert slow.client.held_bytes
        slow.client.too_slow()
        slow.client.too_slow()
        messages = await slow.read_kind("gap")
        (gap,) = of_kind("gap", messages)
        last = numbers(messages)[-1]
        assert numbers(messages) == list(range(1, last + 1))
        assert (gap["after"], gap["before"]) == (f"1-{last}", "1-200")
