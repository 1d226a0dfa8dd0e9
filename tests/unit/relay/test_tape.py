"""The tape, against a plain list that forgets nothing."""

import trio
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.events import Heard, Notification
from bridge.core.position import Position
from bridge.relay.tape import Tape, size_bytes


def heard(term: int, seq: int, payload: bytes = b"1") -> Heard:
    return Heard(Position(term, seq), Notification("c", payload))


def run(term: int, first: int, count: int) -> list[Heard]:
    return [heard(term, first + i) for i in range(count)]


steps = st.one_of(
    st.tuples(st.just("extend"), st.integers(1, 5), st.booleans()),
    st.tuples(st.just("written"), st.integers(0, 100), st.just(False)),
)


@given(st.lists(steps, max_size=60), st.integers(1, 8))
def test_against_a_list(script: list[tuple[str, int, bool]], history: int) -> None:
    tape, everything, term, seq = Tape(history, 2**30), list[Heard](), 1, 0
    for step, number, new_session in script:
        if step == "extend":
            term, seq = (term + 1, 0) if new_session else (term, seq)
            batch = run(term, seq, number)
            seq += number
            everything += batch
            tape.extend(batch)
        else:
            index = tape.start + number * (tape.end - tape.start) // 100
            tape.mark_written(index)
            assert tape.written == index
        assert tape.end == len(everything)
        assert tape.start <= tape.written <= tape.published <= tape.end
        assert tape.written - tape.start <= history + max(1, history // 4)
        assert list(tape.read(tape.start, 10**6)) == everything[tape.start :]
        assert tape.backlog_bytes == sum(map(size_bytes, everything[tape.written :]))
        spans = [(s.start, s.end, s.first, s.last) for s in tape.segments]
        assert [s[0] for s in spans[1:]] == [s[1] for s in spans[:-1]]
        for start, end, first, last in spans:
            assert start < end
            assert (everything[start].position, everything[end - 1].position) == (first, last)
            assert list(tape.run(start, 3)) == everything[start : min(end, start + 3)]
        if spans:
            assert (spans[0][0], spans[-1][1]) == (tape.start, tape.end)


def test_giving_up_keeps_the_older_half() -> None:
    size = size_bytes(heard(1, 0))
    tape = Tape(10, 10 * size)
    tape.extend(run(1, 0, 12))
    assert tape.full is True
    assert tape.give_up() == 7
    assert [one.position.seq for one in tape.read(0, 100)] == [0, 1, 2, 3, 4]
    assert tape.backlog_bytes == 5 * size
    tape.extend(run(2, 0, 1))
    assert [(s.first, s.last) for s in tape.segments] == [((1, 0), (1, 4)), ((2, 0), (2, 0))]


def test_giving_up_never_touches_history() -> None:
    tape = Tape(10, 1)
    tape.extend(run(1, 0, 5))
    tape.mark_written(4)
    assert tape.give_up() == 1
    assert tape.end == tape.written == 4


async def test_waiting_for_growth_and_for_room(autojump_clock: trio.abc.Clock) -> None:
    size = size_bytes(heard(1, 0))
    tape, order = Tape(10, 2 * size), list[str]()

    async def reader() -> None:
        await tape.grown(1)
        order.append("grown")
        tape.mark_written(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        tape.extend(run(1, 0, 1))
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
        tape.extend(run(1, 1, 1))
        await tape.room()
        order.append("room")
    assert order == ["grown", "room"]
