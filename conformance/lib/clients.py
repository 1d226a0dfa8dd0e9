"""WebSocket clients that others wrote, behind one face: Python's `websockets`, Node's `ws`, a browser's own."""

import json
import os
import queue
import socket
import ssl
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import websockets.exceptions
import websockets.sync.client
from playwright.sync_api import Browser, Page
from websockets.typing import Origin, Subprotocol

SECONDS = 60.0
SCRIPT = Path(__file__).parents[1] / "clients" / "ws.mjs"


@dataclass(frozen=True)
class Message:
    """A text frame, as it came."""

    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Closed:
    """How a connection ended."""

    code: int
    reason: str


class Refused(Exception):
    """A handshake that failed. `status` is 0 where the client is not told (a browser)."""

    def __init__(self, status: int, text: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
        self.headers = {name.lower(): value for name, value in (headers or {}).items()}


class WebSocketClient(ABC):
    """One open WebSocket. What is not asked for waits."""

    protocol: str | None = None
    subscribed: Any = None
    """The first message, where the connection was opened by `Clients.open`."""

    @abstractmethod
    def take(self, seconds: float) -> Message | Closed | None:
        """What comes next; None where nothing does in time. After `Closed` nothing comes."""

    @abstractmethod
    def send_text(self, text: str) -> None:
        """Send a text frame; nothing where the connection has ended, as a browser does: `take` tells how it ended."""

    @abstractmethod
    def close(self) -> None:
        """End the connection from this side, and forget it."""

    def send(self, **message: object) -> None:
        self.send_text(json.dumps(message))

    def next_text(self, seconds: float = SECONDS) -> str:
        """The text of the next message that is no position."""
        deadline = time.monotonic() + seconds
        while True:
            taken = self.take(max(0.0, deadline - time.monotonic()))
            assert isinstance(taken, Message), f"{taken or 'nothing'} came in place of a message"
            if '"type":"position"' not in taken.text[:40]:
                return taken.text

    def next(self, seconds: float = SECONDS) -> Any:
        """The next message that is no position."""
        return json.loads(self.next_text(seconds))

    def payloads(self, count: int, seconds: float = SECONDS) -> list[Any]:
        """The payloads of the next messages, which are notifications."""
        messages = [self.next(seconds) for _ in range(count)]
        assert all(message["type"] == "notification" for message in messages), messages
        return [message["payload"] for message in messages]

    def until(self, kind: str, seconds: float = SECONDS) -> Any:
        """The next message of this type, whatever comes before it."""
        deadline = time.monotonic() + seconds
        while True:
            message = self.next(max(0.0, deadline - time.monotonic()))
            if message["type"] == kind:
                return message

    def closed(self, seconds: float = SECONDS) -> Closed:
        """How the connection ends, whatever comes before that."""
        deadline = time.monotonic() + seconds
        while True:
            taken = self.take(max(0.0, deadline - time.monotonic()))
            assert taken is not None, f"still open after {seconds:g} s"
            if isinstance(taken, Closed):
                return taken

    def silent(self, seconds: float = 0.5) -> None:
        """Fail if anything but a position comes."""
        deadline = time.monotonic() + seconds
        while (taken := self.take(max(0.0, deadline - time.monotonic()))) is not None:
            assert isinstance(taken, Message), taken
            assert json.loads(taken.text)["type"] == "position", taken


class PythonClient(WebSocketClient):
    """`websockets`, the synchronous client."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        protocols: Sequence[str] = (),
        origin: str | None = None,
        compression: str | None = "deflate",
        max_queue: int | None = None,
        sock: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._stack = ExitStack()
        try:
            connect = websockets.sync.client.connect(
                url,
                sock=sock,
                ssl=tls,
                additional_headers=dict(headers or {}),
                subprotocols=[Subprotocol(name) for name in protocols] or None,
                origin=Origin(origin) if origin else None,
                compression=compression,
                max_size=None,
                max_queue=max_queue,
                proxy=None,
                open_timeout=SECONDS,
                ping_interval=None,  # who does not read gets no pongs, and is to be ended by the server
                close_timeout=2,
            )
            self.connection = self._stack.enter_context(connect)
        except websockets.exceptions.InvalidStatus as error:
            response = error.response
            raise Refused(response.status_code, response.body.decode(), dict(response.headers)) from None
        self.protocol = self.connection.subprotocol

    def take(self, seconds: float) -> Message | Closed | None:
        try:
            data = self.connection.recv(max(seconds, 0.001))
        except TimeoutError:
            return None
        except websockets.exceptions.ConnectionClosed as error:
            return Closed(error.rcvd.code, error.rcvd.reason) if error.rcvd else Closed(1006, str(error))
        assert isinstance(data, str), "messages are text frames"
        return Message(data)

    def send_text(self, text: str) -> None:
        with suppress(websockets.exceptions.ConnectionClosed):
            self.connection.send(text)

    def close(self) -> None:
        self._stack.close()


class NodeClient(WebSocketClient):
    """`ws`, in a process of its own."""

    def __init__(
        self, node_modules: Path, url: str, *, headers: Mapping[str, str] | None = None, protocols: Sequence[str] = ()
    ) -> None:
        options = {"headers": dict(headers or {}), "protocols": list(protocols)}
        self._process = subprocess.Popen(
            ["node", str(SCRIPT), url, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={"CONFORMANCE_NODE_MODULES": str(node_modules), "PATH": os.environ["PATH"]},
        )
        self._events: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        first = self._events.get(timeout=SECONDS)
        if first["event"] != "open":
            self.close()
            raise Refused(first.get("status", 0), first.get("body", str(first)), first.get("headers"))
        self.protocol = first["protocol"] or None

    def take(self, seconds: float) -> Message | Closed | None:
        while True:
            try:
                event = self._events.get(timeout=max(seconds, 0.001))
            except queue.Empty:
                return None
            if event["event"] == "close":
                return Closed(event["code"], event["reason"])
            if event["event"] == "message":
                assert not event["binary"], "messages are text frames"
                return Message(event["text"])

    def send_text(self, text: str) -> None:
        self._say({"send": text})

    def close(self) -> None:
        self._process.kill()
        self._process.wait(SECONDS)
        self._thread.join(SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _say(self, command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):  # else it was killed while it wrote
                self._events.put(json.loads(line))


_BROWSER_OPEN = """([url, protocols]) => {
  window.events = [];
  window.socket = protocols.length ? new WebSocket(url, protocols) : new WebSocket(url);
  socket.onopen = () => events.push({event: "open", protocol: socket.protocol});
  socket.onmessage = (message) => events.push({event: "message", text: message.data});
  socket.onclose = (close) => events.push({event: "close", code: close.code, reason: close.reason});
}"""


def new_page(browser: Browser) -> Page:
    """A page on which everything may take as long as elsewhere."""
    page = browser.new_page()
    page.set_default_timeout(SECONDS * 1000)
    return page


class BrowserClient(WebSocketClient):
    """A browser's own WebSocket, on a page of the server's own origin."""

    def __init__(self, browser: Browser, url: str, *, protocols: Sequence[str] = (), page_url: str = "") -> None:
        self._page = new_page(browser)
        try:
            self._page.goto(page_url or url.replace("ws", "http", 1).partition("/ws")[0] + "/health")
            self._page.evaluate(_BROWSER_OPEN, [url, list(protocols)])
            first = self._event(SECONDS)
            if first is None or first["event"] != "open":
                raise Refused(0, str(first))
        except BaseException:
            self.close()
            raise
        self.protocol = first["protocol"] or None

    def take(self, seconds: float) -> Message | Closed | None:
        event = self._event(seconds)
        if event is None:
            return None
        if event["event"] == "close":
            return Closed(event["code"], event["reason"])
        assert isinstance(event["text"], str), "messages are text frames"
        return Message(event["text"])

    def send_text(self, text: str) -> None:
        self._page.evaluate("(text) => socket.send(text)", text)

    def close(self) -> None:
        self._page.close()

    def _event(self, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while (event := self._page.evaluate("() => events.shift() ?? null")) is None:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)
        return event


class EventSourceClient:
    """A browser's own EventSource, on a page of the server's own origin. Events are dicts with `type`, `data`, `id`."""

    _OPEN = """(url) => {
      window.events = [];
      window.source = new EventSource(url);
      const note = (event) => events.push({type: event.type, data: event.data, id: event.lastEventId});
      for (const type of ["message", "subscribed", "gap", "filled", "error"]) source.addEventListener(type, note);
      source.addEventListener("open", () => events.push({type: "open"}));
    }"""

    def __init__(self, browser: Browser, url: str, *, page_url: str) -> None:
        self._page = new_page(browser)
        self._page.goto(page_url)
        self._page.evaluate(self._OPEN, url)

    def next(self, seconds: float = SECONDS) -> Any:
        """The next event."""
        deadline = time.monotonic() + seconds
        while (event := self._page.evaluate("() => events.shift() ?? null")) is None:
            assert time.monotonic() < deadline, f"no event within {seconds:g} s"
            time.sleep(0.02)
        return event

    def until(self, kind: str, seconds: float = SECONDS) -> Any:
        """The next event of this type, whatever comes before it."""
        deadline = time.monotonic() + seconds
        while True:
            event = self.next(max(0.0, deadline - time.monotonic()))
            if event["type"] == kind:
                return event

    def close(self) -> None:
        self._page.close()
