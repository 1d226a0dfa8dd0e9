"""The fan-out benchmark with a handful of clients: it runs, counts right, and leaves nobody out silently."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fanout, report
from benchmarks.lib.fanning import Rate, Turn
from benchmarks.lib.system import System
from benchmarks.peers import PEERS

SMALLEST = ("--clients", "3", "--rounds", "1", "--seconds", "0.05", "--deliveries", "300")


def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *only: str) -> Any:
    file = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["benchmark", "--json", str(file), *SMALLEST, "--only", *only])
    fanout.main()
    return json.loads(file.read_text())


def test_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    only = ("in C, joined by 64", "in Python", "hub alone, joined by 64", "Redis, 2 workers")
    result = measured(monkeypatch, tmp_path, *only)
    assert [row["system"] for row in result["rows"]] == [
        "bare send loop in C, joined by 64",
        "bare send loop in Python, joined by 512",
        "the hub alone, joined by 64",
        "bridge, through Redis, 2 workers",
    ]
    for row in result["rows"]:
        assert (row["clients"], row["messages"]) == (3, 100)
        assert row["burst/s"] > 0
        assert row["one by one/s"] > 0
    assert not [note for note in result["notes"] if note.startswith("Not measured")]


def test_a_system_that_is_not_there_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = dataclasses.replace(fanout.BARE_PYTHON, name="gone", missing=lambda: "install it with: this")
    monkeypatch.setattr(fanout, "SYSTEMS", (gone,))
    result = measured(monkeypatch, tmp_path, "gone")
    assert result["rows"] == []
    assert result["notes"] == ["Not measured: gone: install it with: this"]


def rate(per_second: float) -> Rate:
    return Rate(1, 1000, 1000 / per_second, 1000 / per_second, 0.01)


def turns(system: System, *per_second: float) -> fanout.Turns:
    return {(system.name, 1000): [Turn(rate(one), rate(one)) for one in per_second]}


def test_targets_are_ratios_within_the_rounds() -> None:
    nats = next(peer for peer in PEERS if peer.name == "NATS")
    found = turns(fanout.DIRECT, 10, 30, 100) | turns(nats, 5, 10, 100) | turns(fanout.BARE_PYTHON, 20, 31, 100)
    burst, single = fanout.targets(found, 1000)
    assert burst.value.startswith("2.00 times the fastest peer (NATS)")
    assert burst.met
    assert single.value.startswith("97%")
    assert single.met
    slow = turns(fanout.DIRECT, 14) | turns(nats, 10) | turns(fanout.BARE_PYTHON, 20)
    assert [target.met for target in fanout.targets(slow, 1000)] == [False, False]


def test_all_benchmarks_are_known_to_the_report() -> None:
    modules = {path.stem for path in Path("benchmarks").glob("*.py")}
    assert modules - {"__init__", "__main__", "report", "chart"} == set(report.ORDER)
