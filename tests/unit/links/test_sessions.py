"""Sessions are opened again after a loss and replaced before they are given up, under virtual time."""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from bridge.core.events import Heard, Marker, Notification
from bridge.core.position import Position
from bridge.errors import PostgresLost
from bridge.links.openers import Session
from bridge.links.sessions import LAST_LOOK_SECONDS, Sessions


class FakeSession:
    """Hears what the test puts into it; `fail` ends it."""

    def __init__(self, term: int) -> None:
        self.term = term
        self.marker = Marker(term, f"n{term}", "d", "fallback", "p")
        self.suspect = False
        self.proven = True
        self.last_proof = 0.0
        self.round_trip_seconds = None
        self.database: Any = None
        self.open = True
        self._put, self._take = trio.open_memory_channel[list[Heard] | None](math.inf)

    def hear(self, seq: int) -> None:
        self.suspect = False
        self._put.send_nowait([Heard(Position(self.term, seq), Notification("c", b"1"))])

    def be_suspect(self) -> None:
        self.suspect = True
        self._put.send_nowait([])

    def fail(self) -> None:
        self._put.send_nowait(None)

    def learned(self) -> list[tuple[Position, Position]]:
        return [(Position(99, 1), Position(self.term, 1))]

    async def receive(self) -> list[Heard]:
        heard = await self._take.receive()
        if heard is None:
            raise PostgresLost("gone")
        return heard


class World:
    """Opens fake sessions, after `latency_seconds`, unless it `refuses`; notes what the owner is told."""

    def __init__(self) -> None:
        self.made: list[FakeSession] = []
        self.told: list[tuple[str, int]] = []
        self.latency_seconds = 0.0
        self.refuses = False
        self.floors: list[int] = []
        self.learned: list[tuple[Position, Position]] = []
        self.sessions = Sessions(self.open, 5.0, self._opened, self._heard, self._lost, self._learn)

    @asynccontextmanager
    async def open(self, *, floor: int) -> AsyncIterator[Session]:
        self.floors.append(floor)
        await trio.sleep(self.latency_seconds)
        if self.refuses:
            raise PostgresLost("refused")
        session = FakeSession(len(self.made) + 1)
        self.made.append(session)
        try:
            yield session
        finally:
            session.open = False

    def _opened(self, session: Session) -> None:
        self.told.append(("opened", session.term))

    def _heard(self, _session: Session, heard: Sequence[Heard]) -> None:
        self.told.append(("heard", heard[0].position.seq))

    def _lost(self, _reason: str) -> None:
        self.told.append(("lost", 0))

    def _learn(self, one: Position, other: Position) -> None:
        self.learned.append((one, other))

    @property
    def open_terms(self) -> list[int]:
        return [session.term for session in self.made if session.open]


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.sessions.run)
        await trio.testing.wait_all_tasks_blocked()
        yield world
        nursery.cancel_scope.cancel()
    assert world.open_terms == []


async def settle(seconds: float = 0.0) -> None:
    await trio.sleep(seconds)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_lost_session_is_opened_again(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        world.made[0].hear(1)
        world.made[0].fail()
        await settle(0.2)
        world.made[1].hear(7)
        await settle()
        assert world.told == [("opened", 1), ("heard", 1), ("lost", 0), ("opened", 2), ("heard", 7)]
        assert world.open_terms == [2]
        assert world.learned == [(Position(99, 1), Position(1, 1)), (Position(99, 1), Position(2, 1))]


async def test_refusals_back_off_up_to_the_longest_delay(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        world.refuses = True
        world.made[0].fail()
        await settle(60)
        assert 14 <= len(world.floors) <= 30
        world.refuses = False
        await settle(6)
        assert world.open_terms == [2]


async def test_a_suspect_session_is_replaced_before_it_goes(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        world.latency_seconds = 1.0
        world.made[0].be_suspect()
        await settle(0.5)
        assert world.open_terms == [1]
        await settle(0.5 + LAST_LOOK_SECONDS + 0.01)
        assert world.told == [("opened", 1), ("opened", 2)]
        assert world.open_terms == [2]


async def test_any_byte_clears_the_suspicion_and_drops_the_replacement(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        world.latency_seconds = 1.0
        world.made[0].be_suspect()
        await settle(0.5)
        world.made[0].hear(1)
        await settle(2)
        assert world.told == [("opened", 1), ("heard", 1)]
        assert world.open_terms == [1]


async def test_after_a_stall_the_old_session_stays_where_both_hear(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        world.latency_seconds = 1.0
        world.made[0].be_suspect()
        await settle(1.0 + LAST_LOOK_SECONDS / 2)
        assert world.open_terms == [1, 2]
        world.made[0].hear(1)
        await settle(1)
        assert world.told == [("opened", 1), ("heard", 1)]
        assert world.open_terms == [1]


async def test_a_suspect_session_that_ends_leaves_its_replacement(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        world.latency_seconds = 1.0
        world.made[0].be_suspect()
        await settle(0.5)
        world.made[0].fail()
        await settle(0.6)
        assert world.told == [("opened", 1), ("lost", 0), ("opened", 2)]
        assert len(world.floors) == 2, "the replacement that was opening is the one that is used"


async def test_a_suspect_session_that_ends_at_the_last_look(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        world.latency_seconds = 1.0
        world.made[0].be_suspect()
        await settle(1.0 + LAST_LOOK_SECONDS / 2)
        world.made[0].fail()
        await settle(LAST_LOOK_SECONDS)
        assert world.told == [("opened", 1), ("lost", 0), ("opened", 2)]
        assert world.open_terms == [2]


async def test_beginning_again_keeps_above_a_term(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        world.sessions.keep_above(7 << 22 | 99)
        world.sessions.begin_again()
        await settle(0.5)
        assert world.floors == [0, 8]
        assert world.open_terms == [2]
