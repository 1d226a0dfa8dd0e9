"""What a benchmark has found: one shape for all, as JSON for the report and as a table for the terminal.

{"benchmark": "fanout", "title": …, "machine": {…}, "versions": {…}, "rows": [{…}, …],
 "targets": [{"name", "value", "wanted", "met", "limited_by"}, …]}
"""

import argparse
import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.lib.machine import machine, versions
from benchmarks.lib.table import Cell, terminal


@dataclasses.dataclass(frozen=True)
class Target:
    """What was to be reached. `value` and `wanted` are words with units; `limited_by`: why not, where it is not met."""

    name: str
    value: str
    wanted: str
    met: bool
    limited_by: str = ""


@dataclasses.dataclass
class Result:
    """Of one benchmark; rows may have different columns. `versions`: more of them than those of the bridge's own."""

    benchmark: str
    title: str
    rows: list[dict[str, Cell]] = dataclasses.field(default_factory=list)
    targets: list[Target] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self) | {"machine": machine(), "versions": versions() | dict(self.versions)}

    def finish(self, options: argparse.Namespace) -> None:
        """Print the table and the targets, and write the JSON where `--json` says."""
        if self.rows:
            print(terminal(self.rows))
        for target in self.targets:
            met = "met" if target.met else "not met" + (f" (limited by {target.limited_by})" * bool(target.limited_by))
            print(f"{target.name}: {target.value}, wanted {target.wanted}: {met}")
        for note in self.notes:
            print(note)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(self.as_dict(), indent=1) + "\n")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    made.add_argument(
        "--lock", type=Path, metavar="FILE", help="hold a lock on this file whenever something is measured"
    )
    return made


@contextlib.contextmanager
def turn(options: argparse.Namespace) -> Iterator[None]:
    """While something is measured, nobody else on this machine measures who was given the same `--lock`."""
    if options.lock is None:
        yield
        return
    with options.lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
