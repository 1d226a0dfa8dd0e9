"""The types of what fixtures give to the checks."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from conformance.lib.clients import EventSourceClient, WebSocketClient
from conformance.lib.given import Place
from conformance.lib.story import Journey

KINDS = ("python", "node", "browser")
"""The kinds of WebSocket clients."""


class Open(Protocol):
    """Opens a WebSocket at a server, by a kind of client, and waits for `subscribed`."""

    def __call__(self, place: Place, path: str = "/ws", kind: str = "python", **options: Any) -> WebSocketClient: ...


OpenSource = Callable[[Place, str], EventSourceClient]
"""Opens a browser's EventSource."""


class Begin(Protocol):
    """A context: a writer, and travellers that begin at each server in turn, everything flowing."""

    def __call__(self, *, per_second: float = 100.0) -> AbstractContextManager[Journey]: ...
