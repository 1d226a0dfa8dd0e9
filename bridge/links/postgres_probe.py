"""Whether a LISTEN session still hears: its probes, decided without waiting or telling time.

An open connection proves nothing, so a session notifies itself every few seconds. While the probe's query runs, any
byte that arrives is life: a commit may wait long for a standby. Once it is answered, only notifications are.

Everybody hears everybody's probes, and each says at which seq its session heard the one before. So who heard both can
relate the two numberings, also with a session that had marked itself long before.
"""

from collections import OrderedDict

import msgspec

from bridge.core.position import Position
from bridge.links.postgres_start import PROBE

MAX_NEIGHBOURS = 1000
"""Other sessions whose last probe is remembered; the ones heard longest ago are forgotten."""

SOON_SECONDS = 0.5
"""When a new session has marked itself, the others probe twice within about so long, jittered, to be related to it."""


class _Probe(msgspec.Struct, frozen=True):
    """What a session sends itself: for the n-th time, and at which seq it heard the one before."""

    term: int
    nonce: str
    n: int
    heard: int | None
    digest: str = ""


_read = msgspec.json.Decoder(_Probe)


class Probes:
    """The probes of one session. Every `now` is in seconds, on one clock."""

    def __init__(
        self, term: int, nonce: str, digest: str, backend_pid: int, interval_seconds: float, now: float
    ) -> None:
        self.learned: list[tuple[Position, Position]] = []
        """Pairs of equal positions, of other sessions and of this one; whoever uses them takes them away."""
        self.byte_at = now
        """When the last bytes arrived."""
        self.round_trip_seconds: float | None = None
        """How long the last probe took that came back."""
        self.error: str | None = None
        """Why the server refused the last probe, if it did."""
        self.outsider_heard = False
        """Whether `outsider`'s payload has arrived."""
        self.running = False
        """Whether the query of a probe is not answered yet."""
        self._term = term
        self._nonce = nonce
        self._digest = digest
        self._neighbours: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._soon_at: list[float] = []
        self._backend_pid = backend_pid
        self._interval_seconds = interval_seconds
        self._heard_at = now
        self._sent_at = now
        self._count = 0
        self._awaited = False
        self._last_seq: int | None = None

    def due(self, now: float) -> bool:
        """Whether to send a probe now."""
        return not self._in_flight and now >= self._due_at

    def soon(self, now: float, jitter: float) -> None:
        """Another session has marked itself: probe twice within a moment. `jitter` is drawn from [0, 1)."""
        first = now + SOON_SECONDS * jitter
        self._soon_at = [first, first + SOON_SECONDS / 5]

    def query(self, now: float) -> bytes:
        """The query that sends the next probe; it is on its way from now on."""
        self._count += 1
        self._sent_at = now
        self._soon_at = [at for at in self._soon_at if at > now]
        self._awaited = self.running = True
        payload = msgspec.json.encode(_Probe(self._term, self._nonce, self._count, self._last_seq, self._digest))
        return b"LISTEN %b; SELECT pg_notify('%b', '%b')" % (PROBE, PROBE, payload)

    def outsider(self) -> bytes:
        """The payload for another session to send, to show that this one hears others."""
        return msgspec.json.encode(_Probe(self._term, self._nonce, 0, None))

    def hear(self, payload: bytes, backend_pid: int, seq: int, now: float) -> None:
        """Something came on the probe channel after the session's seq-th notification."""
        try:
            probe = _read.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if probe.nonce != self._nonce:
            self._hear_neighbour(probe, seq)
        elif backend_pid != self._backend_pid:
            self.outsider_heard = True
        elif self._awaited and probe.n == self._count:
            self._awaited = False
            self._heard_at = now
            self._last_seq = seq
            self.round_trip_seconds = now - self._sent_at
            self.error = None

    def _hear_neighbour(self, probe: _Probe, seq: int) -> None:
        if probe.digest != self._digest or not 0 < probe.term < 2**63:
            return
        before = self._neighbours.pop(probe.nonce, None)
        if before is not None and before[0] == probe.n - 1 and probe.heard is not None and 0 <= probe.heard < 2**63:
            self.learned.append((Position(probe.term, probe.heard), Position(self._term, before[1])))
        self._neighbours[probe.nonce] = (probe.n, seq)
        if len(self._neighbours) > MAX_NEIGHBOURS:
            self._neighbours.popitem(last=False)

    def hear_notifications(self, now: float) -> None:
        """Notifications arrived that count."""
        self._heard_at = now

    def refuse(self, error: str) -> None:
        """The server answered the probe with an error: it will not come back."""
        self._awaited = False
        self.error = error

    def wake_at(self) -> float:
        """When the next probe is due, or the last one is overdue."""
        if not self._in_flight:
            return self._due_at
        alive_at = self.byte_at if self.running else self._heard_at
        return max(self._sent_at, alive_at) + self._interval_seconds

    def overdue(self, now: float) -> bool:
        """Whether nothing came that a living session would have heard."""
        return self._in_flight and now >= self.wake_at()

    def proven(self, now: float) -> bool:
        """Whether a probe, or a notification that counts, came within two intervals."""
        return now - self._heard_at <= 2 * self._interval_seconds

    @property
    def _due_at(self) -> float:
        return min([self._sent_at + self._interval_seconds, *self._soon_at])

    @property
    def _in_flight(self) -> bool:
        return self._awaited or self.running
