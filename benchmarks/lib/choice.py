"""Which systems a benchmark compares, and how to start them all."""

import argparse
import contextlib
from collections.abc import Sequence

from benchmarks.lib.bridge import Servers
from benchmarks.lib.failure import BenchmarkFailed
from benchmarks.lib.result import Result
from benchmarks.lib.system import Running, System
from benchmarks.peers import PEERS


def add_choice(made: argparse.ArgumentParser) -> None:
    """The options that say which."""
    made.add_argument("--only", nargs="+", metavar="TEXT", help="systems whose names contain one of these")
    made.add_argument("--no-peers", action="store_true")


def chosen(systems: Sequence[System], options: argparse.Namespace) -> list[System]:
    """These and the peers, as far as they are wanted."""
    found = [*systems, *(() if options.no_peers else PEERS)]
    parts = options.only or [""]
    return [system for system in found if any(part in system.name for part in parts)]


def start_all(
    systems: Sequence[System], on: Servers, stack: contextlib.ExitStack, result: Result
) -> dict[System, Running]:
    """Those that can be started; what is missing is noted with what to do."""
    running = {}
    for system in systems:
        reason = system.missing()
        if reason is None:
            try:
                running[system] = stack.enter_context(system.start(on))
                result.versions = {**result.versions, **system.versions()}
                continue
            except BenchmarkFailed as failure:
                reason = str(failure)
        result.notes.append(f"not measured: {system.name} ({reason})")
    return running
