"""What `doctor` finds, one line each, and how it is shown: plainly, in colour on a terminal, or as JSON."""

import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec
from rich.console import Console
from rich.text import Text

Level = Literal["good", "unseen", "warning", "bad"]
"""`unseen`: it could not be looked at, or was left out. Only `bad` makes the command fail."""

_MARKS: dict[Level, tuple[str, str, str]] = {
    "good": ("✓", "+", "green"),
    "unseen": ("-", "-", "dim"),
    "warning": ("!", "!", "yellow"),
    "bad": ("✗", "x", "bold red"),
}
"""The mark, the same in ASCII, and its colour."""
_SUBJECT_WIDTH = 10
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]+")


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: how it is, and where it should be otherwise, what to do."""

    level: Level
    subject: str
    text: str
    todo: str = ""


Show = Callable[[Finding], None]


def printer(*, as_json: bool) -> Show:
    """A function that prints one finding at once: on standard output, in colour if that is a terminal."""
    if as_json:
        return lambda finding: print(msgspec.json.encode(finding).decode(), flush=True)
    plain = not _takes_unicode()
    if sys.stdout.isatty():
        console = Console(highlight=False, soft_wrap=True)
        return lambda finding: console.print(line(finding, ascii_only=plain))
    return lambda finding: print(line(finding, ascii_only=plain).plain, flush=True)


def line(finding: Finding, *, ascii_only: bool = False) -> Text:
    """The finding as text, with what to do on a line of its own."""
    mark, ascii_mark, colour = _MARKS[finding.level]
    text = Text.assemble(
        (ascii_mark if ascii_only else mark, colour),
        f" {finding.subject:{_SUBJECT_WIDTH}} ",
        _printable(finding.text),
    )
    if finding.todo:
        arrow = "->" if ascii_only else "→"
        text.append(f"\n  {'':{_SUBJECT_WIDTH}} {arrow} {_printable(finding.todo)}", "bold")
    if ascii_only:
        return Text(text.plain.encode("ascii", "replace").decode())
    return text


def summary(levels: Counter[Level]) -> str:
    """The last line: what it comes to."""
    bad, warnings = levels["bad"], levels["warning"]
    if bad:
        also = f", and {count(warnings, 'warning')}" if warnings else ""
        return f"Not well: {count(bad, 'thing')} to mend{also}."
    return f"All is well, with {count(warnings, 'warning')}." if warnings else "All is well."


def milliseconds(seconds: float) -> str:
    """A duration as people read it: ``0.4 ms``, ``12 ms``, ``1.2 s``."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def size(amount_bytes: float) -> str:
    """A number of bytes as people read it: ``512 bytes``, ``1.5 MiB``."""
    amount, unit = amount_bytes, "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "bytes" or amount >= 100 else f"{amount:.1f} {unit}"


def count(number: int, noun: str) -> str:
    """The number with its noun: ``1 gap``, ``2 gaps``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _takes_unicode() -> bool:
    try:
        "✓✗→".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _printable(text: str) -> str:
    """One line, with nothing in it that a terminal would obey: servers and bridges wrote parts of it."""
    return _CONTROL.sub(" ", text)
