"""A cursor as text: it says all, is safe in a URL, and whatever else comes is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.cursor import MAX_HAD_BYTES, MAX_OPEN_GAPS, MAX_RUNS, Cursor, Had, OpenGap, Run, fitting, sub_digest
from bridge.core.position import Position, Timeline
from bridge.core.topics import Subscription

positions = st.builds(Position, st.integers(1, 2**63 - 1), st.integers(0, 2**63 - 1))
runs = st.lists(st.builds(Run, positions, positions), max_size=MAX_RUNS).map(tuple)
texts = st.text(max_size=4)
wheres = st.dictionaries(texts, st.lists(texts, min_size=1, max_size=2).map(tuple), max_size=2)
subscriptions = st.builds(
    Subscription, st.frozensets(texts, max_size=2), wheres.map(lambda where: tuple(sorted(where.items())))
)
had = st.lists(st.builds(Had, st.lists(st.builds(Run, positions, positions), max_size=2).map(tuple), subscriptions))
gaps = st.builds(OpenGap, positions, positions, runs) | st.builds(
    OpenGap, positions, positions, runs, texts.map(sub_digest), st.booleans(), had.map(fitting)
)
cursors = st.builds(Cursor, positions, st.lists(gaps, max_size=MAX_OPEN_GAPS).map(tuple))

PARTS = st.sampled_from(
    ["1-0", "9-9", "~", "_", ".", "-", "0-1", "01-1", "deadbeef", "DEADBEEF", "x", "", " ", "\u0661"]
)


@given(cursors)
def test_the_text_says_all_and_needs_no_escape_in_a_url_or_a_header(cursor: Cursor) -> None:
    text = str(cursor)
    assert Cursor.parse(text) == cursor
    assert re.fullmatch(r"[0-9a-zA-Z._~!:-]+", text)


@given(positions)
def test_the_id_of_an_event_is_a_cursor(position: Position) -> None:
    assert Cursor.parse(str(position)) == Cursor(position)


@given(st.lists(PARTS, max_size=12).map("".join) | st.text(max_size=30))
def test_garbage_is_refused_and_nothing_else_is_raised(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except ValueError:
        return
    assert Cursor.parse(str(cursor)) == cursor
    assert str(cursor) == re.sub("_+(?=~|$)", "", text), "read and written, it is the same"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1-1~",
        "1-1~1-1",
        "1-1~1-1_",
        "1-1~1-1_2-2_x",
        "1-1~1-1_2-2_3-3",
        "1-1~1-1_2-2_3-3.3-4_xyz",
        "1-1~1-1_2-2_3-3.3-4_DEADBEEF",
        "1-1~1-1_2-2_3-3.3-4_deadbeef_1",
        "1-1~1-1_2-2__deadbeefx",
        "1-1~1-1_2-2___3-3.3-4:W1siYSJdLFtdXQ",
        "1-1~1-1_2-2__deadbeef_3-3.3-4:W1siYSJdLFtd",
        "1-1~1-1_2-2__deadbeef_3-3:W1siYSJdLFtdXQ",
        "1-1~1-1_2-2__deadbeef_" + "!".join(["3-3.3-4:W1siYSJdLFtdXQ"] * (MAX_HAD_BYTES // 20)),
        "1-1~1-1_2-2_3-3.",
        "1-1~1-1_2-2_3-3.3-4.",
        "1-1~1-1_2-2_3-3.3-4.3-5",
        "1-1\n",
        f"{2**63}-1",
        "1--1",
        "1-1" + "~1-1_2-2" * (MAX_OPEN_GAPS + 1),
        "1-1~1-1_2-2_" + ".".join(["3-3"] * (2 * MAX_RUNS + 2)),
    ],
)
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError, match="not"):
        Cursor.parse(text)


def test_a_megabyte_of_garbage_is_refused_at_once() -> None:
    for part in ("1", "-", "~", "_", ".", "1-1~", "1-1_", "1-1."):
        with pytest.raises(ValueError, match="not"):
            Cursor.parse("1-1~1-1_1-1_" + part * (1_000_000 // len(part)) + "!")


@given(st.lists(st.lists(st.integers(1, 60), unique=True).map(sorted), min_size=1, max_size=MAX_RUNS))
def test_what_came_is_known_of_every_run_and_nothing_else(stretches: list[list[int]]) -> None:
    """Each stretch is a numbering of its own, which nobody can relate to the others."""
    timeline = Timeline()
    gap = OpenGap(Position(99, 0), Position(98, 0))
    for term, stretch in enumerate(stretches, start=1):
        for seq in stretch:
            gap = gap.advanced(Position(term, seq), timeline, begins=seq == stretch[0])
    for term, stretch in enumerate(stretches, start=1):
        for seq in range(62):
            expected = bool(stretch) and stretch[0] <= seq <= stretch[-1]
            assert gap.has(Position(term, seq), timeline) == expected
    assert Cursor.parse(str(Cursor(Position(1, 1), (gap,)))).open_gaps == (gap,)


def test_what_is_related_later_is_not_taken_for_what_came() -> None:
    timeline = Timeline()
    gap = OpenGap(Position(1, 0), Position(3, 0)).advanced(Position(2, 1), timeline).advanced(Position(2, 2), timeline)
    timeline.relate(Position(2, 0), Position(1, 10))
    assert [seq for seq in range(1, 14) if gap.has(Position(1, seq), timeline)] == [11, 12]
    for seq in range(1, 5):
        gap = gap.advanced(Position(1, seq), timeline)
    assert [seq for seq in range(1, 14) if gap.has(Position(1, seq), timeline)] == [1, 2, 3, 4, 11, 12]


def test_what_came_late_is_known_wherever_the_gap_can_be_placed() -> None:
    there, elsewhere = Timeline(), Timeline()
    there.relate(Position(2, 0), Position(1, 13))
    gap = OpenGap(Position(2, 3), Position(3, 0)).advanced(Position(1, 17), there)
    assert gap.runs == (Run(Position(2, 3), Position(2, 4)),)
    assert gap.has(Position(2, 4), elsewhere)
    older = OpenGap(Position(2, 3), Position(3, 0)).advanced(Position(1, 2), there)
    assert older.runs == (Run(Position(1, 1), Position(1, 2)),)


def test_of_too_many_runs_the_oldest_are_forgotten() -> None:
    gap = OpenGap(Position(1, 0), Position(1, 99))
    for term in range(2, 2 * MAX_RUNS):
        gap = gap.advanced(Position(term, 1), Timeline())
    assert [run.last.term for run in gap.runs] == list(range(MAX_RUNS, 2 * MAX_RUNS))


@given(st.none() | st.text())
def test_a_subscription_of_any_name_has_a_digest(name: str | None) -> None:
    assert re.fullmatch("[0-9a-f]{8}", sub_digest(name))
    assert name is None or sub_digest(name) != sub_digest(None)
