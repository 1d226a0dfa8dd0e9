"""Where the processor's time goes: seconds for a million deliveries, in the bridge's own code and in the kernel.

    python -m benchmarks.processor [--clients 1000] [--rounds 3] [--only TEXT …] [--no-peers]

*Burst*: many notifications of one transaction, or as many messages as a peer's source takes. *One by one*: each is
published when everybody has the one before. Counted is what all processes of a system use; PostgreSQL, Redis and who
publishes are not among them. A bare loop of `send`, in C or Python, is what the kernel takes for it alone. The systems
take turns; numbers are medians of the rounds.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lib.bridge import Servers, servers
from benchmarks.lib.choice import add_choice, chosen
from benchmarks.lib.databases import fresh_database
from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.lib.fanning import Rate, burst, fitting, one_by_one, wait_until_quiet
from benchmarks.lib.machine import server_versions
from benchmarks.lib.receiver import Receiver
from benchmarks.lib.result import Result, parser, turn
from benchmarks.lib.stats import median
from benchmarks.lib.system import Running, System, bridge_system, local_system
from benchmarks.lib.table import Cell

MOST_MESSAGES = 20_000
MOST_DELIVERIES = 5_000_000
SECONDS = 1.0
SYSTEMS = (
    local_system("C", 64),
    local_system("Python", 64),
    bridge_system("direct"),
    bridge_system("redis"),
    bridge_system("redis", 2),
)


@dataclass(frozen=True)
class Used:
    """Seconds of the processor for a million deliveries."""

    own: float
    kernel: float


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--clients", type=int, default=1000)
    made.add_argument("--rounds", type=int, default=3)
    add_choice(made)
    options = made.parse_args()
    used: dict[str, list[tuple[Used, Used]]] = {}
    failed: dict[str, str] = {}
    with servers() as on:
        result = Result("processor", "Processor time", versions=server_versions(*on))
        for _ in range(options.rounds):
            for system in chosen(SYSTEMS, options):
                reason = failed.get(system.name) or system.missing()
                if reason is None:
                    try:
                        with turn(options):
                            found = measure(system, on, options)
                        used.setdefault(system.name, []).append(found)
                    except BenchmarkFailed as failure:
                        reason = str(failure)
                if reason is not None:
                    failed[system.name] = reason
    result.notes += [f"not measured: {name} ({reason})" for name, reason in failed.items()]
    for name, pairs in used.items():
        row: dict[str, Cell] = {"system": name, "clients": options.clients}
        for number, what in enumerate(("burst", "one by one")):
            own, kernel = median(pair[number].own for pair in pairs), median(pair[number].kernel for pair in pairs)
            row |= {f"{what}, s": own + kernel, f"{what}, own": own, f"{what}, kernel": kernel}
        result.rows.append(row)
    result.finish(options)


def measure(system: System, on: Servers, options: argparse.Namespace) -> tuple[Used, Used]:
    """One round of one system: a burst of about a second, and a second one by one."""
    count: int = options.clients
    most = min(MOST_MESSAGES, max(1, MOST_DELIVERIES // count), system.most_messages)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(system.start(stack.enter_context(fresh_database(on, "processor"))))
        receiver = stack.enter_context(Receiver(running.port, running.form))
        running.before_connect(count)
        receiver.connect(count)
        running.after_connect()
        messages = fitting(running, receiver, count, most, SECONDS)
        wait_until_quiet(running)
        many = split(running, lambda: burst(running, receiver, count, messages))
        wait_until_quiet(running)
        single = split(running, lambda: one_by_one(running, receiver, count, SECONDS))
    return many, single


def split(running: Running, work: Callable[[], Rate]) -> Used:
    """How much of the processor time of this was the kernel's: it is known in steps of 10 ms, the sum exactly."""
    own, kernel = spent(running.pids())
    rate = work()
    own_after, kernel_after = spent(running.pids())
    total = own_after - own + kernel_after - kernel
    share = (kernel_after - kernel) / total if total else 0.0
    seconds = rate.processor_seconds_per_million
    return Used(seconds * (1 - share), seconds * share)


def spent(pids: Iterable[int]) -> tuple[int, int]:
    """Ticks in their own code and in the kernel."""
    own = kernel = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            own, kernel = own + int(fields[11]), kernel + int(fields[12])
    return own, kernel


if __name__ == "__main__":
    run(main)
