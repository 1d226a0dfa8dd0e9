"""Wildcards against regular expressions, which say the same more slowly."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from bridge.wildcards import fits

letters = st.text("ab.*", max_size=8)


@given(letters, st.text("ab.", max_size=10))
@example("a*a", "a")
@example("*ab*b", "ab")
@example("*a*a*", "a")
@example("", "")
@example("**", "")
@example("a*b*a", "aba")
def test_a_star_is_any_text(pattern: str, text: str) -> None:
    expected = re.compile(".*".join(map(re.escape, pattern.split("*")))).fullmatch(text)
    assert fits(pattern, text) == (expected is not None)


def test_other_signs_mean_themselves() -> None:
    assert fits("a?[b]", "a?[b]")
    assert not fits("a?[b]", "axb")
    assert not fits("a.c", "abc")


def test_no_pattern_takes_for_ever() -> None:
    assert not fits("*a" * 500 + "b", "a" * 16_000)
