"""What a lagging client is told that it missed: all of it, each end once, wherever its connection ends meanwhile."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from bridge.core.cursor import Cursor
from bridge.core.events import Event, Filled, Gap, late
from bridge.core.grants import EVERYTHING as ALL
from bridge.core.position import Position
from bridge.hub import Hub
from bridge.hub.encoding import Protocol
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
)

HOLES = (Position(1, 2), Position(2, 0)), (Position(2, 1), Position(3, 0))


@asynccontextmanager
async def a_hub_that_drops(client_bytes: int = 20_000) -> AsyncIterator[tuple[Hub, Peers]]:
    hub = make_hub(drops=True, client_bytes=client_bytes)
    hub.set_live(Position(1, 0))
    async with making_peers(hub) as made:
        yield hub, made


def flood(hub: Hub, numbers: range, term: int = 1) -> None:
    for n in numbers:
        hub.deliver([happening(n, size=500, term=term)])


def finals(messages: list[Message]) -> list[dict[str, Any]]:
    return [gap for gap in of_kind("gap", messages) if not gap.get("pending")]


def bounds(gaps: list[dict[str, Any]]) -> list[tuple[str | None, str]]:
    return [(gap["after"], gap["before"]) for gap in gaps]


async def recovered(peer: Peer) -> list[Message]:
    """All messages, once the client has been told what it missed."""
    messages = await peer.pong()
    assert not peer.client.lagging
    return messages


async def test_what_was_held_is_missed_before_what_has_come_since() -> None:
    """Nothing relates the two sessions of the log: only the order of the messages tells which is older."""
    async with a_hub_that_drops() as (hub, made):
        slow = made.subscribe()
        flood(hub, range(1, 30))
        hub.deliver([Gap(Position(1, 29), Position(2, 0), "postgres_session_lost")])
        assert slow.client.held_bytes
        hub.deliver([happening(n, size=500, term=2, number=100 + n) for n in range(1, 100)])
        assert slow.client.lagging
        slow.client.too_slow()
        (gap,) = finals(await recovered(slow))
        last = numbers(slow.messages)[-1]
        assert (gap["after"], gap["before"]) == (f"1-{last}", "2-100")
        assert last < 29


@pytest.mark.parametrize("log", [2, 9], ids=["newer term", "older term"])
async def test_a_replay_that_is_missed_may_begin_before_what_else_was_missed(log: int) -> None:
    """Where nothing relates the two, nobody knows which was earlier."""
    hub = make_hub(drops=True, client_bytes=20_000)
    hub.set_live(Position(5, 0))
    async with making_peers(hub) as made:
        slow = made.subscribe()
        hub.deliver([happening(1, term=5), Gap(Position(5, 1), Position(log, 0), "postgres_session_lost")])
        flood(hub, range(1, 200), term=log)
        assert slow.client.lagging
        hub.subscribe(slow.client, None, EVERYTHING, "5-0")
        (gap,) = finals(await recovered(slow))[-1:]
        assert (gap["after"], gap["before"]) == (None, f"{log}-200")


async def test_a_pending_gap_that_opened_in_a_missed_replay_is_a_part_of_what_was_missed() -> None:
    async with a_hub_that_drops() as (hub, made):
        hub.deliver([happening(1), happening(2), Gap(*HOLES[0], "failover", pending=True), happening(1, term=2)])
        slow = made.connect()
        send, slow.client.send = slow.client.send, refuses
        hub.subscribe(slow.client, None, EVERYTHING, "1-0")
        slow.client.too_slow()
        slow.client.send = send
        messages = await recovered(slow)
        assert kinds(messages) == ["gap", "subscribed"]
        assert bounds(finals(messages)) == [("1-0", "2-2")]
        assert Cursor.parse(of_kind("gap", messages)[0]["cursor"]).open_gaps == ()
        hub.deliver([late(happening(3), HOLES[0]), Filled(*HOLES[0]), happening(2, term=2, number=1000)])
        assert kinds(await slow.read_until(1000)) == ["gap", "subscribed", "pong", "notification"]


def refuses(_: bytes) -> int:
    raise BlockingIOError


async def test_an_open_gap_of_a_missed_replay_ends_once() -> None:
    async with a_hub_that_drops() as (hub, made):
        hub.deliver([happening(1), happening(2), Gap(*HOLES[0], "failover", pending=True), happening(1, term=2)])
        hub.deliver([late(happening(3), HOLES[0])])
        slow = made.connect()
        send, slow.client.send = slow.client.send, refuses
        hub.subscribe(slow.client, None, EVERYTHING, "2-1~1-2_2-0")
        slow.client.too_slow()
        slow.client.send = send
        messages = await recovered(slow)
        assert bounds(finals(messages)) == [("1-2", "2-0")]
        hub.deliver([late(happening(4), HOLES[0]), Filled(*HOLES[0]), happening(2, term=2, number=1000)])
        messages = await slow.read_until(1000)
        assert kinds(messages) == ["gap", "subscribed", "pong", "notification"]


async def test_what_others_lack_is_no_concern_of_a_client_that_missed_the_same_event() -> None:
    """They came with cursors of their own, and so they lack another part of the same gap."""
    async with a_hub_that_drops() as (hub, made):
        slow = made.subscribe()
        hub.deliver([happening(1), happening(2), Gap(*HOLES[0], "failover", pending=True)])
        made.subscribe(after="2-0~1-2_2-0_1-5.1-6")
        made.subscribe(after="2-0~1-1_2-0_1-5.1-6")
        flood(hub, range(1, 100), term=2)
        assert slow.client.lagging
        hub.deliver([late(happening(3), HOLES[0])])
        told = bounds(finals(await recovered(slow)))
        assert len(told) == 2
        assert told[1] == ("1-2", "2-0")


def two_holes(hub: Hub) -> None:
    hub.deliver([happening(1), happening(2)])
    for term, hole in enumerate(HOLES, 2):
        hub.deliver([Gap(*hole, "failover", pending=True), happening(1, term=term, number=100 * term)])


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
async def test_the_connection_may_end_between_any_two_words_of_what_was_missed(cut: int) -> None:
    """Late events of two gaps were missed: who resumes gets them then, or was told that they are lost."""
    async with a_hub_that_drops() as (hub, made):
        slow = made.subscribe()
        two_holes(hub)
        before: list[Event] = [late(happening(3), HOLES[0]), late(happening(2, term=2, number=202), HOLES[1])]
        hub.deliver(before)
        known = len(await slow.read(lambda messages: len(numbers(messages)) == 6))
        flood(hub, range(1000, 1100), term=3)
        assert slow.client.lagging
        hub.deliver([late(happening(4), HOLES[0]), late(happening(3, term=2, number=203), HOLES[1])])
        messages = await recovered(slow)
        first = kinds(messages).index("gap", known)
        assert kinds(messages)[first:] == ["gap", "gap", "gap"]
        messages = messages[: first + cut]
        last = messages[-1]
        assert isinstance(last, dict)
        made.disconnect(slow)
        again = made.subscribe(after=last.get("cursor") or last["id"], buffer_bytes=1 << 20)
        hub.deliver([Filled(*HOLES[0]), Filled(*HOLES[1]), happening(1100, term=3)])
        everything = messages + await again.read_until(1100)
        came = numbers(everything)
        assert len(came) == len(set(came))
        ends = bounds(of_kind("gap", everything) + of_kind("filled", everything))
        assert [ends.count((str(low), str(high))) for low, high in HOLES] == [2, 2], "each opened, and ended once"
        for hole, number in zip(HOLES, (4, 203), strict=True):
            lost = (str(hole[0]), str(hole[1])) in bounds(finals(everything))
            assert lost or number in came


@pytest.mark.parametrize("asked", ['{"type":"ping"}', '{"type":"subscribe","sub":"x","channels":["b"]}'])
async def test_an_answer_that_waited_says_where_its_client_stands_then(asked: str) -> None:
    async with a_hub_that_drops() as (hub, made):
        slow = made.subscribe()
        two_holes(hub)
        flood(hub, range(1000, 1100), term=3)
        assert slow.client.lagging
        Talk(hub, slow.client, ALL, trio.current_time).hear(asked)
        hub.deliver([late(happening(3), HOLES[0]), happening(1100, term=3)])
        messages = await recovered(slow)
        told, answer = messages[-2:]
        assert isinstance(told, dict)
        assert isinstance(answer, dict)
        assert bounds([told]) == [(str(HOLES[0][0]), str(HOLES[0][1]))]
        cursor = Cursor.parse(answer.get("cursor") or answer["position"])
        assert cursor == Cursor.parse(told["cursor"])
        assert (cursor.position, [gap.bounds for gap in cursor.open_gaps]) == (Position(3, 1100), [HOLES[1]])


async def test_a_position_that_means_nothing_here_is_told_before_a_cursor_that_lies_behind_it() -> None:
    async with a_hub_that_drops() as (hub, made):
        hub.deliver([happening(1), happening(2)])
        slow = made.connect()
        send, slow.client.send = slow.client.send, refuses
        hub.subscribe(slow.client, None, EVERYTHING, "nonsense")
        hub.deliver([happening(3)])
        slow.client.too_slow()
        slow.client.send = send
        messages = await recovered(slow)
        assert kinds(messages) == ["gap", "subscribed"]
        assert bounds(finals(messages)) == [(None, "1-4")]


@pytest.mark.parametrize("protocol", ["ws", "sse"])
async def test_what_came_of_a_replay_that_was_missed_does_not_come_again(protocol: Protocol) -> None:
    """Late events of a gap, in one piece, of which some have left: the first word of what is lost says which."""
    async with a_hub_that_drops(client_bytes=1 << 20) as (hub, made):
        hub.deliver([happening(1), happening(2), Gap(*HOLES[0], "failover", pending=True), happening(1, term=2)])
        hub.deliver([late(happening(n, size=500), HOLES[0]) for n in range(3, 40)])
        flood(hub, range(100, 200), term=2)
        slow = made.subscribe(after="2-1~1-2_2-0", protocol=protocol)
        slow.client.too_slow()
        messages = await recovered(slow)
        came = numbers(messages)
        assert came == list(range(3, came[-1] + 1))
        gap = finals(messages)[0]
        made.disconnect(slow)
        again = made.subscribe(after=gap["cursor"], buffer_bytes=1 << 20)
        hub.deliver([happening(200, term=2)])
        late_ones = [n for n in numbers(await again.read_until(200)) if n < 100]
        assert late_ones == list(range(came[-1] + 1, 40))


async def test_a_gap_that_was_told_and_not_read_is_a_part_of_what_is_missed_next() -> None:
    """Behind the next gap it would come too late: that one's cursor says that all before was told."""
    async with a_hub_that_drops() as (hub, made):
        slow = made.subscribe()
        for first in (1, 30):
            flood(hub, range(first, first + 30))
            slow.client.too_slow()
            await trio.testing.wait_all_tasks_blocked()
            assert not slow.client.lagging
            assert slow.client.held_bytes, "the gap that was told"
        (gap,) = finals(await recovered(slow))
        assert (gap["after"], gap["before"]) == (f"1-{numbers(slow.messages)[-1]}", "1-60")
