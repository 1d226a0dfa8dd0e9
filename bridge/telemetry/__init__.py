"""What the bridge says of itself: log lines, metrics, and values whose changes can be awaited."""

from bridge.telemetry.latency import Arrivals, Latency, Leg
from bridge.telemetry.logs import (
    connected_to_postgres,
    connected_to_redis,
    connection_error,
    error_text,
    fields,
    log,
    reconnecting,
    redis_failed,
    setup_logging,
    switched_to_direct,
    switched_to_redis,
    switching_to_direct,
    switching_to_redis,
)
from bridge.telemetry.metrics import METRICS_CONTENT_TYPE, Metrics
from bridge.telemetry.observable import Observable

__all__ = [
    "METRICS_CONTENT_TYPE",
    "Arrivals",
    "Latency",
    "Leg",
    "Metrics",
    "Observable",
    "connected_to_postgres",
    "connected_to_redis",
    "connection_error",
    "error_text",
    "fields",
    "log",
    "reconnecting",
    "redis_failed",
    "setup_logging",
    "switched_to_direct",
    "switched_to_redis",
    "switching_to_direct",
    "switching_to_redis",
]
