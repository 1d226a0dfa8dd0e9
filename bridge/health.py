"""What /health, /ready and /status say, and the gauges that say the same: what was observed on the links, never what a
setting hopes for.

Unknown is not healthy: before the first proof a process is `down`. No answer holds payloads or secrets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from bridge import __version__
from bridge.telemetry import Leg, Metrics, error_text
from bridge.telemetry.metrics import MODES, PREFIX, set_or_remove

if TYPE_CHECKING:  # a listener process begins sooner without what only servers need
    from bridge.feed.delivery import Delivery
    from bridge.feed.feed import Feed
    from bridge.feed.source import LogView
    from bridge.hub import Hub
    from bridge.links.openers import Session
    from bridge.rates import Rates
    from bridge.relay.relay import Relay
    from bridge.server.limits import Places
    from bridge.settings import Settings

Json = dict[str, object]

_UP = {"proven", "writable", "live"}
_UNWANTED = {"closed", "off"}


class RelayHealth:
    """The listener's half: a session that hears, and a log that takes what it heard."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    @property
    def working(self) -> bool:
        publisher = self._relay.publisher
        return self._relay.listener.proven and (publisher is None or (publisher.connected and publisher.error is None))

    @property
    def mode(self) -> str:
        """How it brings what it hears to workers."""
        if not self.working:
            return "none"
        return "direct" if self._relay.publisher is None else "redis"

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
            "round_trip_seconds": publisher.round_trip_seconds,
            "backlog_entries": tape.end - tape.written,
            "backlog_bytes": tape.backlog_bytes,
        }

    def observe(self, metrics: Metrics) -> None:
        """Set the gauges of the backlog, which without Redis there is none of."""
        tape = self._relay.tape
        waiting = tape.read(tape.written, 1) if self._relay.publisher is not None else ()
        since = self._relay.listener.arrivals.at(waiting[0].position) if waiting else None
        metrics.backlog_oldest.set(0.0 if since is None else anyio.current_time() - since)
        metrics.backlog_entries.set(tape.end - tape.written)
        metrics.backlog_bytes.set(tape.backlog_bytes)


class Process:
    """What every process says of itself, whatever it does."""

    def __init__(self, settings: Settings, metrics: Metrics, rates: Rates, *, embedded: bool) -> None:
        self.metrics = metrics
        self.rates = rates
        self._channels = sorted(settings.channels)
        self._embedded = embedded
        self._started = anyio.current_time()

    def status(self, leg: Leg) -> Json:
        """With the latency of this leg."""
        latency = self.metrics.latency.quantiles(leg)
        return {
            "channels": self._channels,
            "embedded": self._embedded,
            "uptime_seconds": round(anyio.current_time() - self._started, 1),
            "rates": self.rates.now(),
            "latency": {
                "p50_ms": latency.p50_ms,
                "p99_ms": latency.p99_ms,
                "samples": latency.samples,
                "leg": latency.leg,
            },
        }

    def observe(self, mode: str, links: dict[str, Json]) -> None:
        """Set the gauges that every process has. `links` as `status` shows them."""
        metrics = self.metrics
        for one in MODES:
            metrics.mode.labels(one).set(one == mode)
        for name, link in links.items():
            set_or_remove(metrics.link_up, name, _up(link))
            round_trip = link.get("round_trip_seconds")
            set_or_remove(metrics.round_trip, name, round_trip if isinstance(round_trip, float) else None)


class ListenerHealth:
    """Health of `listen`: it works while what it hears goes into the log."""

    def __init__(self, relay: RelayHealth, process: Process) -> None:
        self._relay = relay
        self._process = process
        process.metrics.observe_with(self._observe)

    def ready(self) -> bool:
        return self._relay.working

    def health(self) -> Json:
        return {"status": "ok" if self._relay.working else "down", "mode": self._relay.mode, **_version()}

    def status(self) -> Json:
        return {**self.health(), "links": self._links(), **self._process.status("received_to_appended")}

    def _links(self) -> dict[str, Json]:
        return {"postgres": self._relay.postgres(), "redis": self._relay.redis()}

    def _observe(self) -> None:
        self._process.observe(self._relay.mode, self._links())
        self._relay.observe(self._process.metrics)


class ServerHealth:
    """Health of `serve`: events come from a live source. With a listener of its own, that one has to work too.

    So has the listener of its pod, of which `pod_listener_works` knows. While its `places` are closed it drains: it is
    not ready, but still healthy.
    """

    def __init__(
        self,
        settings: Settings,
        feed: Feed,
        delivery: Delivery,
        hub: Hub,
        relay: RelayHealth | None,
        process: Process,
        places: Places,
        pod_listener_works: Callable[[], bool] = lambda: True,
    ) -> None:
        self._pod_listener_works = pod_listener_works
        self._feed = feed
        self._delivery = delivery
        self._hub = hub
        self._relay = relay
        self._process = process
        self._places = places
        self._wanted = "redis" if settings.use_redis_notifier else "direct"
        self._auth = "jwt" if settings.authenticates else "none"
        process.metrics.observe_with(self._observe)

    def ready(self) -> bool:
        return self._feed.state.value.mode != "none" and not self._places.closed

    def health(self) -> Json:
        state = self._feed.state.value
        listener_works = self._pod_listener_works() if self._relay is None else self._relay.working
        healthy = state.mode == self._wanted and listener_works
        status = "ok" if healthy else "degraded" if state.mode != "none" else "down"
        answer: Json = {"status": status, "mode": state.mode, "clients": self._hub.client_count, **_version()}
        if state.reason:
            answer["reason"] = state.reason
        elif self._relay is None and not listener_works:
            answer["reason"] = "the listener of this pod does not work"
        if self._places.closed:
            answer["draining"] = True
        return answer

    def status(self) -> Json:
        changes = self._feed.changes
        position = self._delivery.position
        slow = PREFIX + "slow_disconnects_total"
        return {
            **self.health(),
            "since": _time(changes[-1].at),
            "position": str(position) if position else None,
            "auth": self._auth,
            "max_clients": self._places.total,
            "buffered_bytes": self._hub.buffers.total_bytes,
            "slow_disconnects": int(self._process.metrics.values([slow])[slow]),
            "links": self._links(),
            **self._process.status(self._leg),
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

    @property
    def _leg(self) -> Leg:
        """The part of the way to clients that this process can time now."""
        if self._relay is not None or self._feed.state.value.mode == "direct":
            return "received_to_delivered"
        return "log_to_delivered"

    def _links(self) -> dict[str, Json]:
        session = self._feed.session
        log = _log(self._feed.log_view)
        if self._relay is not None:
            return {"postgres": self._relay.postgres(), "redis": log | self._relay.redis()}
        if session is not None:
            return {"postgres": _session(session), "redis": log}
        if self._feed.pod_view is not None:  # the pod's listener has one
            return {"postgres": {"state": "closed"}, "redis": log}
        wanted = self._wanted == "direct" or self._delivery.beside_open
        return {"postgres": {"state": "lost" if wanted else "closed"}, "redis": log}

    def _observe(self) -> None:
        metrics = self._process.metrics
        self._hub.observe()
        self._process.observe(self._feed.state.value.mode, self._links())
        if self._relay is not None:
            self._relay.observe(metrics)
        view = self._feed.log_view
        heard_at = view.beat_at if view is not None else None
        metrics.heartbeat_age.set(math.nan if heard_at is None else anyio.current_time() - heard_at)
        metrics.max_clients.set(self._places.total)
        metrics.draining.set(self._places.closed)
        metrics.pending_gaps.set(len(self._delivery.holes) + (self._delivery.past is not None))


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
        "round_trip_seconds": view.round_trip_seconds,
        "beat_heard_seconds_ago": None if view.beat_at is None else round(anyio.current_time() - view.beat_at, 3),
    }


def _up(link: Json) -> float | None:
    """1 where a link does all that this process needs of it, 0 where not; None where it needs nothing."""
    wanted = {str(link[part]) for part in ("state", "log") if part in link} - _UNWANTED
    return float(wanted <= _UP) if wanted else None


def _version() -> Json:
    return {"version": __version__}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
