"""What the bridge says of itself: log lines, metrics, and values whose changes can be awaited.

The log lines of the contract are functions here, one each, so that their wording lives in one place. Logs go to
standard error. Metrics live in a registry of their own: two bridges in one process do not mix.
"""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Generic, Literal, TypeVar

import anyio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

log = logging.getLogger("bridge")

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

T = TypeVar("T")


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO     message``, and a stack trace where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return _timestamp(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `message`, and `stack` where there is a stack trace."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _timestamp(record), "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def setup_logging(format: Literal["text", "json"], level: str) -> None:  # noqa: A002
    """Send all logs to standard error: ours from `level` up, those of libraries from WARNING up.

    Calling it again replaces the earlier choice.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    log.setLevel(level.upper())


def redis_failed(error: BaseException) -> None:
    """Redis is lost, and a direct session is about to be opened."""
    log.warning("Redis connection failed: %s. Attempting fallback to PostgreSQL direct LISTEN.", error_text(error))


def switching_to_direct() -> None:
    log.info("Switching to PostgreSQL direct LISTEN fallback mode")


def switched_to_direct() -> None:
    log.info("Fallback to PostgreSQL direct LISTEN successful - realtime features recovered")


def switching_to_redis() -> None:
    log.info("Redis connectivity restored, switching back to Redis mode")


def switched_to_redis() -> None:
    log.info("Switch back to Redis mode successful")


def connection_error(error: BaseException, *, first: bool) -> None:
    """A connection failed; with its stack trace when it is the first failure of a row of failures."""
    log.error("Connection error: %s", error_text(error), exc_info=error if first else None)


def reconnecting(seconds: float) -> None:
    """The next attempt comes after so long: ``5``, ``0.3``."""
    log.info("Reconnecting in %s seconds...", f"{round(seconds, 2):g}")


def connected_to_redis() -> None:
    log.info("Connected to Redis")


def connected_to_postgres() -> None:
    log.info("Connected to PostgreSQL")


def error_text(error: BaseException) -> str:
    """The error's text on one line; its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


class Metrics:
    """The counters and gauges of one process, in Prometheus' terms."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, what: str) -> Counter:
            return Counter(f"notify_bridge_{name}", what, registry=registry)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"notify_bridge_{name}", what, registry=registry)

        self.received = counter("notifications_received", "Notifications received from PostgreSQL.")
        self.appended = counter("log_entries_appended", "Entries appended to the log in Redis.")
        self.events = counter("events", "Events that came out of the feed, each once.")
        self.deliveries = counter("deliveries", "Events handed to clients, one for each client.")
        self.bytes_sent = counter("sent_bytes", "Bytes handed to the kernel for clients.")
        self.slow_disconnects = counter("slow_disconnects", "Clients closed because they read too slowly.")
        self.gaps = Counter("notify_bridge_gaps", "Gaps announced to clients.", ["reason"], registry=registry)
        self.switches = counter("switches", "Switches between the log in Redis and a direct session.")
        self.clients = gauge("clients", "Clients connected now.")
        self.backlog_entries = gauge("backlog_entries", "Received from PostgreSQL and not yet seen in the log.")
        self.backlog_bytes = gauge("backlog_bytes", "Bytes received from PostgreSQL and not yet seen in the log.")
        self.buffered_bytes = gauge("buffered_bytes", "Bytes that wait for clients to read.")
        self.append_seconds = Histogram(
            "notify_bridge_append_seconds",
            "How long one append of a batch to the log took.",
            buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
            registry=registry,
        )

    def text(self) -> bytes:
        """All metrics in Prometheus' text format (`METRICS_CONTENT_TYPE`)."""
        return generate_latest(self.registry)


class Observable(Generic[T]):
    """A value whose changes can be awaited, by tasks of one event loop.

    No value is missed, however briefly it was set: conditions are evaluated when it is set, not when a task wakes.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._waiting: list[_Wait[T]] = []

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        self._value = value
        for wait in self._waiting:
            wait.offer(value)

    async def wait_for(self, predicate: Callable[[T], bool]) -> T:
        """The present value if it fulfils the predicate, else the first later one that does. Cancelling is harmless."""
        wait = _Wait(predicate)
        wait.offer(self._value)
        self._waiting.append(wait)
        try:
            await wait.found.wait()
        finally:
            self._waiting.remove(wait)
        return wait.values[0]


class _Wait(Generic[T]):
    """One task that waits, and the first value it waited for."""

    def __init__(self, predicate: Callable[[T], bool]) -> None:
        self.predicate = predicate
        self.found = anyio.Event()
        self.values: list[T] = []

    def offer(self, value: T) -> None:
        if not self.values and self.predicate(value):
            self.values.append(value)
            self.found.set()


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
