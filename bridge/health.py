"""What /health, /ready and /status say: what was observed on the links, never what a setting hopes for.

Unknown is not healthy: before the first proof a process is `down`. Neither answer holds payloads or secrets.
"""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import anyio

from bridge import __version__
from bridge.feed.delivery import Delivery
from bridge.feed.feed import Feed
from bridge.feed.source import LogView
from bridge.hub import Hub
from bridge.links.openers import Session
from bridge.relay.relay import Relay
from bridge.telemetry import Metrics, error_text

SAMPLE_SECONDS = 1.0
RATE_SAMPLES = 10
"""Rates are means over the last ten seconds."""

Json = dict[str, object]

_RATES = {
    "received_per_second": "notify_bridge_notifications_received_total",
    "appended_per_second": "notify_bridge_log_entries_appended_total",
    "events_per_second": "notify_bridge_events_total",
    "deliveries_per_second": "notify_bridge_deliveries_total",
}


class Rates:
    """How fast the counters grow, sampled by one task."""

    def __init__(self, metrics: Metrics, observe: Callable[[], None] = lambda: None) -> None:
        self._metrics = metrics
        self._observe = observe
        self._samples: deque[tuple[float, dict[str, float]]] = deque(maxlen=RATE_SAMPLES + 1)

    async def run(self) -> None:
        """Sample once a second, and have `observe` bring the gauges up to date. Never returns."""
        while True:
            self._observe()
            value = self._metrics.registry.get_sample_value
            self._samples.append((anyio.current_time(), {name: value(key) or 0.0 for name, key in _RATES.items()}))
            await anyio.sleep(SAMPLE_SECONDS)

    def now(self) -> Json:
        """Events per second, by name."""
        if len(self._samples) < 2:
            return dict.fromkeys(_RATES, 0.0)
        (since, first), (until, last) = self._samples[0], self._samples[-1]
        return {name: round((last[name] - first[name]) / (until - since), 1) for name in _RATES}


class RelayHealth:
    """The listener's half: a session that hears, and a log that takes what it heard."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    @property
    def working(self) -> bool:
        publisher = self._relay.publisher
        return self._relay.listener.proven and (publisher is None or (publisher.connected and publisher.error is None))

    def postgres(self) -> Json:
        """The LISTEN session, as its probes saw it."""
        listener = self._relay.listener
        if listener.session.value is None:
            return _away(listener.error)
        return _session(listener.session.value)

    def redis(self) -> Json:
        """The log, as the publisher's appends saw it."""
        publisher, tape = self._relay.publisher, self._relay.tape
        if publisher is None:
            return {"state": "off"}
        if not publisher.connected:
            link = _away(publisher.error)
        elif publisher.error:
            link = {"state": "refusing", "error": error_text(publisher.error)}
        else:
            link = {"state": "writable", "error": None}
        return {
            **link,
            "appending": publisher.appending,
            "tail": str(publisher.tail) if publisher.tail else None,
            "backlog_entries": tape.end - tape.written,
            "backlog_bytes": tape.backlog_bytes,
        }


class ListenerHealth:
    """Health of `listen`: it works while what it hears goes into the log."""

    def __init__(self, relay: RelayHealth, rates: Rates) -> None:
        self._relay = relay
        self._rates = rates

    def ready(self) -> bool:
        return self._relay.working

    def health(self) -> Json:
        working = self._relay.working
        return {"status": "ok" if working else "down", "mode": "redis" if working else "none", **_version()}

    def status(self) -> Json:
        links = {"postgres": self._relay.postgres(), "redis": self._relay.redis()}
        return {**self.health(), "links": links, "rates": self._rates.now()}


class ServerHealth:
    """Health of `serve`: events come from a live source. With a listener of its own, that one has to work too.

    While it is `draining` it is not ready, but still healthy.
    """

    def __init__(
        self,
        feed: Feed,
        delivery: Delivery,
        hub: Hub,
        relay: RelayHealth | None,
        rates: Rates,
        *,
        wants_redis: bool,
        embedded: bool,
        draining: Callable[[], bool],
    ) -> None:
        self._feed = feed
        self._delivery = delivery
        self._hub = hub
        self._relay = relay
        self._rates = rates
        self._wanted = "redis" if wants_redis else "direct"
        self._embedded = embedded
        self._draining = draining

    def ready(self) -> bool:
        return self._feed.state.value.mode != "none" and not self._draining()

    def health(self) -> Json:
        state = self._feed.state.value
        healthy = state.mode == self._wanted and (self._relay is None or self._relay.working)
        status = "ok" if healthy else "degraded" if state.mode != "none" else "down"
        answer: Json = {"status": status, "mode": state.mode, "clients": self._hub.client_count, **_version()}
        if state.reason:
            answer["reason"] = state.reason
        if self._draining():
            answer["draining"] = True
        return answer

    def status(self) -> Json:
        changes = self._feed.changes
        position = self._delivery.position
        session = self._feed.session
        if self._relay is not None:
            links = {"postgres": self._relay.postgres(), "redis": self._relay.redis()}
        else:
            links = {"postgres": _session(session) if session is not None else {"state": "closed"}, "redis": {}}
        links["redis"] |= _log(self._feed.log_view)
        return {
            **self.health(),
            "since": _time(changes[-1].at),
            "position": str(position) if position else None,
            "links": links,
            "embedded": self._embedded,
            "rates": self._rates.now(),
            "switches": [
                {"at": _time(change.at), "mode": change.state.mode, "reason": change.state.reason or None}
                for change in changes
            ],
            "gaps": [
                {
                    "at": _time(announced.at),
                    "after": str(announced.gap.after) if announced.gap.after else None,
                    "before": str(announced.gap.before) if announced.gap.before else None,
                    "reason": announced.gap.reason,
                }
                for announced in self._delivery.recent_gaps
            ],
        }


def _away(error: Exception | None) -> Json:
    """A link that is not open: `lost`, or `unknown` while it was not tried."""
    return {"state": "lost", "error": error_text(error)} if error else {"state": "unknown", "error": None}


def _session(session: Session) -> Json:
    return {
        "state": "suspect" if session.suspect else "proven" if session.proven else "unproven",
        "term": str(session.term),
        "heard_seconds_ago": round(anyio.current_time() - session.last_proof, 3),
        "round_trip_seconds": session.round_trip_seconds,
    }


def _log(view: LogView | None) -> Json:
    """What the feed sees of the log: `live` while it feeds this process, `away` while it does not."""
    if view is None:
        return {"log": "off"}
    return {
        "log": "live" if view.joined else "away",
        "log_tail": str(view.tail) if view.tail else None,
        "beat_heard_seconds_ago": None if view.beat_at is None else round(anyio.current_time() - view.beat_at, 3),
    }


def _version() -> Json:
    return {"version": __version__}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
