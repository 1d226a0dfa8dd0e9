"""Clients that note when each event came, and in which order, as one small program in C: `probe.c`.

`clients` connects WebSockets or event streams. `bare_listen` and `bare_subscribe` are what a notification costs without
a bridge: a session of PostgreSQL or of Redis, opened here, and then read by the same program. An event is known by the
`"n":NUMBER` in its payload, as `sender` makes them. `receiver` holds more clients for less, and looks at nothing.
"""

import contextlib
import dataclasses
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from benchmarks.lib.compiled import compiled
from benchmarks.lib.lines import ANSWER_SECONDS, LineProcess
from benchmarks.lib.sender import CHANNEL, Times, read_times, session

Kind = Literal["ws", "sse"]


@dataclasses.dataclass(frozen=True)
class Seen:
    """What came to all clients of a probe together since the last reset."""

    events: int
    disorder: int
    """Events whose number was not the one after the last."""
    repeated: int
    """Events that a recorded client had before."""
    late: int
    gaps: int
    """Messages that announce a final one."""
    pending: int
    """Messages that announce one which late events may still fill."""
    closed: int
    """Clients disconnected since the probe began."""
    bytes: int
    last_ns: int
    """When the last event came."""

    @property
    def flawless(self) -> bool:
        """Everything in order, nothing twice, no gap, nobody disconnected."""
        return not (self.disorder or self.repeated or self.late or self.gaps or self.pending or self.closed)


class Probe(LineProcess):
    """A running program whose clients are all connected. Its methods raise BenchmarkFailed where it does not answer."""

    def __init__(self, arguments: Sequence[object], capacity: int, sockets: Sequence[int] = ()) -> None:
        super().__init__([compiled("probe"), *map(str, arguments)], "probe", sockets=sockets)
        self._capacity = max(1, capacity)
        try:
            self.connected_seconds = int(self.answer("ready")[0]) / 1e9
            """From the first connect until the last client was told `subscribed`."""
        except BaseException:
            self.close()
            raise

    def wait(self, events: int, seconds: float) -> Seen:
        """Until so many have come to all clients together, or the time is over."""
        self.tell(f"wait {events} {seconds}")
        return Seen(*map(int, self.answer("state", seconds + ANSWER_SECONDS)))

    def state(self) -> Seen:
        return self._do("state")

    def reset(self) -> Seen:
        return self._do("reset")

    def stall(self, first: int, count: int) -> None:
        """Read no more from these clients."""
        self._do(f"stall {first} {count}")

    def end(self, first: int, count: int) -> None:
        """Close these clients."""
        self._do(f"end {first} {count}")

    def times(self, count: int) -> list[Times]:
        """For each recorded client when the numbers below `count` came."""
        with tempfile.TemporaryDirectory() as directory:
            self._do(f"dump {directory}/times")
            values = read_times(Path(directory) / "times")
        return [values[start : start + count] for start in range(0, len(values), self._capacity)]

    def handshakes(self) -> list[float]:
        """Seconds from the first connect until each client was told `subscribed`, in order."""
        with tempfile.TemporaryDirectory() as directory:
            self._do(f"handshakes {directory}/times")
            return sorted(value / 1e9 for value in read_times(Path(directory) / "times"))

    def _do(self, command: str) -> Seen:
        return Seen(*map(int, self.ask(command, "state")))


@contextlib.contextmanager
def clients(
    port: int,
    count: int,
    targets: Sequence[str] = (),
    *,
    kind: Kind = "ws",
    recorded: int = 0,
    capacity: int = 0,
    receive_buffer_bytes: int = 0,
) -> Iterator[Probe]:
    """So many clients that were told `subscribed`; the targets (default: the whole channel) are taken in turn.

    Of the first `recorded` ones the times of the numbers below `capacity` are kept.
    """
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("\n".join(targets or [f"/{kind}/{CHANNEL}"]) + "\n")
        file.flush()
        probe = Probe([kind, port, count, file.name, recorded, max(1, capacity), receive_buffer_bytes], capacity)
    with probe:
        yield probe


@contextlib.contextmanager
def bare_listen(database_url: str, capacity: int, sessions: int = 1) -> Iterator[Probe]:
    """Bare LISTENs: psycopg opens the sessions, and then nothing stands between the sockets and the probe."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(session(database_url)) for _ in range(sessions)]
        for each in opened:
            each.execute(f'LISTEN "{CHANNEL}"'.encode())
        yield stack.enter_context(_bare([each.fileno() for each in opened], capacity))


@contextlib.contextmanager
def bare_subscribe(redis_url: str, capacity: int, subscriptions: int = 1) -> Iterator[Probe]:
    """Bare SUBSCRIBEs to a channel of Redis with the name CHANNEL."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(redis_socket(redis_url)) for _ in range(subscriptions)]
        for each in opened:
            each.sendall(f"SUBSCRIBE {CHANNEL}\r\n".encode())
            each.recv(1000)
        yield stack.enter_context(_bare([each.fileno() for each in opened], capacity))


def redis_socket(redis_url: str) -> socket.socket:
    """A connection without TLS or password."""
    parts = urlsplit(redis_url)
    if parts.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(parts.path)
        return connection
    return socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), 10)


def _bare(sockets: Sequence[int], capacity: int) -> Probe:
    return Probe(["raw", ",".join(map(str, sockets)), len(sockets), max(1, capacity)], capacity, sockets)
