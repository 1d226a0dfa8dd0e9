"""Metrics of several processes as one."""

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bridge.pod import snapshot
from bridge.pod.merge_metrics import RULES, SUMMED, add_up, merge, merged_mode
from bridge.pod.snapshot import Family, Sample, Snapshot
from bridge.telemetry import Metrics
from bridge.telemetry.metrics import PREFIX


def of(metrics: Metrics) -> list[Family]:
    return snapshot.families(metrics.registry)


def values(families: list[Family]) -> dict[str, float]:
    return {
        sample.name.removeprefix(PREFIX) + "".join(f",{value}" for _, value in sample.labels): sample.value
        for family in families
        for sample in family.samples
    }


def worker(*, deliveries: int, clients: int, mode: str = "redis", heartbeat: float = math.nan) -> Metrics:
    metrics = Metrics()
    metrics.deliveries.inc(deliveries)
    metrics.clients.set(clients)
    metrics.max_clients.set(100)
    metrics.heartbeat_age.set(heartbeat)
    metrics.loop_delay.set(clients / 100)
    metrics.pending_gaps.set(1)
    metrics.link_up.labels("redis").set(mode == "redis")
    for one in ("redis", "direct", "none"):
        metrics.mode.labels(one).set(one == mode)
    metrics.latency.observers["log_to_delivered"](0.003)
    return metrics


def test_counters_and_histograms_are_added_up_and_gauges_follow_their_rules() -> None:
    listener = Metrics()
    listener.received.inc(7)
    listener.backlog_entries.set(3)
    listener.link_up.labels("postgres").set(1)
    listener.link_up.labels("redis").set(1)
    listener.mode.labels("none").set(1)
    one = worker(deliveries=5, clients=2, heartbeat=0.5)
    other = worker(deliveries=8, clients=3, mode="direct")
    found = values(merge([("listener", of(listener)), ("worker", of(one)), ("worker", of(other))]))
    assert (found["deliveries_total"], found["notifications_received_total"]) == (13, 7)
    assert (found["clients"], found["max_clients"], found["backlog_entries"]) == (5, 100, 3)
    assert (found["heartbeat_age_seconds"], found["loop_delay_seconds"], found["pending_gaps"]) == (0.5, 0.03, 1)
    assert (found["link_up,postgres"], found["link_up,redis"]) == (1, 0)
    assert [found[f"mode,{mode}"] for mode in ("redis", "direct", "none")] == [0, 1, 0]
    assert found["latency_seconds_count,log_to_delivered"] == 2
    assert found["latency_seconds_bucket,+Inf,log_to_delivered"] == 2


def test_a_heartbeat_that_nobody_heard_stays_unknown() -> None:
    found = values(merge([("listener", of(Metrics())), ("worker", of(worker(deliveries=0, clients=0)))]))
    assert math.isnan(found["heartbeat_age_seconds"])


def test_what_was_counted_by_processes_that_are_gone_stays() -> None:
    gone: list[Family] = []
    for deliveries in (5, 8):
        gone = add_up(gone, of(worker(deliveries=deliveries, clients=4)))
    found = values(merge([("worker", of(worker(deliveries=1, clients=2))), ("supervisor", gone)]))
    assert (found["deliveries_total"], found["clients"]) == (14, 2)
    assert found["latency_seconds_count,log_to_delivered"] == 3
    assert found["mode,redis"] == 1


def test_every_gauge_has_a_rule() -> None:
    families = of(Metrics())
    assert {family.name for family in families if family.kind not in SUMMED} == {*RULES, PREFIX + "mode"}


def test_the_text_is_that_of_one_process() -> None:
    one = worker(deliveries=5, clients=2, heartbeat=0.25)
    alone, merged = one.text().decode(), snapshot.text(merge([("worker", of(one))])).decode()
    constant = [line for line in alone.splitlines() if "process_" not in line]
    assert [line for line in merged.splitlines() if "process_" not in line] == constant
    assert [family.name for family in text_string_to_metric_families(merged)]


def test_a_snapshot_survives_the_way() -> None:
    metrics = worker(deliveries=1, clients=2)
    status: dict[str, object] = {"status": "ok", "links": {"redis": {"tail": None, "seconds": 0.5}}, "gaps": []}
    taken = Snapshot(status, of(metrics))
    arrived = snapshot.decode(snapshot.encode(taken))
    assert arrived.status == status
    assert snapshot.text(arrived.families) == snapshot.text(taken.families)


@given(st.lists(st.sampled_from(["redis", "direct", "none"])))
def test_the_mode_of_all(modes: list[str]) -> None:
    mode = merged_mode(modes)
    assert (mode == "none") == (set(modes) <= {"none"})
    assert (mode == "direct") == ("direct" in modes)


@given(st.lists(st.integers(0, 2**32).map(lambda eighths: eighths / 8), min_size=1, max_size=5))  # sums are exact
def test_merging_in_steps_is_merging_at_once(numbers: list[float]) -> None:
    parts = [[Family("a", "counter", "", [Sample("a_total", (), number)])] for number in numbers]
    stepwise: list[Family] = []
    for part in parts:
        stepwise = add_up(stepwise, part)
    assert values(stepwise) == values(merge([("worker", part) for part in parts]))
