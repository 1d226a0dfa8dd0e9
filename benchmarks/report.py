"""What all benchmarks have found, as a page and a picture: docs/benchmarks.md and docs/benchmarks.svg.

    python -m benchmarks.report [--results build/benchmarks/results] [--docs docs]

Reads the JSON that `python -m benchmarks` or any benchmark's `--json` has written; runs nothing.
"""

import argparse
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chart import bars
from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.lib.table import Cell, markdown

RESULTS, DOCS = Path("build/benchmarks/results"), Path("docs")
ORDER = ("fanout", "latency", "ingest", "handshakes", "memory", "processor", "filters", "stalled", "failover")
CHART_CLIENTS = 1000
NOT_IN_CHART = ("joined by 64", "the hub alone")
PANELS = (("burst/s", "burst: deliveries a second"), ("one by one/s", "one by one: deliveries a second"))
HEAD = """# Benchmarks

Made by `python -m benchmarks.report` from results of `python -m benchmarks`;
[benchmarks/README.md](../benchmarks/README.md) says how to run each. Everything ran on one machine: server, PostgreSQL,
Redis and all clients share its processors. So the ratios within a table are worth more than its numbers, and numbers of
different tables were not measured at the same time. Peers differ in what they promise and in where their messages come
from; the notes say it.
"""
PICTURE = "![Deliveries a second to 1,000 clients, of the bridge, bare loops and peers](benchmarks.svg)\n"

Found = Mapping[str, Any]
"""A result as JSON (`benchmarks.lib.result`)."""


def page(results: Sequence[Found], *, picture: bool) -> str:
    """The whole page."""
    parts = [HEAD]
    parts += [PICTURE] if picture else []
    parts += ["## Targets\n", markdown(target_rows(results)) + "\n"]
    parts += ["## Machine and versions\n", *(f"- {line}" for line in machines(results)), ""]
    for found in results:
        parts.append(section(found))
    return "\n".join(parts)


def target_rows(results: Sequence[Found]) -> list[dict[str, Cell]]:
    """What was to be reached, of all benchmarks."""
    return [
        {
            "benchmark": found["benchmark"],
            "target": target["name"],
            "measured": target["value"],
            "wanted": target["wanted"],
            "": "met" if target["met"] else f"**not met**: {target['limited_by'] or 'see below'}",
        }
        for found in results
        for target in found["targets"]
    ]


def machines(results: Sequence[Found]) -> list[str]:
    """Each machine once, with the benchmarks that ran on it where there are several; then all versions."""
    by_machine: dict[str, list[str]] = {}
    versions: dict[str, set[str]] = {}
    for found in results:
        machine = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
        by_machine.setdefault(machine, []).append(found["benchmark"])
        for name, version in found["versions"].items():
            versions.setdefault(name, set()).add(version)
    lines = [
        machine if len(by_machine) == 1 else f"{', '.join(benchmarks)}: {machine}"
        for machine, benchmarks in by_machine.items()
    ]
    return [*lines, ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in sorted(versions.items()))]


def section(found: Found) -> str:
    """One benchmark: what it does, in its own words, and what it has found."""
    module = importlib.import_module(f"benchmarks.{found['benchmark']}")
    parts = [f"## {found['title']}\n", (module.__doc__ or "").strip() + "\n"]
    if found["rows"]:
        parts.append(tables(found["rows"]) + "\n")
    if found["notes"]:
        parts.append("\n".join(f"- {note}" for note in found["notes"]) + "\n")
    return "\n".join(parts)


def tables(rows: Sequence[Mapping[str, Cell]]) -> str:
    """One table for each number of clients where there are several; no column that is empty or repeats the heading."""
    several = list(dict.fromkeys(row.get("clients") for row in rows))
    if len(several) < 2 or "system" not in rows[0]:
        return markdown(rows, _columns(rows))
    parts = []
    for clients in several:
        these = [row for row in rows if row.get("clients") == clients]
        noun = "client" if clients == 1 else "clients"
        parts += [
            f"**{clients:,} {noun}**\n",
            markdown(these, [name for name in _columns(these) if name != "clients"]),
            "",
        ]
    return "\n".join(parts).rstrip()


def _columns(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name != "kind" and any(row.get(name) is not None for row in rows)]


def chart(found: Found) -> str | None:
    """The picture, from the fan-out's rows with CHART_CLIENTS; None where there are none."""
    rows = [
        row
        for row in found["rows"]
        if row["clients"] == CHART_CLIENTS and not any(part in row["system"] for part in NOT_IN_CHART)
    ]
    if not rows:
        return None
    machine = found["machine"]
    shared = f"{machine['processors']} processors for servers and clients together"
    title = f"Fan-out to {CHART_CLIENTS:,} WebSocket clients"
    return bars(title, PANELS, rows, f"{machine['processor']}, {shared}; medians of one run")


def read(directory: Path) -> list[Found]:
    """All results there, in the order of the page. Raises BenchmarkFailed where there are none."""
    found = [json.loads(path.read_text()) for path in directory.glob("*.json")]
    if not found:
        raise BenchmarkFailed(f"no results in {directory}: run python -m benchmarks first")
    return sorted(found, key=lambda one: ORDER.index(one["benchmark"]))


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--results", type=Path, default=RESULTS)
    made.add_argument("--docs", type=Path, default=DOCS)
    options = made.parse_args()
    write(options.results, options.docs)


def write(results: Path, docs: Path) -> None:
    """Write the page and the picture into `docs`."""
    found = read(results)
    drawn = next((chart(one) for one in found if one["benchmark"] == "fanout"), None)
    if drawn is not None:
        (docs / "benchmarks.svg").write_text(drawn)
    (docs / "benchmarks.md").write_text(page(found, picture=drawn is not None))
    print(f"wrote {docs / 'benchmarks.md'}")


if __name__ == "__main__":
    run(main)
