"""The shared table, and who takes the next connections."""

import os
import time
from collections.abc import Iterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bridge.pod.places import SharedPlaces
from bridge.pod.table import FRESH_SECONDS, Table, new_table
from bridge.pod.turns import LEAD_SHARE, LEAST_LEAD, YIELD_SECONDS, YIELDS, Turns, allowance
from bridge.server.limits import ALWAYS_AN_ADDRESS, Places

MOST = 32


@pytest.fixture
def table() -> Iterator[Table]:
    with new_table(3) as table:
        yield table


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The table's clock, in nanoseconds."""
    now = [10**12]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    return now


def turns(table: Table, row: int, connections: int) -> Turns:
    made = Turns(table, row, Places(1000))
    made.connections = lambda: connections
    made.note()
    return made


def test_another_process_sees_what_is_written(table: Table) -> None:
    other = Table(os.dup(table.descriptor), table.rows)
    other.begin(1)
    other.beat(1, connections=7, accepting=True)
    other.set_clients(1, 5)
    assert list(table.others_accepting(0)) == [7]
    assert list(table.others_accepting(1)) == []
    assert (table.clients(), list(table.pids())) == (5, [os.getpid()])
    table.clear(1)
    assert (other.clients(), list(other.pids()), list(other.others_accepting(0))) == (0, [], [])
    other.close()


def test_who_has_stopped_does_not_count(table: Table, clock: list[int]) -> None:
    table.beat(1, connections=0, accepting=True)
    clock[0] += int(FRESH_SECONDS * 1e9)
    assert list(table.others_accepting(0)) == [0]
    clock[0] += 1
    assert list(table.others_accepting(0)) == []


async def test_alone_it_takes_all(table: Table) -> None:
    assert await turns(table, 0, 500).quota(MOST) == MOST


async def test_who_has_fewer_takes_more_and_who_has_more_waits(
    table: Table, clock: list[int], autojump_clock: trio.testing.MockClock
) -> None:
    few, many = turns(table, 0, 10), turns(table, 1, 40)
    started = trio.current_time()
    assert await few.quota(MOST) == MOST
    assert trio.current_time() == started
    assert await many.quota(MOST) == 1, "what the others do not take is not left lying"
    assert trio.current_time() - started == pytest.approx(YIELDS * YIELD_SECONDS)


async def test_it_goes_on_as_soon_as_the_other_has_caught_up(
    table: Table, clock: list[int], autojump_clock: trio.testing.MockClock
) -> None:
    many = turns(table, 1, 40)
    table.beat(0, connections=0, accepting=True)

    async def catch_up() -> None:
        await trio.sleep(1.5 * YIELD_SECONDS)
        table.beat(0, connections=40, accepting=True)

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up)
        assert await many.quota(MOST) > 1
    assert trio.current_time() - started == pytest.approx(2 * YIELD_SECONDS)


async def test_who_drains_leaves_connections_to_others_and_else_answers_them(
    table: Table, clock: list[int], autojump_clock: trio.testing.MockClock
) -> None:
    places = Places(1000)
    leaving = Turns(table, 0, places)
    other = turns(table, 1, 5)
    places.closed = True
    assert await leaving.quota(MOST) == 0
    assert await other.quota(MOST) == MOST, "nobody waits for one that drains"
    table.clear(1)
    assert await leaving.quota(MOST) == MOST


@given(counts=st.lists(st.integers(0, 2000), min_size=2, max_size=8))
def test_somebody_may_always_take_one(counts: list[int]) -> None:
    allowances = [allowance(own, min(counts[:index] + counts[index + 1 :])) for index, own in enumerate(counts)]
    assert allowances[counts.index(min(counts))] > 0


@given(workers=st.integers(2, 6), order=st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_whoever_comes_first_in_each_turn_no_worker_gets_far_ahead(workers: int, order: list[int]) -> None:
    counts = [0] * workers
    for turn in range(300):
        index = order[turn % len(order)] % workers
        fewest = min(counts[:index] + counts[index + 1 :])
        taken = min(MOST, max(0, allowance(counts[index], fewest)))
        if not taken:  # it lets the others go first
            index, taken = counts.index(min(counts)), 1
        counts[index] += taken
    assert max(counts) - min(counts) <= LEAST_LEAD + max(counts) // LEAD_SHARE


def test_places_are_shared_and_an_address_has_its_part_of_each(table: Table) -> None:
    first, second = SharedPlaces(4, table, 0), SharedPlaces(4, table, 1)
    for places in (first, second, first):
        assert not places.full
        places.take("somebody")
    second.take(None)
    assert (first.full, second.full, first.taken, second.taken) == (True, True, 2, 2)
    first.release("somebody")
    assert (first.full, second.full) == (False, False)
    assert first.an_address == -(-ALWAYS_AN_ADDRESS // 3)
