"""How `tail` shows messages: as they are, as plain lines, or in colour on a terminal."""

import re
import sys
from collections.abc import Callable
from datetime import datetime

import msgspec
from rich.console import Console
from rich.text import Text

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class _Message(msgspec.Struct):
    """What is shown of a message from the bridge."""

    type: str
    id: str | None = None
    channel: str = ""
    payload: msgspec.Raw = msgspec.Raw(b"")
    late: bool = False


_message = msgspec.json.Decoder(_Message)


def printer(*, as_json: bool) -> Callable[[str], None]:
    """A function that prints one message at once. It may raise BrokenPipeError."""
    if as_json:
        return lambda message: print(message, flush=True)
    if sys.stdout.isatty():
        console = Console(highlight=False, soft_wrap=True)
        return lambda message: console.print(_line(message))
    return lambda message: print(_line(message).plain, flush=True)


def _line(message: str) -> Text:
    time = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    try:
        read = _message.decode(message)
    except msgspec.DecodeError:
        read = _Message(type="unreadable")
    if read.type != "notification":
        return Text.assemble((time, "dim"), " ", (_printable(message), "yellow"))
    return Text.assemble(
        (time, "dim"),
        " ",
        (_printable(read.channel), "bold cyan"),
        " ",
        (read.id or "-", "dim"),
        " ",
        _printable(bytes(read.payload).decode()),
        (" late" if read.late else "", "yellow"),
    )


def _printable(text: str) -> str:
    """Nothing that a terminal would obey."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
