"""A cursor as text: it says all, is safe in a URL, and whatever else comes is refused."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.cursor import MAX_OPEN_GAPS, MAX_THROUGH, Cursor, OpenGap, sub_digest
from bridge.core.position import Position, Timeline

positions = st.builds(Position, st.integers(1, 2**63 - 1), st.integers(0, 2**63 - 1))
subs = st.none() | st.text(max_size=5).map(sub_digest)
gaps = st.builds(OpenGap, positions, positions, st.lists(positions, max_size=MAX_THROUGH).map(tuple), subs)
cursors = st.builds(Cursor, positions, st.lists(gaps, max_size=MAX_OPEN_GAPS).map(tuple))

PARTS = st.sampled_from(
    ["1-0", "9-9", "~", "_", ".", "-", "0-1", "01-1", "deadbeef", "DEADBEEF", "x", "", " ", "\u0661"]
)


@given(cursors)
def test_the_text_says_all_and_needs_no_escape_in_a_url_or_a_header(cursor: Cursor) -> None:
    text = str(cursor)
    assert Cursor.parse(text) == cursor
    assert re.fullmatch(r"[0-9a-f._~-]+", text)


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
        "1-1~1-1_2-2_3-3_xyz",
        "1-1~1-1_2-2_3-3_DEADBEEF",
        "1-1~1-1_2-2_3-3_deadbeef_1",
        "1-1~1-1_2-2_3-3.",
        "1-1\n",
        f"{2**63}-1",
        "1--1",
        "1-1" + "~1-1_2-2" * (MAX_OPEN_GAPS + 1),
        "1-1~1-1_2-2_" + ".".join(["3-3"] * (MAX_THROUGH + 2)),
    ],
)
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError, match="not"):
        Cursor.parse(text)


def test_a_megabyte_of_garbage_is_refused_at_once() -> None:
    for part in ("1", "-", "~", "_", ".", "1-1~", "1-1_", "1-1."):
        with pytest.raises(ValueError, match="not"):
            Cursor.parse("1-1~1-1_1-1_" + part * (1_000_000 // len(part)) + "!")


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 20)), min_size=1, max_size=40), st.data())
def test_of_each_numbering_the_last_late_event_is_known_and_no_more_than_fit(
    late: list[tuple[int, int]], data: Any
) -> None:
    timeline = Timeline()
    joined = {term: term for term in range(1, 13)}
    for a, b in data.draw(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=6)):
        timeline.relate(Position(a, 0), Position(b, 0))
        joined = {term: joined[a] if joined[term] == joined[b] else joined[term] for term in joined}
    gap = OpenGap(Position(1, 0), Position(1, 99))
    last: dict[int, Position] = {}
    for position in (Position(*one) for one in late):
        gap = gap.advanced(position, timeline)
        last.pop(joined[position.term], None)
        last[joined[position.term]] = position
    assert list(gap.through) == list(last.values())[-MAX_THROUGH:]
    assert Cursor.parse(str(Cursor(Position(1, 1), (gap,)))).open_gaps == (gap,)


@given(st.none() | st.text())
def test_a_subscription_of_any_name_has_a_digest(name: str | None) -> None:
    assert re.fullmatch("[0-9a-f]{8}", sub_digest(name))
