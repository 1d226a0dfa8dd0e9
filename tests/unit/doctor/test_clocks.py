"""Clocks against each other: what agrees, what errs by less than it may, and what has to be mended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.doctor.clocks import BAD_SECONDS, WARNING_SECONDS, Reading, judge, read

SECONDS = st.floats(-1e6, 1e6)


def level(*readings: Reading) -> str:
    (finding,) = judge(readings, None, None)
    return finding.level


def test_a_reading_lies_between_the_question_and_the_answer() -> None:
    assert read("x", 105.0, 99.0, 101.0) == Reading("x", 5.0, 1.0)


@pytest.mark.parametrize(
    ("ahead", "uncertain", "expected"),
    [(0.001, 0.001, "good"), (-5, 0.1, "warning"), (5, 4, "good"), (BAD_SECONDS + 1, 0.5, "bad"), (-3600, 1, "bad")],
)
def test_one_clock_against_this_machine(ahead: float, uncertain: float, expected: str) -> None:
    assert level(Reading("PostgreSQL", ahead, uncertain)) == expected


def test_the_two_that_differ_most_are_named() -> None:
    readings = [Reading("PostgreSQL", 3.0, 0.0), Reading("Redis", -4.0, 0.0)]
    (finding,) = judge(readings, None, None)
    assert finding.text == "the clock of PostgreSQL is 7.0 s ahead of that of Redis"
    assert "NTP" in finding.todo


def test_nothing_read_nothing_said() -> None:
    assert judge([], None, None) == []


@given(SECONDS, SECONDS, st.floats(0, 100), st.floats(0, 100))
def test_never_a_fault_that_the_uncertainty_explains(one: float, other: float, blur: float, more: float) -> None:
    readings = [Reading("PostgreSQL", one, blur), Reading("Redis", other, more)]
    sure = max(abs(one) - blur, abs(other) - more, abs(one - other) - blur - more)
    expected = "good" if sure < WARNING_SECONDS else "warning" if sure < BAD_SECONDS else "bad"
    if min(abs(sure - WARNING_SECONDS), abs(sure - BAD_SECONDS)) > 1e-6:
        assert level(*readings) == expected


@pytest.mark.parametrize(("log_began", "expected"), [(900.0, 0), (1050.0, 0), (1100.0, 1)])
def test_a_log_that_began_in_the_future(log_began: float, expected: int) -> None:
    assert len(judge([], log_began, 1000.0)) == expected
