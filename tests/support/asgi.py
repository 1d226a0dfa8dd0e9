"""The other side of an ASGI application: requests made by hand, and what is sent back, on any event loop.

The feed has no servers: what it brings is delivered by hand.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.types import ASGIApp, Message

from bridge.background import BackgroundTasks
from bridge.core import events
from bridge.core.events import Notification
from bridge.core.position import Position
from bridge.inprocess import EventFeed
from bridge.settings import Settings

WAIT_SECONDS = 30.0
TERM = 100

Header = tuple[bytes, bytes]


class HandFed(EventFeed):
    """A feed that hears what the test says."""

    def __init__(self, tasks: BackgroundTasks, **settings: Any) -> None:
        super().__init__(Settings(**{"database_url": "postgresql://nowhere/db", "channels": "a,b"} | settings), None)
        self._tasks = tasks
        self._seq = 0

    def go_live(self) -> None:
        self._delivery.begin(Position(TERM, 0))
        self.hub.set_live(Position(TERM, 0))

    def deliver(self, count: int = 1, channel: str = "a", **fields: object) -> None:
        """So many notifications, whose payloads hold these fields and their numbers."""
        first, self._seq = self._seq + 1, self._seq + count
        self._delivery.offer(
            [
                events.event(Position(TERM, seq), Notification(channel, json.dumps({"n": seq, **fields}).encode()))
                for seq in range(first, first + count)
            ]
        )


@asynccontextmanager
async def hand_fed(*, live: bool = True, **settings: Any) -> AsyncIterator[HandFed]:
    """A feed for the body; closed at its end, when no task may be left that does not end by itself."""
    async with anyio.create_task_group() as tasks:
        feed = HandFed(BackgroundTasks(tasks), **settings)
        if live:
            feed.go_live()
        yield feed
        assert feed.hub.client_count == 0, "a client was left behind"
        assert feed.hub.buffers.total_bytes == 0, "something is held for nobody"
        feed.stop()


class Exchange:
    """One request to an application, and what it has sent back so far."""

    def __init__(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.sent: list[Message] = []
        self.returned = False
        self.blocked = False
        """While this is set, sending waits: the peer does not read."""
        self.stubborn = False
        """Whether sending cannot be cancelled, as with some servers."""
        self.failing: Exception | None = None
        """What sending raises: the peer has gone."""
        self._app = app
        self._said: list[Message] = []
        self._news = anyio.Event()

    def say(self, *messages: Message) -> None:
        """Let the application receive these."""
        self._said += messages
        self.poke()

    def poke(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def run(self) -> None:
        try:
            await self._app(self.scope, self._receive, self._send)
        finally:
            self.returned = True
            self.poke()

    async def until(self, condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
        """Wait until this holds; looked at whenever something happens."""
        try:
            with anyio.fail_after(seconds):
                while not condition():
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"it has sent only {str(self.sent)[-2000:]}") from None

    async def ended(self, seconds: float = WAIT_SECONDS) -> None:
        await self.until(lambda: self.returned, seconds)

    async def _receive(self) -> Message:
        while not self._said:
            await self._news.wait()
        return self._said.pop(0)

    async def _send(self, message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        with anyio.CancelScope(shield=self.stubborn):
            while self.blocked:
                await self._news.wait()
        if self.failing is not None:
            raise self.failing
        self.sent.append(message)
        self.poke()


class Socket(Exchange):
    """A WebSocket as its client sees it."""

    answers_close = True
    """Whether a close is answered, and the application told that it was."""

    @property
    def unheard(self) -> int:
        """How many messages wait for the application."""
        return len(self._said)

    @property
    def accepted(self) -> bool:
        return any(message["type"] == "websocket.accept" for message in self.sent)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(message["text"]) for message in self.sent if message["type"] == "websocket.send"]

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]

    @property
    def numbers(self) -> list[int]:
        return [message["payload"]["n"] for message in self.messages if message["type"] == "notification"]

    @property
    def close_code(self) -> int | None:
        return next((message["code"] for message in self.sent if message["type"] == "websocket.close"), None)

    @property
    def close_reason(self) -> str:
        return next((message["reason"] for message in self.sent if message["type"] == "websocket.close"), "")

    @property
    def status(self) -> int | None:
        """Of an answer that refuses the handshake."""
        kind = "websocket.http.response.start"
        return next((message["status"] for message in self.sent if message["type"] == kind), None)

    def tell(self, *messages: object) -> None:
        """Say these, as JSON."""
        self.say(*({"type": "websocket.receive", "text": json.dumps(message)} for message in messages))

    def leave(self) -> None:
        """The connection is gone: nothing waits for it any more."""
        self.blocked = False
        self.say({"type": "websocket.disconnect", "code": 1005})

    async def _send(self, message: Message) -> None:
        await super()._send(message)
        if message["type"] == "websocket.close" and self.answers_close:
            self.say({"type": "websocket.disconnect", "code": message["code"]})

    async def begun(self) -> None:
        """The handshake is answered, one way or the other."""
        await self.until(lambda: self.accepted or self.returned)

    async def heard(self, count: int) -> list[dict[str, Any]]:
        """The messages, once there are so many."""
        await self.until(lambda: len(self.messages) >= count)
        return self.messages


class Stream(Exchange):
    """A request over HTTP as its client sees it."""

    @property
    def status(self) -> int | None:
        return next((message["status"] for message in self.sent if message["type"] == "http.response.start"), None)

    @property
    def headers(self) -> dict[str, str]:
        head = next(message for message in self.sent if message["type"] == "http.response.start")
        return {name.decode(): value.decode() for name, value in head["headers"]}

    @property
    def body(self) -> str:
        return b"".join(
            message.get("body", b"") for message in self.sent if message["type"] == "http.response.body"
        ).decode()

    @property
    def whole(self) -> bool:
        """Whether the end of the body was sent."""
        return any(m["type"] == "http.response.body" and not m.get("more_body", False) for m in self.sent)

    def leave(self) -> None:
        """As a WebSocket's."""
        self.blocked = False
        self.say({"type": "http.disconnect"})

    async def body_holds(self, text: str) -> None:
        await self.until(lambda: text in self.body)


def websocket_scope(
    url: str, *headers: Header, subprotocols: Iterable[str] = (), among_headers: bool = True, answers: bool = True
) -> Any:
    """A handshake; `answers` says whether the server can answer it with a status, and `among_headers` whether it leaves
    the subprotocols there too."""
    offered = ", ".join(subprotocols)
    more = [(b"sec-websocket-protocol", offered.encode())] if offered and among_headers else []
    extensions: dict[str, Any] = {"websocket.http.response": {}} if answers else {}
    return _scope("websocket", url, [*headers, *more]) | {
        "subprotocols": list(subprotocols),
        "extensions": extensions,
    }


def http_scope(url: str, *headers: Header, method: str = "GET") -> Any:
    return _scope("http", url, headers) | {"method": method}


@asynccontextmanager
async def socket(app: ASGIApp, url: str = "/ws", *headers: Header, **more: Any) -> AsyncIterator[Socket]:
    """A WebSocket for the body. The client goes at its end, and the application must return then."""
    exchange = Socket(app, websocket_scope(url, *headers, **more))
    exchange.say({"type": "websocket.connect"})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange.run)
        yield exchange
        exchange.leave()
        await exchange.ended()


@asynccontextmanager
async def stream(app: ASGIApp, url: str = "/sse", *headers: Header, method: str = "GET") -> AsyncIterator[Stream]:
    """A request for the body; as `socket`."""
    exchange = Stream(app, http_scope(url, *headers, method=method))
    exchange.say({"type": "http.request", "body": b"", "more_body": False})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange.run)
        yield exchange
        exchange.leave()
        await exchange.ended()


def _scope(kind: str, url: str, headers: Iterable[Header]) -> dict[str, Any]:
    path, _, query = url.partition("?")
    named = dict(headers)
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost:8000"), *named.items()] if b"host" not in named else list(named.items()),
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
