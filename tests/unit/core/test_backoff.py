"""Delays: bounded by the longest, growing, spread by the jitter."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.backoff import Backoff


@given(st.floats(0.01, 60), st.lists(st.floats(0, 1, exclude_max=True), max_size=200))
def test_delays_stay_between_half_and_all_of_the_doubled_delay(longest: float, jitters: list[float]) -> None:
    backoff = Backoff(longest)
    for attempt, jitter in enumerate(jitters):
        full = min(longest, min(0.1, longest) * 2.0**attempt)
        assert full / 2 <= backoff.next(jitter) <= full


def test_reset_starts_afresh() -> None:
    backoff = Backoff(5)
    first = backoff.next(0.5)
    assert backoff.next(0.5) == 2 * first
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next(0.5) == first


@given(st.floats(0.01, 60), st.floats(0, 1, exclude_max=True))
def test_what_lasts_is_tried_again_after_the_longest_delay_only(longest: float, jitter: float) -> None:
    backoff = Backoff(longest)
    assert longest / 2 <= backoff.next(jitter, lasting=True) <= longest
