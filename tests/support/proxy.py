"""A TCP proxy before a server on 127.0.0.1, for everything a network can do: cut, refuse, stall, delay, go deaf.

One thread forwards for all connections; faults are set from the test's thread and hold at once. What is held is not
read, so it stays in the kernel as on a dead route: it arrives when the proxy heals, or never when it is cut.
"""

import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Literal

Flow = Literal["forward", "hold"]
Filter = Callable[[bytes], bytes]

QUEUE_BYTES = 1 << 20
"""How much one direction of a connection may wait for its delay before the proxy stops reading."""
_PEEK_BYTES = 4096
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Weather:
    """What happens to bytes: `up` goes to the server, `down` comes from it. `deaf` replaces what comes down."""

    up: Flow = "forward"
    down: Flow = "forward"
    delay_seconds: float = 0.0
    deaf: Filter | None = None


FAIR = Weather()
STALLED = Weather(up="hold", down="hold")
HALF_OPEN = Weather(down="hold")
"""What the client sends arrives; it hears nothing."""


@dataclass
class _Pipe:
    """One direction of one connection."""

    source: socket.socket
    target: socket.socket
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    queued_bytes: int = 0
    ended: bool = False
    shut: bool = False

    def take(self, wait_seconds: float, change: Filter | None) -> bytes:
        """Read what is there into the queue."""
        data = self.source.recv(65536)
        self.ended = not data
        kept = change(data) if change and data else data
        if kept:
            self.queue.append((time.monotonic() + wait_seconds, kept))
            self.queued_bytes += len(kept)
        return data

    def give(self) -> None:
        """Write what is due, as much as the other side takes."""
        now = time.monotonic()
        while self.queue and self.queue[0][0] <= now:
            due, data = self.queue.popleft()
            sent = self.target.send(data)
            self.queued_bytes -= sent
            if sent < len(data):
                self.queue.appendleft((due, data[sent:]))
                return
        if self.ended and not self.queue and not self.shut:
            self.shut = True
            self.target.shutdown(socket.SHUT_WR)


class Line:
    """One proxied connection. `said` is the beginning of what the client sent, to tell connections apart."""

    def __init__(self, client: socket.socket, server: socket.socket, weather: Weather) -> None:
        self.weather = weather
        self.said = b""
        self.up = _Pipe(client, server)
        self.down = _Pipe(server, client)

    def forward(self, readable: set[int]) -> None:
        """Move what can be moved; raises OSError where one side is gone."""
        delay = self.weather.delay_seconds
        if self.up.source.fileno() in readable and self.reads(self.up):
            self.said = (self.said + self.up.take(delay, None))[:_PEEK_BYTES]
        if self.down.source.fileno() in readable and self.reads(self.down):
            self.down.take(delay, self.weather.deaf)
        for pipe in (self.up, self.down):
            if not self.held(pipe):
                with suppress(BlockingIOError):
                    pipe.give()

    def held(self, pipe: _Pipe) -> bool:
        return (self.weather.up if pipe is self.up else self.weather.down) == "hold"

    def reads(self, pipe: _Pipe) -> bool:
        return not pipe.ended and pipe.queued_bytes < QUEUE_BYTES and not self.held(pipe)

    @property
    def over(self) -> bool:
        return self.up.shut and self.down.shut

    def close(self, *, reset: bool) -> None:
        for end in (self.up.source, self.up.target):
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()


Chooser = Callable[[Line], bool]


def everyone(line: Line) -> bool:
    return True


def subscribers(line: Line) -> bool:
    """The connections to Redis that subscribed."""
    return b"SUBSCRIBE" in line.said


def only_pongs(data: bytes) -> bytes:
    """Nothing that a subscribed link to Redis (RESP 2) hears but the answers to its PINGs."""
    pong = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
    return pong * data.count(pong)


class Proxy:
    """Listens on `port`. Every fault is for the connections that `chooser` picks, and lasts until `heal`."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self._weather = FAIR
        self._lines: list[Line] = []
        self._lock = threading.Lock()
        self._wake_end, self._waker = socket.socketpair()
        self._listener: socket.socket | None = self._listen(0)
        self.port = int(self._listener.getsockname()[1])
        self._running = True
        self._thread = threading.Thread(target=self._run, name=f"proxy of {target_port}", daemon=True)
        self._thread.start()

    def impose(self, weather: Weather, chooser: Chooser = everyone, *, also_new: bool = True) -> None:
        """This weather for the chosen connections, and for those that come (`also_new`)."""
        with self._changing():
            if also_new:
                self._weather = weather
            for line in filter(chooser, self._lines):
                line.weather = replace(weather)

    def cut(self, chooser: Chooser = everyone) -> int:
        """Reset the chosen connections, both sides; how many there were."""
        with self._changing():
            chosen = [line for line in self._lines if chooser(line)]
            for line in chosen:
                self._end(line, reset=True)
            return len(chosen)

    def refuse(self) -> None:
        """Let nobody in, and reset whoever is: the server is gone."""
        with self._changing():
            if self._listener is not None:
                self._listener.close()
                self._listener = None
        self.cut()

    def heal(self) -> None:
        """Forward everything again, for those who are connected and those who come."""
        with self._changing():
            self._weather = FAIR
            for line in self._lines:
                line.weather = FAIR
            if self._listener is None:
                self._listener = self._listen(self.port)

    def close(self) -> None:
        self._running = False
        self.refuse()
        self._thread.join()
        self._wake_end.close()
        self._waker.close()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            yield
        self._waker.send(b"x")

    def _run(self) -> None:
        while self._running:
            readable = self._wait()
            with self._lock:
                if self._wake_end.fileno() in readable:
                    self._wake_end.recv(4096)
                if self._listener is not None and self._listener.fileno() in readable:
                    self._accept(self._listener)
                for line in list(self._lines):
                    try:
                        line.forward(readable)
                    except OSError:
                        self._end(line, reset=True)
                    else:
                        if line.over:
                            self._end(line, reset=False)

    def _wait(self) -> set[int]:
        """The descriptors that can be read, once any can be, or something is due or can be written."""
        poll, due = select.poll(), None
        with self._lock:
            poll.register(self._wake_end, select.POLLIN)
            if self._listener is not None:
                poll.register(self._listener, select.POLLIN)
            wanted: dict[socket.socket, int] = {}
            for line in self._lines:
                for pipe in (line.up, line.down):
                    if line.reads(pipe):
                        wanted[pipe.source] = wanted.get(pipe.source, 0) | select.POLLIN
                    if pipe.queue and not line.held(pipe):
                        at = pipe.queue[0][0]
                        if at <= time.monotonic():
                            wanted[pipe.target] = wanted.get(pipe.target, 0) | select.POLLOUT
                        else:
                            due = min(due or at, at)
            for end, events in wanted.items():
                poll.register(end, events)
        timeout = None if due is None else max(0.0, due - time.monotonic()) * 1000 + 1
        return {descriptor for descriptor, events in poll.poll(timeout) if events & ~select.POLLOUT}

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self.target_port), timeout=30)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines.append(Line(client, server, self._weather))

    def _end(self, line: Line, *, reset: bool) -> None:
        line.close(reset=reset)
        self._lines.remove(line)

    def _listen(self, port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", port), backlog=64)


@contextmanager
def proxy_of(target_port: int) -> Iterator[Proxy]:
    """A proxy before this port of 127.0.0.1; all connections are reset at the end."""
    proxy = Proxy(target_port)
    try:
        yield proxy
    finally:
        proxy.close()
