"""What a browser makes of a stream of server-sent events: the algorithm of the HTML standard (9.2.6), line by line."""

import re
from dataclasses import dataclass

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class Block:
    """An event as it is dispatched."""

    type: str
    data: str
    last_event_id: str


class EventSource:
    """Feed it what arrives; `blocks` are the events so far."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.last_event_id = ""
        self.retry_ms: int | None = None
        self._buffer = b""
        self._id = ""
        self._type = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> None:
        self._buffer += data
        whole, end, self._buffer = self._buffer.rpartition(b"\n")
        for line in _LINE_END.split((whole + end).decode())[:-1]:
            self._read(line)

    def _read(self, line: str) -> None:
        if not line:
            self._dispatch()
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._type = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)

    def _dispatch(self) -> None:
        self.last_event_id = self._id
        if self._data:
            self.blocks.append(Block(self._type or "message", "\n".join(self._data), self._id))
        self._type, self._data = "", []
