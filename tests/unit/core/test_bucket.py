"""The bucket lets a burst pass, then the rate, and never more."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.bucket import Bucket


def test_a_burst_then_the_rate() -> None:
    bucket = Bucket(2, 3, 10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(10.4)
    assert bucket.take(10.5)
    assert not bucket.take(10.9)
    assert bucket.take(11.0)
    assert not bucket.full(12.0)
    assert bucket.full(12.5)


def test_a_debt_is_waited_for() -> None:
    bucket = Bucket(10, 100, 0.0)
    assert bucket.spend(0.0, 100) == 0
    assert bucket.spend(0.0, 50) == 5.0
    assert bucket.spend(5.0, 1) == 0.1
    assert not bucket.take(5.1)


@given(st.lists(st.floats(0, 5), max_size=200), st.floats(0.1, 50), st.integers(1, 20))
def test_never_more_than_the_burst_and_the_rate(waits: list[float], per_second: float, burst: int) -> None:
    bucket, now, taken = Bucket(per_second, burst, 0.0), 0.0, 0
    for wait in waits:
        now += wait
        taken += bucket.take(now)
    assert taken <= burst + per_second * now + 1e-6
