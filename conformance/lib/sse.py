"""Server-sent events, read as the standard says, over the standard library's HTTP client."""

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Block:
    """One block of a stream. `event`, `id`, `data` and `retry` are None where it has no such line."""

    event: str | None
    id: str | None
    data: str | None
    retry: str | None
    comments: tuple[str, ...] = ()

    def json(self) -> Any:
        assert self.data is not None, self
        return json.loads(self.data)


class Stream:
    """An open stream."""

    def __init__(self, response: http.client.HTTPResponse, connection: http.client.HTTPConnection) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self._response = response
        self._connection = connection

    def block(self, seconds: float = 60.0) -> Block | None:
        """The next block; None at the end of the stream."""
        deadline = time.monotonic() + seconds
        lines: list[str] = []
        while True:
            self._timeout(max(0.01, deadline - time.monotonic()))
            raw = self._response.readline()
            if not raw:
                return None
            line = raw.decode().rstrip("\r\n")
            if line:
                lines.append(line)
            elif lines:
                return _block(lines)

    def message(self, seconds: float = 60.0) -> Block:
        """The next block with data that is no position."""
        while True:
            block = self.block(seconds)
            assert block is not None, "the stream ended"
            if block.data is not None and block.event != "position":
                return block

    def end(self, seconds: float = 60.0) -> list[Block]:
        """What comes until the stream ends."""
        blocks = []
        while (block := self.block(seconds)) is not None:
            blocks.append(block)
        return blocks

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def _timeout(self, seconds: float) -> None:
        if self._connection.sock is not None:
            self._connection.sock.settimeout(seconds)
            return
        raw = getattr(self._response.fp, "raw", None)  # the response owns the socket of a stream without a length
        if raw is not None:
            cast("Any", raw)._sock.settimeout(seconds)


@contextmanager
def stream(url: str, path: str, headers: Mapping[str, str] | None = None) -> Iterator[Stream]:
    """Ask for a stream; whatever the answer is, it can be looked at."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", path, headers={"Accept": "text/event-stream", **(headers or {})})
    opened = Stream(connection.getresponse(), connection)
    try:
        yield opened
    finally:
        opened.close()


def _block(lines: list[str]) -> Block:
    fields: dict[str, list[str]] = {}
    comments = []
    for line in lines:
        name, _, value = line.partition(":")
        if not name:
            comments.append(value.strip())
        else:
            fields.setdefault(name, []).append(value.removeprefix(" "))
    data = "\n".join(fields["data"]) if "data" in fields else None

    def last(name: str) -> str | None:
        return fields[name][-1] if name in fields else None

    return Block(last("event"), last("id"), data, last("retry"), tuple(comments))
