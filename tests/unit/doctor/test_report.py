"""How findings are shown."""

from collections import Counter

import pytest

from bridge.doctor.report import Finding, Level, line, milliseconds, printer, size, summary


def test_a_line_and_what_to_do() -> None:
    finding = Finding("bad", "Redis", "it is full\nand \x1b[31mred", "make room")
    assert line(finding).plain == "✗ Redis      it is full and  [31mred\n             → make room"
    assert line(Finding("good", "clocks", "agree")).plain == "✓ clocks     agree"
    assert line(Finding("warning", "é", "…"), ascii_only=True).plain.isascii()


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    printer(as_json=True)(Finding("unseen", "Redis", "line\nbreak"))
    assert capsys.readouterr().out == '{"level":"unseen","subject":"Redis","text":"line\\nbreak","todo":""}\n'


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        (["good", "unseen"], "All is well."),
        (["warning", "good"], "All is well, with 1 warning."),
        (["bad"], "Not well: 1 thing to mend."),
        (["bad", "bad", "warning", "warning"], "Not well: 2 things to mend, and 2 warnings."),
    ],
)
def test_the_last_line(levels: list[Level], text: str) -> None:
    assert summary(Counter(levels)) == text


def test_numbers_for_people() -> None:
    assert [milliseconds(seconds) for seconds in (0.0004, 0.0125, 1.26)] == ["0.4 ms", "12 ms", "1.3 s"]
    assert [size(amount) for amount in (512, 1536, 33554432, 2**40)] == ["512 bytes", "1.5 KiB", "32.0 MiB", "1.0 TiB"]
