"""Each benchmark once, with few clients and few events: it runs, counts right, and says what it should say."""

import array
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import failover, filters, handshakes, ingest, latency, memory, processor, stalled
from bridge import embedded

Main = Callable[[], None]


@pytest.fixture(scope="module", autouse=True)
def servers_of_all() -> Iterator[None]:
    """The same for all of them, but for those that start their own in any case."""
    with embedded.started() as servers, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", servers.database_url)
        patch.setenv("REDIS_URL", servers.redis_url)
        yield


@pytest.fixture(name="small")
def small_fixture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Run one with these arguments; what it writes for the report."""

    def small(main: Main, *arguments: object) -> Any:
        file = tmp_path / "result.json"
        monkeypatch.setattr(sys, "argv", ["benchmark", "--rounds", "1", "--json", str(file), *map(str, arguments)])
        main()
        return json.loads(file.read_text())

    return small


def column(result: Any, name: str) -> list[Any]:
    return [row[name] for row in result["rows"]]


def test_latency(small: Callable[..., Any]) -> None:
    result = small(latency.main, "--ways", "redis", "--rates", 1000, "--seconds", 0.1, "--crowd", 10, "--psycopg")
    assert column(result, "receiver") == [
        "WebSocket", "SSE", "bare LISTEN", "bare LISTEN, psycopg", "WebSocket", "bare LISTEN",
    ]  # fmt: skip
    assert column(result, "clients") == [1, 1, 1, 1, 11, 11]
    assert all(0 < row["median ms"] <= row["p99 ms"] <= row["p99.9 ms"] for row in result["rows"])
    assert [row["receiver"] for row in result["rows"] if "median above bare" not in row] == ["bare LISTEN"] * 2
    assert [target["wanted"] for target in result["targets"]] == ["at most 1 ms", "at most 5 ms"]


def test_ingest(small: Callable[..., Any]) -> None:
    result = small(ingest.main, "--ways", "redis", "direct", "--events", 1000, "--clients", 2)
    assert set(column(result, "sent as")) == {"one transaction", "small transactions", "PUBLISH"}
    assert all(row["seconds"] > 0 for row in result["rows"])
    assert len(result["targets"]) == 1


def test_handshakes(small: Callable[..., Any]) -> None:
    result = small(handshakes.main, "--clients", 50, "--no-peers", "--only", "in Python", "bridge, direct")
    assert "bridge, direct" in column(result, "system")
    assert all(row["handshakes a second"] > 0 for row in result["rows"])
    assert len(result["targets"]) == 1


def test_memory(small: Callable[..., Any]) -> None:
    result = small(memory.main, "--clients", 1000, "--no-peers", "--only", "through Redis")
    assert column(result, "clients") == [1000]
    assert result["rows"][0]["after a burst"] > 0


def test_filters(small: Callable[..., Any]) -> None:
    result = small(filters.main, "--clients", 200, "--events", 50)
    assert column(result, "filters") == [1, 200, 1, 200, 100, 20, 200]
    assert column(result, "deliveries an event") == [200, 200, 1, 1, 1, 1, 1]
    assert len(result["targets"]) == 3


def test_processor(small: Callable[..., Any]) -> None:
    result = small(processor.main, "--clients", 5, "--no-peers", "--only", "in C")
    (row,) = result["rows"]
    assert row["one by one, s"] > 0


def test_failover(small: Callable[..., Any]) -> None:
    result = small(failover.main, "--only", "Redis paused, one process", "--outage", 0.5, "--after", 1)
    (row,) = result["rows"]
    assert 0 < max(row["silence, s"], row["when it is back, s"]) < 60  # a busy machine may notice late
    assert (row["lost, announced"], row["twice"]) == (0, 0)
    assert result["targets"][0]["met"]


def test_stalled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ["--clients", "10", "--stalled", "3", "--seconds", "0.5", "--fillers", "20"]
    monkeypatch.setattr(sys, "argv", ["benchmark", "--json", str(tmp_path / "result.json"), *arguments])
    stalled.main()
    result = json.loads((tmp_path / "result.json").read_text())
    assert column(result, "phase") == ["everybody reads", "3 are stalled", "the stalled are gone"]


def test_silence_is_counted_from_a_commit_that_nobody_heard_of() -> None:
    second = 10**9
    sent = {0: 1 * second, 1: 2 * second, 2: 6 * second, 3: 7 * second}
    times = array.array("q", [1 * second + 1, 5 * second, 8 * second, 8 * second])
    assert failover.longest_silence(times, sent, 0, 4 * second) == 3
    assert failover.longest_silence(times, sent, 4 * second, 9 * second) == 2
    assert failover.longest_silence(times, sent, 4 * second, 5 * second) == 0
