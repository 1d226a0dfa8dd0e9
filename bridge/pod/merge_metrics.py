"""The metrics of several processes as one, under the names of one process. Pure.

Counters and histograms are added up, those of processes that are gone included. A gauge has a rule: what is a part of
the whole (clients, bytes, entries) is added up; of ages, delays and times the longest counts, of what works the worst.
What only workers know is not asked of the listener.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

from bridge.pod.snapshot import Family, Sample
from bridge.telemetry.metrics import MODES, PREFIX

Role = Literal["listener", "worker", "supervisor"]
Rule = Callable[[Iterable[float]], float]
Key = tuple[str, tuple[tuple[str, str], ...]]

SUMMED: Final = frozenset({"counter", "histogram", "summary"})
"""Kinds that only ever grow."""


def _longest(values: Iterable[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


RULES: Final[Mapping[str, Rule]] = {
    PREFIX + "build_info": max,
    PREFIX + "link_up": min,
    PREFIX + "probe_round_trip_seconds": _longest,
    PREFIX + "clients": sum,
    PREFIX + "max_clients": max,
    PREFIX + "draining": max,
    PREFIX + "pending_gaps": max,
    PREFIX + "heartbeat_age_seconds": _longest,
    PREFIX + "backlog_entries": sum,
    PREFIX + "backlog_bytes": sum,
    PREFIX + "backlog_oldest_seconds": max,
    PREFIX + "buffered_bytes": sum,
    PREFIX + "loop_delay_seconds": max,
    "process_virtual_memory_bytes": sum,
    "process_resident_memory_bytes": sum,
    "process_open_fds": sum,
    "process_max_fds": min,
    "process_start_time_seconds": min,
}
"""Gauges; one that is not here has the largest value of all."""
MODE: Final = PREFIX + "mode"
OF_WORKERS: Final = frozenset(PREFIX + name for name in ("max_clients", "heartbeat_age_seconds", "pending_gaps"))
"""What a listener has a gauge of, too, and knows nothing about."""


def merged_mode(modes: Iterable[str]) -> str:
    """The mode of all workers together: `none` where no worker has a source, `direct` where one reads PostgreSQL."""
    found = set(modes)
    return next((mode for mode in ("direct", "redis") if mode in found), "none")


def add_up(one: Sequence[Family], other: Sequence[Family]) -> list[Family]:
    """What only grows, of both together: to keep what processes counted that are gone."""
    return merge([("worker", _growing(one)), ("worker", _growing(other))])


def merge(parts: Sequence[tuple[Role, Sequence[Family]]]) -> list[Family]:
    """One family of each name, in the order in which they come."""
    kinds: dict[str, Family] = {}
    values: dict[str, dict[Key, list[float]]] = {}
    has_workers = any(role == "worker" for role, _ in parts)
    for role, families in parts:
        for family in families:
            kinds.setdefault(family.name, family)
            series = values.setdefault(family.name, {})
            if has_workers and role != "worker" and (family.name == MODE or family.name in OF_WORKERS):
                continue
            for sample in family.samples:
                series.setdefault((sample.name, sample.labels), []).append(sample.value)
    return [Family(name, family.kind, family.text, _samples(family, values[name])) for name, family in kinds.items()]


def _samples(family: Family, series: Mapping[Key, Sequence[float]]) -> list[Sample]:
    if family.name == MODE:
        now = merged_mode(dict(labels)["mode"] for (_, labels), given in series.items() if any(given))
        return [Sample(MODE, (("mode", mode),), float(mode == now)) for mode in MODES] if series else []
    rule = sum if family.kind in SUMMED else RULES.get(family.name, max)
    return [Sample(name, labels, float(rule(given))) for (name, labels), given in series.items()]


def _growing(families: Sequence[Family]) -> list[Family]:
    return [family for family in families if family.kind in SUMMED]
