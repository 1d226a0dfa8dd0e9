"""The metrics of one process, by Prometheus' conventions: base units in the names, a bounded set of labels each.

They live in a registry of their own: two bridges in one process do not mix. Nothing that clients send is a label.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import product
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric

from bridge import __version__
from bridge.core.events import GapReason
from bridge.telemetry.latency import LEGS, Latency

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PREFIX: Final = "notify_bridge_"

Link = Literal["postgres", "redis"]
MODES: Final = ("redis", "direct", "none")
GapScope = Literal["process", "client"]
Refusal = Literal["full", "address", "auth", "forbidden", "origin", "bad_request", "draining", "visitors"]

_LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_APPEND_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Registry(CollectorRegistry):
    """Without the ``_created`` series: they double what is stored, and nobody asks for them."""

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """The counters and gauges of one process. Gauges are brought up to date when somebody asks."""

    def __init__(self) -> None:
        self.registry = registry = Registry()
        self._observers: list[Callable[[], None]] = []
        ProcessCollector(registry=registry)

        def counter(name: str, what: str) -> Counter:
            return Counter(PREFIX + name, what, registry=registry)

        def counters(name: str, label: str, values: Iterable[str], what: str) -> Counter:
            made = Counter(PREFIX + name, what, [label], registry=registry)
            for value in values:
                made.labels(value)
            return made

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(PREFIX + name, what, labels, registry=registry)

        self.received = counter(
            "notifications_received", "Notifications received from PostgreSQL by a LISTEN session of this process."
        )
        self.appended = counter("log_entries_appended", "Entries that this listener appended to the log in Redis.")
        self.events = counter(
            "events", "Events, gaps and ends of gaps that came out of the feed, each once in a process."
        )
        self.deliveries = counter(
            "deliveries", "Events and gaps given to clients, one for each client; replays are replayed_events."
        )
        self.replayed = counter(
            "replayed_events",
            "Events and gaps given to clients that came back with a cursor, from this process' history.",
        )
        self.bytes_sent = counter(
            "sent_bytes",
            "Bytes of events, gaps and positions, given to clients' sockets or kept for those who read slowly.",
        )
        self.slow_disconnects = counter(
            "slow_disconnects", "Clients closed with 4008 because they read too slowly (BRIDGE_SLOW_CLIENT=disconnect)."
        )
        self.slow_drops = counter(
            "slow_drops",
            "How often a client's buffer was full and it began to miss events (BRIDGE_SLOW_CLIENT=gap); it is "
            "told of a gap once it reads again.",
        )
        self.gaps = Counter(
            PREFIX + "gaps",
            "Final gaps, by reason: notifications that could not be brought. scope=process: to this process, told "
            "once to all its clients. scope=client: to a single client that read too slowly, or came back after too "
            "long, with an unknown cursor, or over a gap of before; once for each.",
            ["reason", "scope"],
            registry=registry,
        )
        for reason, scope in product(get_args(GapReason), get_args(GapScope)):
            self.gaps.labels(reason, scope)
        self.switches = counter("switches", "Switches between the log in Redis and PostgreSQL directly, both ways.")
        self.reconnects = counters(
            "reconnects",
            "link",
            get_args(Link),
            "How often a link failed, or could not be opened, and was tried again.",
        )
        self.refused = counters(
            "refused",
            "reason",
            get_args(Refusal),
            "Clients turned away: full (BRIDGE_MAX_CLIENTS), address (too many of one), auth (token), forbidden "
            "(channel or field), origin (or host), bad_request (URL, method, handshake), draining, visitors (too "
            "many connections of one address that asked nothing).",
        )
        self.build = gauge("build_info", "Always 1; the label says which version runs.", "version")
        self.build.labels(__version__).set(1)
        self.mode = gauge(
            "mode", "1 for where events come from now: the log in redis, PostgreSQL direct, or none.", "mode"
        )
        self.link_up = gauge(
            "link_up",
            "Whether a link works, as its probes saw it: 1 or 0. Absent where this process needs none, such as a "
            "LISTEN session in a server whose events come from Redis.",
            "link",
        )
        self.round_trip = gauge(
            "probe_round_trip_seconds",
            "How long the last probe of a link took, there and back: for postgres a NOTIFY that came back to the "
            "session that sent it, for redis a command and its answer. Absent while unknown.",
            "link",
        )
        self.clients = gauge("clients", "Clients connected now.")
        self.max_clients = gauge("max_clients", "So many clients are served at most (BRIDGE_MAX_CLIENTS).")
        self.draining = gauge("draining", "1 while this process sends its clients away because it is about to end.")
        self.pending_gaps = gauge("pending_gaps", "Gaps open now, that the log in Redis may still fill.")
        self.heartbeat_age = gauge(
            "heartbeat_age_seconds",
            "Seconds since a listener's heartbeat was heard through Redis. NaN before the first, and without Redis.",
        )
        self.backlog_entries = gauge("backlog_entries", "Received from PostgreSQL and not yet seen in the log.")
        self.backlog_bytes = gauge("backlog_bytes", "Bytes received from PostgreSQL and not yet seen in the log.")
        self.backlog_oldest = gauge(
            "backlog_oldest_seconds",
            "Seconds since the oldest notification was received that is not yet seen in the log.",
        )
        self.buffered_bytes = gauge("buffered_bytes", "Bytes that wait for clients to read; shared ones count once.")
        self.loop_delay = gauge(
            "loop_delay_seconds",
            "How late a timer was that runs once a second, at worst in the last ten: how busy this process is.",
        )
        self.append_seconds = Histogram(
            PREFIX + "append_seconds",
            "How long one append of a batch to the log took.",
            buckets=_APPEND_BUCKETS,
            registry=registry,
        )
        histogram = Histogram(
            PREFIX + "latency_seconds",
            "How long notifications take inside this process, by its own monotonic clock; one observation for "
            "each batch, of its oldest notification. leg=received_to_delivered: from read from PostgreSQL by this"
            " process' own LISTEN session to given to all clients' sockets, by way of Redis where the log feeds "
            "them. leg=log_to_delivered: in a process that has no session, from read from Redis to given to the "
            "sockets. leg=received_to_appended: in a listener, from read from PostgreSQL to confirmed by Redis. "
            "Not in it: the way from the commit to this process (see probe_round_trip_seconds), what waits unread "
            "in a socket (see loop_delay_seconds), what waits for slow clients, their network, replays, and what "
            "is read again from the log after a failure.",
            ["leg"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.latency = Latency({leg: histogram.labels(leg).observe for leg in LEGS})

    def observe_with(self, bring_up_to_date: Callable[[], None]) -> None:
        """Have this called before metrics are read, to set gauges."""
        self._observers.append(bring_up_to_date)

    def observe(self) -> None:
        """Bring the gauges up to date."""
        for bring_up_to_date in self._observers:
            bring_up_to_date()

    def values(self, names: Sequence[str]) -> dict[str, float]:
        """Of samples without labels, by their full names."""
        found = self.registry.restricted_registry(names).collect()
        return {sample.name: sample.value for metric in found for sample in metric.samples}

    def text(self) -> bytes:
        """All metrics in Prometheus' text format (`METRICS_CONTENT_TYPE`)."""
        self.observe()
        return generate_latest(self.registry)


def set_or_remove(gauge: Gauge, label: str, value: float | None) -> None:
    """A labelled gauge's value; no series where it is unknown or means nothing."""
    if value is None:
        with suppress(KeyError):
            gauge.remove(label)
    else:
        gauge.labels(label).set(value)
