"""Clients of a simulated worker: what the hub writes to their sockets is what the oracle reads."""

import itertools
from collections.abc import Callable, Sequence

import msgspec

from tests.support.oracle import Message, View

_message = msgspec.json.Decoder(dict)
_numbers = itertools.count()


class ClientSocket:
    """Takes everything at once. `committed` tells how much has been committed by now."""

    def __init__(self, view: View, committed: Callable[[], int]) -> None:
        self.view = view
        self._committed = committed

    def send(self, data: bytes) -> int:
        for message in _text_messages(data):
            if message["type"] == "subscribed":
                self.view.subscribed = self._committed()
            self.view.messages.append(message)
        return len(data)

    def sendmsg(self, views: Sequence[memoryview]) -> int:
        return sum(self.send(bytes(view)) for view in views)

    def setsockopt(self, *_: object) -> None: ...

    def shutdown(self, _: int) -> None: ...


def _text_messages(data: bytes) -> list[Message]:
    """The messages in a row of whole unmasked frames."""
    messages, at = [], 0
    while at < len(data):
        kind, size, at = data[at], data[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[at : at + width], "big"), at + width
        if kind == 0x81:
            messages.append(_message.decode(data[at : at + size]))
        at += size
    return messages
