"""Positions and the timeline, against a model that knows the one true order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.position import Position, Relation, Timeline

terms = st.integers(1, 2**63 - 1)
seqs = st.integers(0, 2**63 - 1)


@given(terms, seqs)
def test_a_position_is_written_and_read_back(term: int, seq: int) -> None:
    assert Position.parse(str(Position(term, seq))) == Position(term, seq)


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "1-2-3", "01-1", "1-01", "0-1", "1--1", " 1-1", "1-1\n", "\u0661-1", f"{2**63}-0"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a position"):
        Position.parse(text)


class World:
    """The truth: session `term` started at a global index; its seq k is the notification at start + k."""

    def __init__(self, starts: list[int]) -> None:
        self.starts = dict(enumerate(starts, start=1))

    def same(self, a: int, b: int, k: int) -> tuple[Position, Position]:
        return Position(a, k), Position(b, k + self.starts[a] - self.starts[b])


@st.composite
def worlds(draw: Any) -> tuple[World, list[tuple[int, int, int]]]:
    starts = draw(st.lists(st.integers(-50, 50), min_size=1, max_size=12))
    pair = st.integers(1, len(starts))
    return World(starts), draw(st.lists(st.tuples(pair, pair, st.integers(-20, 20)), max_size=30))


@given(worlds())
def test_conversion_is_exact_and_known_for_related_terms_only(case: tuple[World, list[tuple[int, int, int]]]) -> None:
    world, statements = case
    timeline = Timeline()
    groups = {term: {term} for term in world.starts}
    for a, b, k in statements:
        expected = Relation.KNOWN if b in groups[a] else Relation.NEW
        assert timeline.relate(*world.same(a, b, k)) is expected
        joined = groups[a] | groups[b]
        for term in joined:
            groups[term] = joined
    for a in world.starts:
        for b in world.starts:
            here, there = world.same(a, b, 7)
            assert timeline.convert(here, b) == (there if b in groups[a] else None)
    copy = Timeline()
    for one, other in timeline.relations():
        copy.relate(one, other)
    for a in world.starts:
        for b in groups[a]:
            here, there = world.same(a, b, -3)
            assert copy.convert(here, b) == there


@given(worlds(), st.integers(1, 5))
def test_a_contradiction_is_refused_and_changes_nothing(
    case: tuple[World, list[tuple[int, int, int]]], error: int
) -> None:
    world, statements = case
    timeline = Timeline()
    for a, b, k in statements:
        timeline.relate(*world.same(a, b, k))
    before = {(a, b): timeline.convert(Position(a, 0), b) for a in world.starts for b in world.starts}
    for (a, _b), known in before.items():
        if known is not None:
            assert timeline.relate(Position(a, 0), known.plus(error)) is Relation.CONTRADICTION
    assert {pair: timeline.convert(Position(pair[0], 0), pair[1]) for pair in before} == before


def test_memory_is_bounded_and_pinned_terms_are_kept() -> None:
    timeline = Timeline(newest_terms=100)
    timeline.pinned = {1}
    timeline.relate(Position(1, 10), Position(2, 0))
    timeline.relate(Position(2, 10), Position(3, 0))
    for term in range(4, 2000):
        timeline.add(term)
        assert len(timeline) <= 100 + 10 + 2
    assert 2 not in timeline
    assert timeline.convert(Position(1, 25), 3) == Position(3, 5)
    assert timeline.convert(Position(2, 0), 3) is None


def test_long_chains_are_converted_without_recursion() -> None:
    timeline = Timeline(newest_terms=20_000)
    for term in range(1, 10_000):
        timeline.relate(Position(term, 1), Position(term + 1, 0))
    assert timeline.convert(Position(1, 10_000), 10_000) == Position(10_000, 1)
    assert timeline.convert(Position(10_000, 1), 1) == Position(1, 10_000)
