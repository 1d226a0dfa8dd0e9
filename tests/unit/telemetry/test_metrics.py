"""Metrics follow Prometheus' conventions: help, units, bounded labels, and no series that nobody asked for."""

from collections.abc import Iterator
from itertools import product
from typing import get_args

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from bridge import __version__
from bridge.core.events import GapReason
from bridge.telemetry import Metrics
from bridge.telemetry.latency import LEGS
from bridge.telemetry.metrics import MODES, PREFIX, GapScope, Link, Refusal, set_or_remove

UNITS = ("seconds", "bytes")
COUNTED = {
    "notifications_received", "log_entries_appended", "events", "deliveries", "replayed_events", "slow_disconnects",
    "slow_drops", "gaps", "switches", "reconnects", "refused", "clients", "max_clients", "pending_gaps",
    "backlog_entries",
}  # fmt: skip
"""What is a number of things, whose names say which."""
STATES = {"build_info", "mode", "link_up", "draining"}
LABELS: dict[str, dict[str, set[str]]] = {
    "gaps": {"reason": set(get_args(GapReason)), "scope": set(get_args(GapScope))},
    "reconnects": {"link": set(get_args(Link))},
    "refused": {"reason": set(get_args(Refusal))},
    "mode": {"mode": set(MODES)},
    "link_up": {"link": set(get_args(Link))},
    "probe_round_trip_seconds": {"link": set(get_args(Link))},
    "latency_seconds": {"leg": set(LEGS)},
    "build_info": {"version": {__version__}},
}
OF_THE_FORMAT = {"le"}


def families(metrics: Metrics) -> Iterator[Metric]:
    yield from text_string_to_metric_families(metrics.text().decode())


def ours(metrics: Metrics) -> dict[str, Metric]:
    return {family.name.removeprefix(PREFIX): family for family in families(metrics) if family.name.startswith(PREFIX)}


def filled() -> Metrics:
    """Every series there can be."""
    metrics = Metrics()
    for mode in MODES:
        metrics.mode.labels(mode).set(0)
    for link in get_args(Link):
        metrics.link_up.labels(link).set(1)
        metrics.round_trip.labels(link).set(0.001)
    return metrics


def test_every_metric_says_what_it_is_and_in_which_unit() -> None:
    for name, family in ours(filled()).items():
        assert len(family.documentation) > 20, name
        assert family.documentation[0].isupper() or family.documentation[0].isdigit(), name
        assert family.documentation.endswith("."), name
        assert name.endswith(UNITS) or name in COUNTED | STATES, f"{name} has no unit"
        assert family.type in ("counter", "gauge", "histogram"), name


def test_labels_are_few_and_known() -> None:
    found = ours(filled())
    assert {name for name in LABELS if name not in found} == set()
    for name, family in found.items():
        for sample in family.samples:
            labels = {label: value for label, value in sample.labels.items() if label not in OF_THE_FORMAT}
            known = LABELS.get(name, {})
            assert set(labels) == set(known), name
            assert all(labels[label] in known[label] for label in labels), name


@pytest.mark.parametrize("name", ["gaps", "reconnects", "refused"])
def test_a_counter_begins_at_zero_for_every_value_of_its_label(name: str) -> None:
    """A rate over a series that appears with its first event misses that event."""
    family = ours(Metrics())[name]
    expected = {frozenset(zip(LABELS[name], values, strict=True)) for values in product(*LABELS[name].values())}
    assert {frozenset(sample.labels.items()) for sample in family.samples} == expected
    assert {sample.value for sample in family.samples} == {0.0}


def test_there_are_no_created_series() -> None:
    names = {sample.name for family in families(filled()) for sample in family.samples}
    assert [name for name in names if name.endswith("_created")] == []
    assert "process_start_time_seconds" in names
    assert "process_resident_memory_bytes" in names


def test_two_processes_in_one_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    one.received.inc(3)
    one.gaps.labels("failover", "process").inc()
    one.latency.observers["log_to_delivered"](0.001)
    text = one.text().decode()
    assert "notify_bridge_notifications_received_total 3.0" in text
    assert 'notify_bridge_gaps_total{reason="failover",scope="process"} 1.0' in text
    assert 'notify_bridge_latency_seconds_count{leg="log_to_delivered"} 1.0' in text
    assert "notify_bridge_notifications_received_total 0.0" in other.text().decode()


def test_who_reads_gets_gauges_of_now() -> None:
    metrics, backlog = Metrics(), [1, 2]
    metrics.observe_with(lambda: metrics.backlog_entries.set(backlog.pop()))
    assert b"notify_bridge_backlog_entries 2.0" in metrics.text()
    assert b"notify_bridge_backlog_entries 1.0" in metrics.text()


def test_what_is_unknown_has_no_series() -> None:
    metrics = Metrics()
    set_or_remove(metrics.link_up, "redis", None)
    set_or_remove(metrics.link_up, "postgres", 1)
    assert b'notify_bridge_link_up{link="postgres"} 1.0' in metrics.text()
    set_or_remove(metrics.link_up, "postgres", None)
    assert b"notify_bridge_link_up{" not in metrics.text()


def test_values_are_those_of_the_samples_that_were_asked_for() -> None:
    metrics = Metrics()
    metrics.events.inc(4)
    assert metrics.values([PREFIX + "events_total", PREFIX + "switches_total"]) == {
        PREFIX + "events_total": 4.0,
        PREFIX + "switches_total": 0.0,
    }
