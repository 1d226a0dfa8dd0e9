"""A listener process of a pod without PostgreSQL: a tape, a timeline and a session that a test plays."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from bridge.core.events import Heard, Marker, Notification
from bridge.core.position import Position, Timeline
from bridge.pod.assignment import Assignment
from bridge.relay.outlet import Outlet
from bridge.relay.relay import Relay
from bridge.relay.tape import Tape
from bridge.settings import Settings
from bridge.telemetry import Arrivals, Observable

DIGEST = "0a1b2c3d"


def assignment(control: int = -1) -> Assignment:
    """Of a pod's only worker, with this descriptor of its channel to the supervisor."""
    return Assignment(
        role="worker",
        name="worker 1",
        settings=Settings(),
        control=control,
        table=-1,
        rows=1,
        row=0,
        listeners=(),
        with_listener=True,
        embedded=False,
        pod_socket=Path("listener.sock"),
        nonce="0",
    )


@dataclass
class FakeListener:
    """What an outlet uses of a listener."""

    arrivals: Arrivals
    session: Observable[object | None] = field(default_factory=lambda: Observable[object | None](None))
    draining: Observable[bool] = field(default_factory=lambda: Observable(False))
    proven: bool = False


class FakePod:
    """A relay whose session hears what the test says, and its outlet."""

    def __init__(self, *, trims: bool = True, history_entries: int = 100, backlog_bytes: int = 1 << 20) -> None:
        self.timeline = Timeline()
        self.tape = Tape(history_entries, backlog_bytes)
        self.listener = FakeListener(Arrivals(self.timeline))
        self.outlet = Outlet(cast(Relay, self), DIGEST, trims=trims)
        self._term = 0
        self._seq = 0

    def open(self, term: int) -> None:
        """A session opens."""
        self._term, self._seq = term, 0
        self.timeline.add(term)
        self.listener.session.set(object())
        self.listener.proven = True
        self.tape.extend([Heard(Position(term, 0), marker(term))])

    def lose(self) -> None:
        """The session is lost."""
        self.listener.session.set(None)
        self.listener.proven = False
        self.tape.wake()

    def hear(self, *payloads: int, at: float = 0.0) -> None:
        """Its session hears these notifications."""
        first = self._seq + 1
        heard = [
            Heard(Position(self._term, seq), Notification("a", b"%d" % payload))
            for seq, payload in enumerate(payloads, first)
        ]
        self._seq += len(heard)
        self.listener.arrivals.note(heard[0].position, heard[-1].position, at)
        self.tape.extend(heard)

    def hear_marker(self, term: int) -> None:
        """Its session hears the marker of another one."""
        self._seq += 1
        position = Position(self._term, self._seq)
        self.timeline.relate(Position(term, 0), position)
        self.tape.extend([Heard(position, marker(term))])


def marker(term: int) -> Marker:
    return Marker(term, "nonce", DIGEST, "listener", "prefix")
