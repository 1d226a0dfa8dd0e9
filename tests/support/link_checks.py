"""What sessions, ears and logs promise to relay and feed, as checks that run on any links: real ones, and in memory.

A check takes a `Bench`: links to two servers, and what happens to those servers from outside. The links in memory pass
the same checks as the real ones, so that what the simulation proves holds for real servers too.
"""

from collections.abc import Awaitable, Callable, Sequence

import anyio
import pytest

from bridge.core.events import Body, Entry, Heard, Marker, Notification, Unreadable
from bridge.core.position import Position
from bridge.errors import ForeignLog, LogRefused, PostgresLost, RedisLost
from bridge.links.openers import Ear, Log, Session
from bridge.links.postgres_start import DatabaseIdentity
from bridge.links.redis_log import Appended, LogState
from tests.support.link_bench import HISTORY_ENTRIES, Bench

WAIT_SECONDS = 60.0
NODE_ENTRIES = 200
"""Redis trims whole nodes of its tree: so many entries more than asked for may stay."""
TERM = 3831627511627511297
HERE = DatabaseIdentity("7483647483647", "16384")
ELSEWHERE = DatabaseIdentity("7483647483648", "16384")
EMPTY = LogState(None, None)


Check = Callable[[Bench], Awaitable[None]]


async def hear(session: Session, count: int) -> list[Heard]:
    heard: list[Heard] = []
    with anyio.fail_after(WAIT_SECONDS):
        while len(heard) < count:
            heard += await session.receive()
    return heard


async def idle_until(session: Session, condition: Callable[[], bool], pace_seconds: float) -> None:
    """Receive, which brings nothing, until this holds."""
    with anyio.fail_after(WAIT_SECONDS):
        while not condition():
            with anyio.move_on_after(pace_seconds):
                assert await session.receive() == []


def notes(*numbers: int) -> list[Body]:
    return [Notification("a", b"%d" % number) for number in numbers]


def at(seq: int) -> Position:
    return Position(TERM, seq)


async def appended(log: Log, expected: LogState, first: Position, bodies: Sequence[Body]) -> LogState:
    result = await log.append(expected, first, bodies)
    assert isinstance(result, Appended)
    assert result.troubles == ()
    return result.state


async def everything(log: Log) -> list[Entry]:
    entries: list[Entry] = []
    while more := await log.read(entries[-1].position if entries else None):
        entries += more
    return entries


async def said(ear: Ear, count: int) -> list[tuple[bytes, bytes]]:
    messages: list[tuple[bytes, bytes]] = []
    with anyio.fail_after(WAIT_SECONDS):
        while len(messages) < count:
            messages += await ear.messages()
    return messages


# Sessions


async def a_session_counts_from_its_own_marker(bench: Bench) -> None:
    async with bench.links.session("listener", floor=0) as session:
        marker = session.marker
        assert marker.term == session.term
        assert (marker.digest, marker.role, marker.prefix) == (
            bench.settings.digest,
            "listener",
            bench.settings.redis_prefix,
        )
        await idle_until(session, lambda: session.proven, bench.settings.probe_seconds / 10)
        await bench.notify(("a", "1"), ("elsewhere", "2"), ("b", '{"n":3}'))
        await bench.notify(("b", "text"))
        assert await hear(session, 3) == [
            Heard(Position(session.term, 1), Notification("a", b"1")),
            Heard(Position(session.term, 2), Notification("b", b'{"n":3}')),
            Heard(Position(session.term, 3), Notification("b", b'"text"')),
        ]


async def sessions_hear_each_others_markers_and_then_the_same(bench: Bench) -> None:
    async with bench.links.session("listener", floor=0) as older:
        await bench.notify(("a", "1"))
        async with bench.links.session("fallback", floor=0) as newer:
            assert newer.marker.role == "fallback"
            await bench.notify(("a", "2"), ("b", "3"))
            one, other = await hear(older, 4), await hear(newer, 2)
            assert one[1] == Heard(Position(older.term, 2), newer.marker)
            assert [heard.body for heard in one[2:]] == [heard.body for heard in other]
            assert other[0].position == Position(newer.term, 1)


async def a_sequence_is_the_same_for_all_through_large_transactions(bench: Bench) -> None:
    async with bench.links.session("listener", floor=0) as one, bench.links.session("listener", floor=0) as other:
        for _ in range(3):
            await bench.notify(*(("ab"[n % 2], str(n)) for n in range(1, 1500)))
        first, second = await hear(one, 1 + 3 * 1499), await hear(other, 3 * 1499)
        assert [heard.position.seq for heard in first] == list(range(1, len(first) + 1))
        assert [heard.body for heard in first[1:]] == [heard.body for heard in second]


async def what_is_no_marker_counts_and_probes_do_not(bench: Bench) -> None:
    async with bench.links.session("listener", floor=0) as session:
        await bench.notify(("bridge_sync", "junk"), ("bridge_probe", "junk"), ("a", "1"))
        heard = await hear(session, 2)
        assert heard[0].body == Unreadable()
        assert heard[1].position == Position(session.term, 2)


async def a_floor_lifts_the_term(bench: Bench) -> None:
    async with bench.links.session("listener", floor=0) as now:
        floor = (now.term >> 22) + 9000
        async with bench.links.session("listener", floor=floor) as later:
            assert later.term >> 22 == floor


async def a_terminated_session_ends_and_others_go_on(bench: Bench) -> None:
    async with bench.links.session("listener", floor=0) as session, bench.links.session("listener", floor=0) as other:
        await bench.notify(("a", "1"))
        assert [one.body for one in await hear(session, 2) if isinstance(one.body, Notification)] == notes(1)
        await bench.terminate(session)
        with pytest.raises(PostgresLost):
            await hear(session, 1)
        assert not session.proven
        await bench.notify(("a", "2"))
        assert [one.body for one in await hear(other, 2)] == notes(1, 2)


async def probes_come_back_and_prove_an_idle_session(bench: Bench) -> None:
    async with bench.links.session("listener", floor=0) as session:
        with anyio.move_on_after(3.5 * bench.settings.probe_seconds):
            while True:
                assert await session.receive() == []
        await idle_until(session, lambda: session.proven, bench.settings.probe_seconds / 10)
        assert session.round_trip_seconds is not None
        await bench.notify(("a", "1"))
        assert (await hear(session, 1))[0].position == Position(session.term, 1)


async def what_probes_show_is_learned_also_where_nothing_is_notified(bench: Bench) -> None:
    async with bench.links.session("listener", floor=0) as one, bench.links.session("listener", floor=0) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hear, other, 1_000_000)
            with anyio.fail_after(WAIT_SECONDS):
                while not (learned := one.learned()):
                    await one.receive()
            tasks.cancel_scope.cancel()
        assert {position.term for pair in learned for position in pair} == {one.term, other.term}


async def a_cancelled_receive_loses_nothing(bench: Bench) -> None:
    async with bench.links.session("listener", floor=0) as session:
        heard: list[Heard] = []
        for number in range(50):
            await bench.notify(("a", str(number)))
            with anyio.move_on_after(0.0003 * (number % 7)):
                heard += await session.receive()
        heard += await hear(session, 50 - len(heard))
        assert [one.body for one in heard] == notes(*range(50))


# Ears


async def an_ear_hears_what_is_appended_and_stays_open_while_idle(bench: Bench) -> None:
    async with bench.links.ear() as ear, bench.links.log_writer(HERE) as log:
        await ear.subscribe(log.live_channel, log.control_channel)
        state = await appended(log, await log.open(), at(0), notes(1, 2))
        with anyio.move_on_after(2.2 * bench.settings.redis_timeout_seconds):
            messages = await ear.messages()
            assert [channel for channel, _ in messages] == [log.live_channel.encode()]
            assert [entry.position for entry in log.live_entries(messages[0][1])] == [at(0), at(1)]
            await ear.messages()
            pytest.fail("nobody said anything")
        await appended(log, state, at(2), notes(3))
        await log.beat(at(2), "me", 1.0)
        live, control = await said(ear, 2)
        assert [entry.position for entry in log.live_entries(live[1])] == [at(2)]
        assert control[0] == log.control_channel.encode()


async def an_ear_that_is_cancelled_loses_nothing(bench: Bench) -> None:
    async with bench.links.ear() as ear, bench.links.log_writer(HERE) as log:
        await ear.subscribe(log.live_channel)
        state, heard = await log.open(), []
        for number in range(30):
            state = await appended(log, state, at(number), notes(number))
            with anyio.move_on_after(0.0003 * (number % 7)):
                heard += await ear.messages()
        heard += await said(ear, 30 - len(heard))
        positions = [entry.position for _, data in heard for entry in log.live_entries(data)]
        assert positions == [at(number) for number in range(30)]


async def links_end_with_redis_and_can_be_opened_when_it_is_back(bench: Bench) -> None:
    async with bench.links.ear() as ear, bench.links.log() as log:
        await ear.subscribe(log.live_channel)
        await bench.stop_redis()
        with pytest.raises(RedisLost), anyio.fail_after(WAIT_SECONDS):
            await ear.messages()
        with pytest.raises(RedisLost), anyio.fail_after(WAIT_SECONDS):
            await log.state()
    with pytest.raises(RedisLost), anyio.fail_after(WAIT_SECONDS):
        async with bench.links.ear():
            pass
    await bench.start_redis()
    async with bench.links.log() as log:
        assert await log.open() == EMPTY


# Logs


async def a_new_log_is_appended_to_and_read(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as log, bench.links.log() as reader:
        assert await log.open() == await reader.open() == EMPTY
        marker = Marker(TERM, "nonce", bench.settings.digest, "listener", bench.settings.redis_prefix)
        state = await appended(log, EMPTY, at(0), [marker, *notes(1, 2)])
        assert state.tail == at(2)
        assert state.nonce
        assert await reader.state() == await log.state() == state
        entries = await everything(reader)
        assert [entry.position for entry in entries] == [at(0), at(1), at(2)]
        assert entries[0].marker == marker
        assert entries[2].event is not None
        assert entries[2].event.data.endswith(b'"payload":2}')
        assert [entry.position for entry in await reader.read(at(1))] == [at(2)]
        assert await reader.read(at(2)) == []
        assert await log.terms() == [(TERM, at(0))]


async def who_is_behind_appends_nothing_and_learns_the_tail(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as one, bench.links.log_writer(HERE) as other:
        state = await appended(one, await one.open(), at(0), notes(1, 2))
        assert await other.append(EMPTY, at(5), notes(3)) == state
        assert await other.append(LogState(at(1), "another nonce"), at(5), notes(3)) == state
        assert await one.append(EMPTY, at(0), notes(1, 2)) == state
        assert len(await everything(one)) == 2
        assert (await appended(other, state, at(2), notes(3))).tail == at(2)


async def an_emptied_log_has_no_tail_and_another_nonce(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as log:
        state = await appended(log, await log.open(), at(0), notes(1))
        await bench.flush()
        assert await log.append(state, at(1), notes(2)) == EMPTY
        again = await appended(log, EMPTY, at(0), notes(1, 2))
        assert again.nonce != state.nonce
        assert await log.append(state, at(2), notes(3)) == again


async def a_log_without_one_of_its_keys(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as log:
        state = await appended(log, await log.open(), at(0), notes(1))
        await bench.delete("meta")
        assert await log.state() == LogState(at(0), None)
        renewed = await appended(log, LogState(at(0), None), at(1), notes(2))
        assert renewed.nonce not in (None, state.nonce)
        await bench.delete("log")
        assert await log.state() == LogState(None, renewed.nonce)
        assert (await appended(log, LogState(None, renewed.nonce), at(0), notes(1))).nonce != renewed.nonce


async def the_tail_outlives_its_entries(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as log:
        state = await appended(log, await log.open(), at(0), notes(1, 2))
        await bench.trim_all()
        assert await log.state() == state
        assert await everything(log) == []
        await appended(log, state, at(2), notes(3))
        assert [entry.position for entry in await everything(log)] == [at(2)]


async def the_log_keeps_its_history_and_not_much_more(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as log:
        state = await log.open()
        for first in range(0, 5 * HISTORY_ENTRIES, 100):
            state = await appended(log, state, at(first), notes(*range(100)))
        kept = await everything(log)
        assert HISTORY_ENTRIES <= len(kept) <= HISTORY_ENTRIES + NODE_ENTRIES
        assert kept[-1].position == at(5 * HISTORY_ENTRIES - 1)


async def beats_are_heard_and_last_for_their_time(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as log, bench.links.log() as reader:
        await log.open()
        assert await reader.listeners_beating() is None
        await log.beat(None, "one", 60.0)
        await log.stop_beating("other")
        assert await reader.listeners_beating() == "one"
        await log.stop_beating("one")
        assert await reader.listeners_beating() is None
        await log.beat(None, "one", 0.2)
        await anyio.sleep(0.3)
        assert await reader.listeners_beating() is None


async def relations_are_kept(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as log:
        await log.open()
        await log.save_terms([(Position(TERM, 0), Position(TERM + 1, -5)), (Position(TERM + 2, 3), Position(TERM, 9))])
        assert sorted(await log.terms()) == [(TERM, Position(TERM + 1, -5)), (TERM + 2, Position(TERM, 6))]
        await log.save_terms([])
        assert len(await log.terms()) == 2


async def a_full_redis_refuses_appends_and_goes_on_publishing(bench: Bench) -> None:
    async with bench.links.ear() as ear, bench.links.log_writer(HERE) as log:
        state = await appended(log, await log.open(), at(0), notes(1))
        await ear.subscribe(log.control_channel)
        async with bench.out_of_memory():
            with pytest.raises(LogRefused):
                await log.append(state, at(1), notes(2))
            assert await log.state() == state
            with pytest.raises(LogRefused):
                await log.beat(at(0), "me", 1.0)
            assert len(await said(ear, 1)) == 1
        await appended(log, state, at(1), notes(2))


async def a_replica_is_as_good_as_lost(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as log:
        state = await appended(log, await log.open(), at(0), notes(1))
        async with bench.replica():
            with pytest.raises(RedisLost):
                await log.append(state, at(1), notes(2))
    async with bench.links.log_writer(HERE) as log:
        assert await log.open() == state
        await appended(log, state, at(1), notes(2))


async def a_log_of_another_database_is_refused(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as log, bench.links.log_writer(ELSEWHERE) as foreign:
        await foreign.open()
        state = await appended(log, await log.open(), at(0), notes(1))
        with pytest.raises(ForeignLog):
            await foreign.append(state, at(1), notes(2))
        with pytest.raises(ForeignLog):
            await foreign.state()


async def scripts_that_were_forgotten_are_loaded_again(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as log:
        state = await log.open()
        await bench.forget_scripts()
        await appended(log, state, at(0), notes(1))


async def a_restart_without_data_is_an_empty_log(bench: Bench) -> None:
    async with bench.links.log_writer(HERE) as log:
        await appended(log, await log.open(), at(0), notes(1))
    await bench.restart_redis_empty()
    async with bench.links.log_writer(HERE) as log:
        assert await log.open() == EMPTY
        await appended(log, EMPTY, at(0), notes(1))


CHECKS: tuple[Check, ...] = (
    a_session_counts_from_its_own_marker,
    sessions_hear_each_others_markers_and_then_the_same,
    a_sequence_is_the_same_for_all_through_large_transactions,
    what_is_no_marker_counts_and_probes_do_not,
    a_floor_lifts_the_term,
    a_terminated_session_ends_and_others_go_on,
    probes_come_back_and_prove_an_idle_session,
    what_probes_show_is_learned_also_where_nothing_is_notified,
    a_cancelled_receive_loses_nothing,
    an_ear_hears_what_is_appended_and_stays_open_while_idle,
    an_ear_that_is_cancelled_loses_nothing,
    links_end_with_redis_and_can_be_opened_when_it_is_back,
    a_new_log_is_appended_to_and_read,
    who_is_behind_appends_nothing_and_learns_the_tail,
    an_emptied_log_has_no_tail_and_another_nonce,
    a_log_without_one_of_its_keys,
    the_tail_outlives_its_entries,
    the_log_keeps_its_history_and_not_much_more,
    beats_are_heard_and_last_for_their_time,
    relations_are_kept,
    a_full_redis_refuses_appends_and_goes_on_publishing,
    a_replica_is_as_good_as_lost,
    a_log_of_another_database_is_refused,
    scripts_that_were_forgotten_are_loaded_again,
    a_restart_without_data_is_an_empty_log,
)
