"""What clients that have stopped reading cost the others: latencies to 900 clients while 100 more are stalled.

    python -m benchmarks.stalled [--clients 1000] [--stalled 100] [--per-second 20] [--seconds 15]

Three phases in one run: everybody reads; some are stalled, with full sockets, and the bridge buffers for them; they are
gone. The readers are the same in all phases, read by a small program in C. A latency goes from right before the NOTIFY
leaves to after a client's read, for all clients.
"""

import argparse
import itertools
import time

from benchmarks.lib.bridge import RunningBridge, Servers, bridge, servers
from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.lib.machine import server_versions
from benchmarks.lib.probe import Probe, clients
from benchmarks.lib.result import Result, Target, parser, turn
from benchmarks.lib.sender import CHANNEL, paced, session
from benchmarks.lib.stats import Latency, median

FILLER_BYTES = 7000
FILLER_PAUSE_SECONDS = 0.02
ARRIVE_SECONDS = 30.0
WANTED_RATIO = 1.2
SMALL_BUFFER_BYTES = 4096


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--clients", type=int, default=1000)
    made.add_argument("--stalled", type=int, default=100)
    made.add_argument("--per-second", type=float, default=20)
    made.add_argument("--seconds", type=float, default=15, help="of each phase")
    made.add_argument("--fillers", type=int, default=600, help="events of 7,000 bytes that fill the sockets")
    options = made.parse_args()
    with servers() as on:
        result = Result("stalled", "Beside clients that have stopped reading", versions=server_versions(*on))
        with turn(options), bridge(*on) as running:
            measure(on, running, options, result)
    result.finish(options)


def measure(on: Servers, running: RunningBridge, options: argparse.Namespace, result: Result) -> None:
    """All three phases."""
    readers, count = options.clients - options.stalled, int(options.per_second * options.seconds)
    latencies: list[Latency] = []
    held: list[float] = []

    def phase(name: str) -> None:
        latencies.append(latency_of(on, probe, readers, count, options.per_second))
        held.append(running.metric("notify_bridge_buffered_bytes"))
        result.rows.append(
            {
                "phase": name,
                "median ms": latencies[-1].median,
                "p99 ms": latencies[-1].p99,
                "p99.9 ms": latencies[-1].p999,
                "buffered bytes": round(held[-1]),
            }
        )

    with clients(running.port, readers, recorded=readers, capacity=count) as probe:
        with clients(running.port, options.stalled, receive_buffer_bytes=SMALL_BUFFER_BYTES) as others:
            latency_of(on, probe, readers, min(count, int(2 * options.per_second)), options.per_second)  # all is warm
            phase("everybody reads")
            others.stall(0, options.stalled)
            fill(on, probe, readers, options.fillers)
            phase(f"{options.stalled} are stalled")
        phase("the stalled are gone")
    before, beside, after = (each.p99 for each in latencies)
    ratio = beside / median([before, after])
    result.targets.append(
        Target(
            "p99 beside stalled clients",
            f"{ratio:.2f} times that without them",
            f"at most {WANTED_RATIO:g} times",
            ratio <= WANTED_RATIO,
            "what is buffered for the stalled" if ratio > WANTED_RATIO else "",
        )
    )


def fill(on: Servers, probe: Probe, readers: int, count: int) -> None:
    """Enough for the sockets of those who do not read, and more."""
    probe.reset()
    with session(on.database_url) as opened:
        for _ in range(count):
            opened.execute("SELECT pg_notify(%s, %s)", (CHANNEL, '{"n":0,"filler":"' + "x" * FILLER_BYTES + '"}'))
            time.sleep(FILLER_PAUSE_SECONDS)
    if probe.wait(count * readers, ARRIVE_SECONDS).events != count * readers:
        raise BenchmarkFailed("the readers did not get everything")


def latency_of(on: Servers, probe: Probe, readers: int, count: int, per_second: float) -> Latency:
    """Of all deliveries of so many events. Raises BenchmarkFailed where one is missing or twice."""
    probe.reset()
    sent = paced(on.database_url, count, per_second)
    seen = probe.wait(count * readers, ARRIVE_SECONDS)
    if seen.events != count * readers or not seen.flawless:
        raise BenchmarkFailed(f"{count} events to {readers} clients were to come, each once and in order, but: {seen}")
    came = itertools.chain.from_iterable(zip(sent, times, strict=True) for times in probe.times(count))
    return Latency.of_ns(at - left for left, at in came)


if __name__ == "__main__":
    run(main)
