"""Where the tape goes against the log: in every world, the log stays without a hole inside a term."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.events import Heard, Marker, Notification
from bridge.core.position import Position, Timeline
from bridge.relay.placement import Append, Break, Placement, Remark, UpToDate, place
from bridge.relay.tape import Tape


def tape_of(*runs: tuple[int, int, int], history: int = 1000) -> Tape:
    """A tape of runs (term, first seq, count)."""
    tape = Tape(history, 2**30)
    for term, first, count in runs:
        tape.extend([Heard(Position(term, first + i), Notification("c", b"%d" % i)) for i in range(count)])
    return tape


def related(*pairs: tuple[Position, Position]) -> Timeline:
    timeline = Timeline()
    for one, other in pairs:
        timeline.relate(one, other)
    return timeline


P = Position


@pytest.mark.parametrize(
    ("tape", "timeline", "tail", "numbering", "expected"),
    [
        pytest.param(tape_of(), related(), P(1, 1), None, UpToDate(), id="nothing heard"),
        pytest.param(tape_of((5, 0, 3)), related(), None, None, Append(0, P(5, 0)), id="the first log begins"),
        pytest.param(tape_of((5, 0, 3)), related(), P(5, 1), None, Append(2, P(5, 2)), id="own term goes on"),
        pytest.param(tape_of((5, 0, 3)), related(), P(5, 2), None, UpToDate(), id="all is in the log"),
        pytest.param(tape_of((5, 0, 3)), related(), P(5, 9), None, UpToDate(), id="the log is ahead"),
        pytest.param(
            tape_of((5, 0, 3)),
            related((P(5, 0), P(3, 10))),
            P(3, 10),
            None,
            Append(1, P(3, 11)),
            id="takeover keeps the numbers",
        ),
        pytest.param(
            tape_of((5, 0, 3)), related((P(5, 0), P(3, 10))), P(3, 8), None, Break(0, P(5, 0)), id="a hole before us"
        ),
        pytest.param(tape_of((5, 0, 3)), related(), P(3, 8), None, Break(0, P(5, 0)), id="not related"),
        pytest.param(tape_of((5, 0, 3)), related(), P(7, 8), None, Remark(), id="not related, and our term is lower"),
        pytest.param(
            tape_of((5, 0, 3)),
            related((P(5, 0), P(7, 4))),
            P(7, 5),
            None,
            Append(2, P(7, 6)),
            id="an older session continues a newer numbering",
        ),
        pytest.param(
            tape_of((5, 0, 3), (6, 0, 2)), related(), P(5, 1), None, Append(2, P(5, 2)), id="the older session first"
        ),
        pytest.param(
            tape_of((5, 0, 3), (6, 0, 2)), related(), P(5, 2), None, Break(3, P(6, 0)), id="then a gap to the newer"
        ),
        pytest.param(
            tape_of((5, 0, 3), (6, 0, 2)),
            related((P(6, 0), P(5, 3))),
            P(5, 2),
            None,
            Append(3, P(5, 3)),
            id="no gap where the sessions are known to join",
        ),
        pytest.param(
            tape_of((5, 0, 9)), related(), None, P(5, 6), Append(0, P(5, 0)), id="emptied: the same numbers again"
        ),
        pytest.param(
            tape_of((5, 0, 9)),
            related((P(5, 0), P(3, 10))),
            None,
            P(3, 12),
            Append(0, P(3, 10)),
            id="emptied: the numbering of the log, not our own",
        ),
        pytest.param(
            tape_of((5, 0, 9)),
            related((P(5, 4), P(7, 0))),
            None,
            P(7, 2),
            Append(4, P(7, 0)),
            id="emptied: what lies before the numbering began stays out",
        ),
        pytest.param(tape_of((5, 0, 9)), related(), None, P(7, 2), Remark(), id="emptied, not related, lower term"),
        pytest.param(
            tape_of((9, 0, 9)), related(), None, P(7, 2), Append(0, P(9, 0)), id="emptied, not related, higher term"
        ),
        pytest.param(
            tape_of((5, 0, 3), (9, 0, 2)),
            related(),
            None,
            P(7, 2),
            Append(3, P(9, 0)),
            id="emptied, and only a later session is above the numbering",
        ),
    ],
)
def test_cases(
    tape: Tape, timeline: Timeline, tail: Position | None, numbering: Position | None, expected: Placement
) -> None:
    assert place(tape, timeline, tail, numbering) == expected


@st.composite
def worlds(draw: Any) -> tuple[int, list[tuple[int, int, int]], list[tuple[int, int]]]:
    """How much there is to hear, sessions (start, end, written by whom) and which sessions are related."""
    total = draw(st.integers(1, 25))
    sessions = draw(
        st.lists(
            st.tuples(st.integers(0, total), st.integers(0, total), st.integers(0, 2)).map(
                lambda s: (min(s[:2]), max(s[:2]) + 1, s[2])
            ),
            min_size=1,
            max_size=5,
        )
    )
    indexes = st.integers(0, len(sessions) - 1)
    return total, sessions, draw(st.lists(st.tuples(indexes, indexes), max_size=8))


@given(worlds(), st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(0, 9)), max_size=60))
def test_a_term_of_the_log_is_the_truth_without_a_hole(
    world: tuple[int, list[tuple[int, int, int]], list[tuple[int, int]]], turns: list[tuple[int, int, int]]
) -> None:
    """Three relays append to one log in any order, which is sometimes emptied. Payloads are global indexes."""
    _, sessions, relations = world
    tapes = [Tape(1000, 2**30) for _ in range(3)]
    timeline = Timeline()
    starts = {}
    for term, (start, end, owner) in enumerate(sessions, start=1):
        starts[term] = start
        marker = Heard(Position(term, 0), Marker(term, "n", "d", "listener", "p"))
        heard = [Heard(Position(term, i - start + 1), Notification("c", b"%d" % i)) for i in range(start, end)]
        tapes[owner].extend([marker, *heard])
    for a, b in relations:
        timeline.relate(Position(a + 1, 0), Position(b + 1, starts[a + 1] - starts[b + 1]))
    log: list[tuple[Position, int]] = []
    numbering: Position | None = None
    for owner, count, luck in turns:
        if luck == 0:
            log.clear()
        tail = log[-1][0] if log else None
        tape = tapes[owner]
        placement = place(tape, timeline, tail, numbering)
        if isinstance(placement, Append | Break):
            at = placement.at
            assert tail is None or at > tail
            assert at.seq >= 0
            assert isinstance(placement, Break) == (tail is not None and at != tail.plus(1))
            if isinstance(placement, Append):
                tape.mark_written(placement.index)
            run = tape.run(placement.index, count)
            assert run
            timeline.relate(at, run[0].position)
            for offset, one in enumerate(run):
                truth = one.position.seq + starts[one.position.term] - 1
                log.append((at.plus(offset), truth))
            numbering = log[-1][0]
            tape.mark_written(placement.index + len(run))
        for (before, first), (after, second) in pairwise(log):
            assert after > before
            if before.term == after.term:
                assert (after.seq - before.seq, second - first) == (1, 1)
