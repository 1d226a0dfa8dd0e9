"""Many WebSocket clients in one process of C: as cheap as can be, so that the server is what is measured.

    with Receiver(port, BRIDGE) as receiver:
        receiver.connect(1000)
        receiver.expect(5)              # from now on; every client is to have five messages
        …publish…
        arrival = receiver.wait(10)     # Arrival(first_ns, last_ns, messages), CLOCK_MONOTONIC

A message is a WebSocket frame that begins with the form's `prefix` (`unit`: where frames hold several messages of equal
size, that size). Pings are answered. All methods raise BenchmarkFailed where a client is refused or disconnected.
"""

import array
import dataclasses
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.lib.compiled import compiled
from benchmarks.lib.failure import BenchmarkFailed
from benchmarks.lib.lines import ANSWER_SECONDS, LineProcess


@dataclasses.dataclass(frozen=True)
class ClientForm:
    """How a client of some server connects, when it is ready, and what a message is."""

    path: str = "/"
    ready: str = ""
    """Text that a client must have been sent before it counts as connected; empty: the handshake is enough."""
    prefix: str = ""
    """How messages begin; empty: every text or binary frame is one."""
    hello: bytes = b""
    """What a client sends after the handshake, as complete frames."""
    unit: int = 0
    """Bytes of a message, where a frame holds several or parts; 0: a frame is a message."""
    header: str = ""
    """One more line of the request, without its end."""


BRIDGE = ClientForm("/ws/match_change", ready='"subscribed"', prefix='{"type":"notification"')


@dataclasses.dataclass(frozen=True)
class Connected:
    """How long the handshakes took, from the first connect to the last client that was ready."""

    seconds: float
    half_seconds: float
    """Until half of the clients were ready."""


@dataclasses.dataclass(frozen=True)
class Arrival:
    """When what was expected came: nanoseconds of CLOCK_MONOTONIC (`time.monotonic_ns()`)."""

    first_ns: int
    """The first byte that any client got."""
    last_ns: int
    """The last client had its last message."""
    messages: int
    """All that came to all clients."""

    @property
    def seconds(self) -> float:
        return (self.last_ns - self.first_ns) / 1e9


@dataclasses.dataclass(frozen=True)
class Counts:
    """Since the last `expect`, of clients that are connected and not stalled."""

    connected: int
    disconnected: int
    least: int
    most: int
    messages: int
    bytes: int


class Receiver(LineProcess):
    """`port`: the server's, on `host` (an IPv4 address). `timing`: record the latency of messages that hold
    `"sent":NANOSECONDS` within their first 512 bytes. `receive_buffer_bytes`: SO_RCVBUF, 0 for the kernel's default."""

    def __init__(
        self,
        port: int,
        form: ClientForm = BRIDGE,
        *,
        host: str = "127.0.0.1",
        in_flight: int = 500,
        timing: bool = False,
        receive_buffer_bytes: int = 0,
    ) -> None:
        super().__init__([compiled("receiver")], "receiver")
        wanted = {
            "host": host,
            "port": port,
            "path": form.path,
            "ready": form.ready,
            "prefix": form.prefix,
            "hello": form.hello.hex(),
            "unit": form.unit,
            "header": form.header,
            "in_flight": in_flight,
            "timing": int(timing),
            "receive_buffer": receive_buffer_bytes,
        }
        for key, value in wanted.items():
            self._set(key, value)

    def _set(self, key: str, value: object) -> None:
        self.ask(f"set {key} {value}", "ok")

    def connect(self, count: int, paths: Iterable[str] | None = None, seconds: float = ANSWER_SECONDS) -> Connected:
        """That many more clients, each with a path of its own where `paths` are given; returns when all are ready."""
        if paths is None:
            self._set("paths", "")
            total, half = self.ask(f"connect {count}", "connected", seconds)
        else:
            with tempfile.NamedTemporaryFile("w", suffix=".paths") as file:
                file.writelines(f"{path}\n" for path in paths)
                file.flush()
                self._set("paths", file.name)
                total, half = self.ask(f"connect {count}", "connected", seconds)
        return Connected(int(total) / 1e9, int(half) / 1e9)

    def expect(self, each: int) -> None:
        """Count from zero; `wait` returns when every client (stalled ones aside) has had so many messages."""
        self.ask(f"expect {each}", "armed")

    def expect_total(self, messages: int) -> None:
        """Count from zero; `wait` returns when all clients together have had so many messages."""
        self.ask(f"expect_total {messages}", "armed")

    def wait(self, seconds: float) -> Arrival:
        """What was expected has come; raises where it has not within the time."""
        try:
            first, last, messages = self.answer("done", seconds)
        except BenchmarkFailed as failure:
            if "no answer" not in str(failure):
                raise
            raise BenchmarkFailed(f"not everything came within {seconds:g} s: {self.counts()}") from None
        return Arrival(int(first), int(last), int(messages))

    def counts(self) -> Counts:
        """What has come so far."""
        return Counts(*map(int, self.ask("counts", "counts")))

    def latencies(self) -> "array.array[int]":
        """Nanoseconds from `sent` to the read that brought it, of all messages since the last call (`timing`)."""
        number, name = tempfile.mkstemp(suffix=".latencies")
        os.close(number)
        try:
            count = int(self.ask(f"latencies {name}", "latencies")[0])
            values = array.array("Q")
            with Path(name).open("rb") as file:
                values.fromfile(file, count)
        finally:
            Path(name).unlink()
        return values

    def stall(self, count: int) -> None:
        """The newest `count` clients stop reading; 0: all read again."""
        self.ask(f"stall {count}", "ok")

    def disconnect(self, count: int | None = None) -> None:
        """Reset the newest `count` connections; None: all."""
        self.ask("disconnect" if count is None else f"disconnect {count}", "ok")
