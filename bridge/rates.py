"""How fast the counters grow, and how late this process is for its own appointments."""

from collections import deque

import anyio

from bridge.telemetry import Metrics
from bridge.telemetry.metrics import PREFIX

SAMPLE_SECONDS = 1.0
SAMPLES = 10
"""Rates are means over the last ten seconds."""

_COUNTERS = {
    "received_per_second": PREFIX + "notifications_received_total",
    "appended_per_second": PREFIX + "log_entries_appended_total",
    "events_per_second": PREFIX + "events_total",
    "deliveries_per_second": PREFIX + "deliveries_total",
}


class Rates:
    """Sampled by one task."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._samples: deque[tuple[float, dict[str, float]]] = deque(maxlen=SAMPLES + 1)
        self._delays: deque[float] = deque(maxlen=SAMPLES)

    async def run(self) -> None:
        """Sample once a second, and bring the gauges up to date. Never returns."""
        while True:
            self._metrics.observe()
            self._samples.append((anyio.current_time(), self._metrics.values(list(_COUNTERS.values()))))
            due = anyio.current_time() + SAMPLE_SECONDS
            await anyio.sleep_until(due)
            self._delays.append(anyio.current_time() - due)
            self._metrics.loop_delay.set(max(self._delays))

    def now(self) -> dict[str, float]:
        """Events per second, by name."""
        if len(self._samples) < 2:
            return dict.fromkeys(_COUNTERS, 0.0)
        (since, first), (until, last) = self._samples[0], self._samples[-1]
        return {name: round((last[key] - first[key]) / (until - since), 1) for name, key in _COUNTERS.items()}
