"""The ledger, against a set of global indexes."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.ledger import MAX_SPANS, Ledger
from bridge.core.position import Position, Timeline

indexes = st.integers(-30, 30)
ranges = st.tuples(indexes, indexes).map(sorted)


@given(st.lists(st.one_of(indexes, ranges, indexes.map(lambda i: (i,))), max_size=60))
def test_one_term_against_a_set(steps: list[int | list[int] | tuple[int]]) -> None:
    ledger, taken = Ledger(Timeline()), set[int]()
    for step in steps:
        if isinstance(step, int):
            assert ledger.claim(Position(1, step)) == (step not in taken)
            taken.add(step)
        elif isinstance(step, tuple):
            ledger.claim_through(Position(1, step[0]))
            taken |= set(range(-100, step[0] + 1))
        else:
            ledger.claim_between(Position(1, step[0]), Position(1, step[1]))
            taken |= set(range(step[0], step[1] + 1))
    for index in range(-40, 40):
        assert (Position(1, index) in ledger) == (index in taken)
    holes = {i for i in range(min(taken, default=0), max(taken, default=0)) if i not in taken}
    named = [set(range(first.seq, last.seq + 1)) for first, last in ledger.missing(1)]
    assert set().union(*named) == holes
    assert sum(map(len, named)) == len(holes)
    newest = ledger.newest(1)
    assert (newest and newest.seq) == max(taken, default=None)


@given(st.lists(st.tuples(indexes, st.integers(1, 9)), max_size=60))
def test_a_run_is_claimed_as_each_of_it_is(steps: list[tuple[int, int]]) -> None:
    timeline = Timeline()
    timeline.relate(Position(1, 0), Position(2, 5))
    runs, singles = Ledger(timeline), Ledger(timeline)
    for seq, count in steps:
        term = 1 + count % 2
        new = sum(singles.claim(Position(term, seq + n)) for n in range(count))
        assert runs.claim_run(Position(term, seq), count) == new
        assert runs._spans == singles._spans


@given(st.data())
def test_relations_learned_late_join_what_was_claimed_on_both_sides(data: st.DataObject) -> None:
    starts = {1: 0, 2: data.draw(indexes), 3: data.draw(indexes)}
    timeline = Timeline()
    ledger = Ledger(timeline)
    claimed = {term: set[int]() for term in starts}  # global indexes, by component
    for _ in range(data.draw(st.integers(0, 60))):
        if data.draw(st.integers(0, 9)) == 0:
            a, b = data.draw(st.sampled_from([(1, 2), (2, 3), (1, 3)]))
            timeline.relate(Position(a, 0), Position(b, starts[a] - starts[b]))
            joined = claimed[a] | claimed[b]
            for term in starts:
                if timeline.convert(Position(term, 0), a) is not None:
                    claimed[term] = joined
        else:
            term, index = data.draw(st.integers(1, 3)), data.draw(indexes)
            assert ledger.claim(Position(term, index - starts[term])) == (index not in claimed[term])
            claimed[term].add(index)
    for term, start in starts.items():
        for index in range(-35, 35):
            assert (Position(term, index - start) in ledger) == (index in claimed[term])


def test_a_contiguous_stream_takes_constant_memory() -> None:
    ledger = Ledger(Timeline())
    ledger.claim_through(Position(5, 0))
    for seq in range(1, 50_000):
        assert ledger.claim(Position(5, seq))
    assert len(ledger._spans[5]) == 2


def test_holes_are_bounded_the_oldest_is_given_up() -> None:
    ledger = Ledger(Timeline())
    for seq in range(0, 4 * MAX_SPANS, 2):
        assert ledger.claim(Position(5, seq))
    assert len(ledger._spans[5]) == 2 * MAX_SPANS
    assert Position(5, 1) in ledger
    assert Position(5, 4 * MAX_SPANS - 3) not in ledger


def test_forgotten_terms_leave_nothing_behind() -> None:
    timeline = Timeline(newest_terms=10)
    ledger = Ledger(timeline)
    for term in range(1, 1000):
        ledger.claim(Position(term, 1))
    assert len(ledger._spans) <= 12


def test_asking_for_terms_that_nobody_has_heard_of_remembers_nothing() -> None:
    timeline = Timeline(newest_terms=10)
    ledger = Ledger(timeline)
    ledger.claim(Position(5, 1))
    for term in range(100, 1000):
        assert ledger.newest(term) is None
    assert len(timeline) == 1
    assert ledger.newest(5) == Position(5, 1)
