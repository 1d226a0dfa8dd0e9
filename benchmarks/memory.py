"""How much memory a client costs, once it has connected and once it has been sent something, beside peers.

    python -m benchmarks.memory [--clients 1000 10000] [--rounds 3] [--only TEXT …] [--no-peers]

Memory is that of the server's processes (PSS: what they share is counted in parts; pages of files are left out), before
and after so many clients have connected, and again when each has had 20 events of one transaction. Every system is
started anew for every number: memory that a process once had it may keep. The kernel keeps something for every
connection too; what its slabs grow by is named beside, for both ends.
"""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lib.bridge import Servers, servers
from benchmarks.lib.choice import add_choice, chosen
from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.lib.fanning import wait_until_quiet
from benchmarks.lib.machine import server_versions
from benchmarks.lib.processes import memory_bytes
from benchmarks.lib.receiver import Receiver
from benchmarks.lib.result import Result, Target, parser, turn
from benchmarks.lib.stats import median
from benchmarks.lib.system import System, bridge_system

WANTED_KIB = 20.0
BURST = 20
CONNECT_SECONDS = 100.0
ARRIVE_SECONDS = 100.0
DIRECT = bridge_system("direct")
SYSTEMS = (DIRECT, bridge_system("redis"), bridge_system("direct", 2))


@dataclass(frozen=True)
class Held:
    """Bytes a client."""

    connected: float
    used: float
    """After a burst."""
    kernel: float


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--clients", type=int, nargs="+", default=[1000, 10_000])
    made.add_argument("--rounds", type=int, default=3)
    add_choice(made)
    options = made.parse_args()
    held: dict[tuple[str, int], list[Held]] = {}
    failed: dict[str, str] = {}
    with servers() as on:
        result = Result("memory", "Memory per client", versions=server_versions(*on))
        wanted = chosen(SYSTEMS, options)
        for count in options.clients:
            for _ in range(options.rounds):
                for system in wanted:
                    reason = failed.get(system.name) or system.missing()
                    try:
                        if reason is None:
                            with turn(options):
                                found = measure(system, on, count)
                            held.setdefault((system.name, count), []).append(found)
                    except BenchmarkFailed as failure:
                        reason = f"{count:,} clients: {failure}"
                    if reason is not None:
                        failed[system.name] = reason
    result.notes += [f"not measured: {name} ({reason})" for name, reason in failed.items()]
    report(held, result)
    result.finish(options)


def measure(system: System, on: Servers, count: int) -> Held:
    """One number of clients of a system that was just started."""
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(system.start(on))
        with Receiver(running.port, running.form) as receiver:  # what the first clients load is not theirs
            running.before_connect(10)
            receiver.connect(10)
            running.after_connect()
            receiver.expect(BURST)
            running.burst(BURST)
            receiver.wait(ARRIVE_SECONDS)
            receiver.disconnect()
            running.after_disconnect()
        wait_until_quiet(running)
        receiver = stack.enter_context(Receiver(running.port, running.form))
        before, slabs = memory_bytes(running.pids()), slab_bytes()
        running.before_connect(count)
        receiver.connect(count, seconds=CONNECT_SECONDS)
        running.after_connect()
        wait_until_quiet(running)
        connected, kernel = memory_bytes(running.pids()) - before, slab_bytes() - slabs
        receiver.expect(BURST)
        running.burst(BURST)
        receiver.wait(ARRIVE_SECONDS)
        wait_until_quiet(running)
        used = memory_bytes(running.pids()) - before
    return Held(connected / count, used / count, kernel / count)


def slab_bytes() -> int:
    """The kernel's own objects, sockets among them."""
    found = re.search(r"^Slab:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def report(held: dict[tuple[str, int], list[Held]], result: Result) -> None:
    for (name, count), found in held.items():
        connected = median(each.connected for each in found) / 1024
        result.rows.append(
            {
                "system": name,
                "clients": count,
                "KiB a client": connected,
                "after a burst": median(each.used for each in found) / 1024,
                "kernel, both ends": median(each.kernel for each in found) / 1024,
            }
        )
        if name == DIRECT.name:
            result.targets.append(
                Target(
                    f"memory a client, {count:,} clients of one process",
                    f"{connected:.1f} KiB",
                    f"at most {WANTED_KIB:g} KB",
                    connected * 1.024 <= WANTED_KIB,
                    "tasks and buffers of Python" if connected * 1.024 > WANTED_KIB else "",
                )
            )


if __name__ == "__main__":
    run(main)
