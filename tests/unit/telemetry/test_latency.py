"""What is said of latency: arrivals are found by position, never too late, and quantiles are of the last minute."""

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from bridge.core.position import Position, Timeline
from bridge.telemetry import Arrivals, Latency
from bridge.telemetry.latency import LEGS, MAX_ARRIVALS, MAX_SAMPLES, Leg


def test_an_arrival_is_that_of_its_batch() -> None:
    arrivals = Arrivals(Timeline())
    assert arrivals.at(Position(5, 1)) is None
    arrivals.note(Position(5, 1), Position(5, 10), 1.0)
    arrivals.note(Position(5, 11), Position(5, 11), 2.0)
    found = [arrivals.at(Position(5, seq)) for seq in (0, 1, 10, 11, 12)]
    assert found == [None, 1.0, 1.0, 2.0, None], "what has not come has no arrival, also where the log was faster"


def test_positions_are_those_of_the_log() -> None:
    timeline = Timeline()
    arrivals = Arrivals(timeline)
    arrivals.note(Position(5, 1), Position(5, 10), 1.0)
    assert arrivals.at(Position(3, 107)) is None, "not related"
    timeline.relate(Position(5, 0), Position(3, 100))
    assert arrivals.at(Position(3, 107)) == 1.0
    assert arrivals.at(Position(3, 100)) is None
    assert arrivals.at(Position(3, 111)) is None


def test_a_new_session_says_nothing_of_what_came_before_it() -> None:
    timeline = Timeline()
    arrivals = Arrivals(timeline)
    arrivals.note(Position(5, 1), Position(5, 10), 1.0)
    arrivals.note(Position(6, 1), Position(6, 2), 9.0)
    timeline.relate(Position(6, 0), Position(5, 20))
    assert arrivals.at(Position(6, 2)) == 9.0
    assert arrivals.at(Position(5, 22)) == 9.0
    assert arrivals.at(Position(5, 15)) is None
    arrivals.note(Position(4, 1), Position(4, 3), 10.0)  # a clock was set back
    assert arrivals.at(Position(4, 3)) == 10.0


@given(st.lists(st.integers(1, 5), min_size=1, max_size=40), st.integers(0, 3))
def test_nothing_is_said_to_have_come_later_than_it_did(sizes: list[int], rounds: int) -> None:
    arrivals = Arrivals(Timeline())
    seq, came = 0, {}
    for n, size in enumerate(sizes * (rounds * 100 + 1)):
        arrivals.note(Position(5, seq + 1), Position(5, seq + size), float(n))
        came.update(dict.fromkeys(range(seq + 1, seq + size + 1), float(n)))
        seq += size
    assert len(arrivals._times) <= MAX_ARRIVALS
    for one, at in came.items():
        found = arrivals.at(Position(5, one))
        assert found is not None
        assert found <= at
    if seq:
        newest = arrivals.at(Position(5, seq))
        assert newest == came[seq], "what came last is exact"


def test_memory_is_bounded_and_what_is_new_is_exact() -> None:
    arrivals = Arrivals(Timeline())
    for n in range(10 * MAX_ARRIVALS):
        arrivals.note(Position(5, n), Position(5, n), float(n))
    assert len(arrivals._times) == len(arrivals._firsts) <= MAX_ARRIVALS
    for n in range(10 * MAX_ARRIVALS - MAX_ARRIVALS // 2, 10 * MAX_ARRIVALS):
        assert arrivals.at(Position(5, n)) == n
    assert arrivals.at(Position(5, 0)) == 0.0


async def test_quantiles_are_of_the_last_minute(autojump_clock: MockClock) -> None:
    observed: dict[Leg, list[float]] = {leg: [] for leg in LEGS}
    latency = Latency({leg: observed[leg].append for leg in LEGS})
    none = latency.quantiles("received_to_delivered")
    assert (none.p50_ms, none.p99_ms, none.samples) == (None, None, 0)
    for milliseconds in range(1, 101):
        latency.observe("received_to_delivered", trio.current_time() - milliseconds / 1000)
    found = latency.quantiles("received_to_delivered")
    assert (found.p50_ms, found.p99_ms, found.samples) == (51.0, 100.0, 100)
    assert len(observed["received_to_delivered"]) == 100
    assert latency.quantiles("log_to_delivered").samples == 0
    await trio.sleep(30)
    latency.observe("received_to_delivered", trio.current_time() - 2)
    assert latency.quantiles("received_to_delivered").p99_ms == 100.0
    await trio.sleep(31)
    assert latency.quantiles("received_to_delivered").p99_ms == 2000.0
    for _ in range(2 * MAX_SAMPLES):
        latency.observe("log_to_delivered", trio.current_time())
    assert latency.quantiles("log_to_delivered").samples == MAX_SAMPLES
