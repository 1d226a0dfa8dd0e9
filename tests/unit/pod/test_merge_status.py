"""/status of several processes as one."""

from typing import Any

from bridge.pod.merge_status import Part, State, merge_status

WELL: dict[str, Any] = {
    "status": "ok", "mode": "redis", "clients": 2, "version": "1", "since": "2026-01-01T00:00:00.000Z",
    "position": "5-1", "auth": "none", "max_clients": 10, "buffered_bytes": 100, "slow_disconnects": 1,
    "links": {"postgres": {"state": "closed"}, "redis": {"log": "live", "beat_heard_seconds_ago": 0.5}},
    "channels": ["a"], "embedded": False, "uptime_seconds": 10.0,
    "rates": {"received_per_second": 0.0, "events_per_second": 4.0, "deliveries_per_second": 8.0},
    "latency": {"p50_ms": 2.0, "p99_ms": 9.0, "samples": 10, "leg": "log_to_delivered"},
    "switches": [{"at": "1", "mode": "redis", "reason": None}], "gaps": [],
}  # fmt: skip
LISTENER: dict[str, Any] = {
    "status": "ok", "mode": "redis", "version": "1", "uptime_seconds": 12.0,
    "links": {"postgres": {"state": "proven", "term": "7"}, "redis": {"state": "writable", "appending": True}},
    "rates": {"received_per_second": 4.0, "events_per_second": 0.0, "deliveries_per_second": 0.0},
    "latency": {"p50_ms": None, "p99_ms": None, "samples": 0, "leg": "received_to_appended"},
}  # fmt: skip
NO_EVENTS = {"p50_ms": None, "p99_ms": None, "samples": 0, "leg": "log_to_delivered"}


def listener(state: State = "up", **changes: Any) -> Part:
    return Part("listener", "listener", 1, 0, state, LISTENER | changes)


def worker(number: int = 1, state: State = "up", **changes: Any) -> Part:
    return Part(f"worker {number}", "worker", 10 + number, number - 1, state, WELL | changes)


def test_it_has_the_keys_of_one_process_and_adds_up() -> None:
    whole = merge_status([listener(), worker(1), worker(2, clients=3, buffered_bytes=7)], 33.33)
    assert set(whole) == {*WELL, "processes"}
    assert (whole["clients"], whole["buffered_bytes"], whole["slow_disconnects"]) == (5, 107, 2)
    assert (whole["status"], whole["mode"], whole["max_clients"], whole["uptime_seconds"]) == ("ok", "redis", 10, 33.3)
    assert whole["rates"] == {"received_per_second": 4, "events_per_second": 4, "deliveries_per_second": 16}
    assert whole["links"] == {
        "postgres": {"state": "proven", "term": "7"},
        "redis": {"log": "live", "beat_heard_seconds_ago": 0.5, "state": "writable", "appending": True},
    }
    assert [(one["name"], one["pid"], one["status"], one["restarts"]) for one in whole["processes"]] == [
        ("listener", 1, "ok", 0),
        ("worker 1", 11, "ok", 0),
        ("worker 2", 12, "ok", 1),
    ]
    assert [one.get("clients") for one in whole["processes"]] == [None, 2, 3]


def test_nothing_was_said_yet() -> None:
    starting = Part("worker 1", "worker", 5, 0, "starting", None)
    assert merge_status([listener(), starting], 1.0) == {}
    whole = merge_status([Part("listener", "listener", 1, 0, "starting", None), worker(1), starting], 1.0)
    assert [one["status"] for one in whole["processes"]] == ["starting", "ok", "starting"]
    assert whole["links"]["postgres"] == {"state": "unknown", "error": None}
    assert whole["status"] == "degraded"


def test_one_worker_in_fallback_is_seen() -> None:
    fallen = worker(2, status="degraded", mode="direct", reason="Redis is lost", uptime_seconds=3.0, since="later",
                    links={"postgres": {"state": "closed"}, "redis": {"log": "away"}})  # fmt: skip
    whole = merge_status([listener(), worker(1), fallen], 1.0)
    assert (whole["status"], whole["mode"], whole["reason"], whole["since"]) == (
        "degraded", "direct", "Redis is lost", "later",
    )  # fmt: skip
    assert whole["links"]["redis"]["log"] == "away"


def test_it_is_down_only_where_no_worker_has_a_source() -> None:
    down = worker(2, status="down", mode="none", reason="starting")
    assert merge_status([listener(), worker(1), down], 1.0)["status"] == "degraded"
    whole = merge_status([listener(), worker(1, status="down", mode="none"), down], 1.0)
    assert (whole["status"], whole["mode"]) == ("down", "none")


def test_a_process_that_does_not_answer_is_silent() -> None:
    whole = merge_status([listener("silent"), worker(1)], 1.0)
    assert (whole["status"], whole["processes"][0]["status"]) == ("degraded", "silent")


def test_draining() -> None:
    assert merge_status([worker(1), worker(2, draining=True)], 1.0)["draining"] is True
    assert "draining" not in merge_status([worker(1), worker(2)], 1.0)


def test_without_a_listener_the_worst_session_is_shown() -> None:
    links = [{"postgres": {"state": state}, "redis": {"log": "off"}} for state in ("closed", "proven", "lost")]
    parts = [worker(number, links=one) for number, one in enumerate(links, 1)]
    assert merge_status(parts, 1.0)["links"]["postgres"]["state"] == "lost"
    assert merge_status(parts[:2], 1.0)["links"]["postgres"]["state"] == "proven"


def test_latency_is_that_of_the_middle_and_of_the_slowest() -> None:
    busy = {"p50_ms": 5.0, "p99_ms": 7.0, "samples": 30, "leg": "log_to_delivered"}
    other_leg = {"p50_ms": 500.0, "p99_ms": 700.0, "samples": 1, "leg": "received_to_delivered"}
    parts = [worker(1), worker(2, latency=busy), worker(3, latency=NO_EVENTS), worker(4, latency=other_leg)]
    assert merge_status(parts, 1.0)["latency"] == {
        "p50_ms": 5.0, "p99_ms": 9.0, "samples": 40, "leg": "log_to_delivered",
    }  # fmt: skip
    assert merge_status([worker(1, latency=NO_EVENTS)], 1.0)["latency"] == NO_EVENTS


def test_each_gap_is_told_once() -> None:
    one = {"at": "2", "after": "1-1", "before": "1-9", "reason": "failover"}
    two = {"at": "1", "after": "1-1", "before": None, "reason": "failover"}
    whole = merge_status([worker(1, gaps=[one]), worker(2, gaps=[two, one | {"at": "3"}])], 1.0)
    assert whole["gaps"] == [two, one]
