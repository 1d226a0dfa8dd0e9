"""How many clients connect per second, all at once as after a deploy, beside bare loops and peers in the same run.

    python -m benchmarks.handshakes [--clients 5000] [--rounds 5] [--only TEXT …] [--no-peers]

A handshake counts when the client was told `subscribed` (a peer's: when its subscription was confirmed, or else the
handshake answered). The clients are one small program in C, with `--in-flight` connections on their way at any time.
The bare loops accept, read a request, and answer 101 without a look: what the kernel and the language take for it.
The systems take turns; a rate is the median of the rounds', a ratio the median of the ratios within a round.
"""

import argparse
import contextlib
from dataclasses import dataclass

from benchmarks.lib.bridge import servers
from benchmarks.lib.choice import add_choice, chosen, start_all
from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.lib.fanning import wait_until_quiet
from benchmarks.lib.machine import server_versions
from benchmarks.lib.processes import processor_seconds
from benchmarks.lib.receiver import Receiver
from benchmarks.lib.result import Result, Target, parser, turn
from benchmarks.lib.stats import median
from benchmarks.lib.system import Running, System, bridge_system, local_system
from benchmarks.lib.table import Cell

WANTED_PER_SECOND = 10_000
CONNECT_SECONDS = 100.0
BARE_C, BARE_PYTHON = local_system("C", 1), local_system("Python", 1)
DIRECT = bridge_system("direct")
SYSTEMS = (BARE_C, BARE_PYTHON, DIRECT, bridge_system("redis"), bridge_system("direct", 2))


@dataclass(frozen=True)
class Storm:
    """All have connected."""

    per_second: float
    half_seconds: float
    """Until half of them had."""
    processor_seconds: float
    """Of the server, for one client."""


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--clients", type=int, default=5000)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--in-flight", type=int, default=1000, help="handshakes on their way; the kernel queues 4096")
    add_choice(made)
    options = made.parse_args()
    storms: dict[str, list[Storm]] = {}
    failed: dict[str, str] = {}
    with servers() as on, contextlib.ExitStack() as stack:
        result = Result("handshakes", "Handshakes", versions=server_versions(*on))
        running = start_all(chosen(SYSTEMS, options), on, stack, result)
        for _ in range(options.rounds):
            for system, each in running.items():
                if system.name in failed:
                    continue
                try:
                    with turn(options):
                        found = storm(each, options)
                    storms.setdefault(system.name, []).append(found)
                except BenchmarkFailed as failure:
                    failed[system.name] = str(failure)
    result.notes += [f"{name}: {reason}" for name, reason in failed.items()]
    report(list(running), storms, options, result)
    result.finish(options)


def storm(running: Running, options: argparse.Namespace) -> Storm:
    """All connect at once, and go when all are there. Raises BenchmarkFailed where one is refused."""
    count: int = options.clients
    with Receiver(running.port, running.form, in_flight=options.in_flight) as receiver:
        before = processor_seconds(running.pids())
        running.before_connect(count)
        connected = receiver.connect(count, seconds=CONNECT_SECONDS)
        running.after_connect()
        used = processor_seconds(running.pids()) - before
        receiver.disconnect()
        running.after_disconnect()
    wait_until_quiet(running)
    return Storm(count / connected.seconds, connected.half_seconds, used / count)


def report(systems: list[System], storms: dict[str, list[Storm]], options: argparse.Namespace, result: Result) -> None:
    def against(name: str, other: str) -> float | None:
        pairs = zip(storms.get(name, ()), storms.get(other, ()), strict=False)
        return median(one.per_second / two.per_second for one, two in pairs) if storms.get(other) else None

    for system in systems:
        if system.name not in storms:
            continue
        found = storms[system.name]
        row: dict[str, Cell] = {
            "system": system.name,
            "kind": system.kind,
            "clients": options.clients,
            "handshakes a second": median(one.per_second for one in found),
            "fastest": max(one.per_second for one in found),
            "of the bare Python loop": against(system.name, BARE_PYTHON.name),
            "of the bare C loop": against(system.name, BARE_C.name),
            "half connected, s": median(one.half_seconds for one in found),
            "processor, µs each": median(one.processor_seconds for one in found) * 1e6,
        }
        result.rows.append(row)
    if DIRECT.name in storms:
        rate = median(one.per_second for one in storms[DIRECT.name])
        limit = against(DIRECT.name, BARE_PYTHON.name)
        beside = f"; the bare Python loop is {1 / limit:.1f} times as fast" if limit else ""
        result.targets.append(
            Target(
                "handshakes a second, one process",
                f"{rate:,.0f}",
                f"at least {WANTED_PER_SECOND:,}",
                rate >= WANTED_PER_SECOND,
                f"the processor time of Python{beside}" if rate < WANTED_PER_SECOND else "",
            )
        )


if __name__ == "__main__":
    run(main)
