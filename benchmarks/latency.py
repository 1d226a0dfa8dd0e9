"""From commit to client: how long a notification takes to a WebSocket and to an event stream, beside a bare LISTEN.

    python -m benchmarks.latency [--rounds 3] [--seconds 2] [--rates 100 1000 5000] [--ways redis direct …]

Notifications are sent one a transaction on an absolute schedule, by a process of its own that notes the time right
before the bytes leave. All receivers hear the same notifications in the same run: a WebSocket client, an SSE client and
a bare LISTEN session, each read by a small program in C that notes when it came (with `--psycopg` one more LISTEN is
psycopg's; it costs the others something). The ways to run the bridge take turns, round by round; a number is the median
of the rounds'. `--crowd 1000`: so many more clients hear everything, at `--crowd-rate`; half of them subscribed before
the one that is measured.
"""

import argparse
import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

from benchmarks.lib.bridge import Servers, bridge, servers
from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.lib.machine import busy_share, server_versions
from benchmarks.lib.probe import Probe, bare_listen, clients
from benchmarks.lib.result import Result, Target, parser, turn
from benchmarks.lib.sender import CHANNEL, Times, paced, session
from benchmarks.lib.stats import Latency, median
from benchmarks.lib.table import Cell
from benchmarks.lib.ways import WAYS, Way

LATEST_SECONDS = 10.0
TARGET_PER_SECOND = 1000
WITHIN_MEDIAN_MS, WITHIN_P99_MS = 1.0, 5.0
WARM_UP = 300
BUSY_SHARE = 0.1
"""Of the processors; what is measured waits for its turn behind other work."""
BARE, PSYCOPG = "bare LISTEN", "bare LISTEN, psycopg"

Measured = dict[tuple[str, float, int, str], list[Latency]]
"""By the bridge's way, the rate, the size of the crowd and the receiver, one for each round."""


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--seconds", type=float, default=2.0, help="of each rate in each round")
    made.add_argument("--rates", type=int, nargs="+", default=[100, 1000, 5000], metavar="PER_SECOND")
    made.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="to run the bridge")
    made.add_argument("--crowd", type=int, default=1000, help="clients beside the one that is measured; 0: none")
    made.add_argument("--crowd-rate", type=int, default=50, metavar="PER_SECOND")
    made.add_argument("--psycopg", action="store_true", help="measure psycopg's LISTEN too")
    options = made.parse_args()
    measured: Measured = {}
    busy: list[float] = []
    with servers() as on:
        result = Result("latency", "From commit to client", versions=server_versions(*on))
        for _ in range(options.rounds):
            for name in options.ways:
                with turn(options):
                    busy.append(busy_share())
                    measure(on, WAYS[name], options, measured)
    report(measured, max(busy), result)
    result.finish(options)


def measure(on: Servers, way: Way, options: argparse.Namespace, measured: Measured) -> None:
    """One round of one way: all rates, then the crowd."""
    counts = {rate: max(1, int(rate * options.seconds)) for rate in [*options.rates, options.crowd_rate]}
    capacity = max([*counts.values(), WARM_UP])
    with bridge(*on, mode=way.mode, workers=way.workers) as running, contextlib.ExitStack() as stack:
        receivers = {
            "WebSocket": stack.enter_context(clients(running.port, 1, recorded=1, capacity=capacity)),
            "SSE": stack.enter_context(clients(running.port, 1, kind="sse", recorded=1, capacity=capacity)),
            BARE: stack.enter_context(bare_listen(on.database_url, capacity)),
        }
        once(on, receivers, WARM_UP, 1000, None)
        peer = stack.enter_context(psycopg_listen(on.database_url)) if options.psycopg else None
        for rate in options.rates:
            for receiver, latency in once(on, receivers, counts[rate], rate, peer).items():
                measured.setdefault((way.name, rate, 0, receiver), []).append(latency)
        if options.crowd:
            stack.enter_context(clients(running.port, options.crowd // 2))
            middle = stack.enter_context(clients(running.port, 1, recorded=1, capacity=capacity))
            stack.enter_context(clients(running.port, options.crowd // 2))
            heard = {"WebSocket": middle, BARE: receivers[BARE]}
            for receiver, latency in once(on, heard, counts[options.crowd_rate], options.crowd_rate, None).items():
                measured.setdefault((way.name, options.crowd_rate, options.crowd, receiver), []).append(latency)


def once(
    on: Servers, receivers: dict[str, Probe], count: int, rate: int, peer: Connection | None
) -> dict[str, Latency]:
    """Send so many; the latencies of each receiver. Raises BenchmarkFailed where one did not get each once in order."""
    for probe in receivers.values():
        probe.reset()
    if peer is not None:
        peer.send(count)
    sent = paced(on.database_url, count, rate)
    found = {}
    for name, probe in receivers.items():
        seen = probe.wait(count, LATEST_SECONDS)
        if seen.events != count or not seen.flawless:
            raise BenchmarkFailed(f"{name} did not get {count} events in order: {seen}")
        found[name] = latency_of(sent, probe.times(count)[0])
    if peer is not None:
        if not peer.poll(LATEST_SECONDS):
            raise BenchmarkFailed("psycopg did not hear all notifications")
        found[PSYCOPG] = latency_of(sent, peer.recv())
    return found


def latency_of(sent: Times, came: Sequence[int]) -> Latency:
    return Latency.of_ns(arrived - left for left, arrived in zip(sent, came, strict=True))


@contextlib.contextmanager
def psycopg_listen(database_url: str) -> Iterator[Connection]:
    """A process that LISTENs with psycopg: send it a count, and get the times at which so many came."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_listen, args=(database_url, there), daemon=True)
    process.start()
    try:
        if not here.poll(LATEST_SECONDS):
            raise BenchmarkFailed("psycopg did not connect")
        here.recv()
        yield here
    finally:
        process.kill()
        process.join()


def _listen(database_url: str, control: Connection) -> None:
    with session(database_url) as connection:
        connection.execute(f'LISTEN "{CHANNEL}"'.encode())
        control.send("ready")
        while True:
            count = control.recv()
            notifies = connection.notifies(stop_after=count)
            control.send([time.monotonic_ns() for _ in notifies][:count])


def report(measured: Measured, busy: float, result: Result) -> None:
    """A row for each receiver, and how far the bridge is from the bare LISTEN of the same rounds."""
    limit = "the wake-ups of so many processes on so few processors"
    if busy > BUSY_SHARE:
        limit = "other work on this machine"
        result.notes.append(f"other work took up to {busy:.0%} of the processors when a round began")
    for (way, rate, crowd, receiver), latencies in measured.items():
        bare = measured[way, rate, crowd, BARE]
        row: dict[str, Cell] = {
            "bridge": way,
            "clients": crowd + 1,
            "a second": rate,
            "receiver": receiver,
            "median ms": median(each.median for each in latencies),
            "p99 ms": median(each.p99 for each in latencies),
            "p99.9 ms": median(each.p999 for each in latencies),
        }
        if receiver != BARE:
            row["median above bare"] = above(latencies, bare, "median")
            row["p99 above bare"] = above(latencies, bare, "p99")
        result.rows.append(row)
        if receiver == "WebSocket" and "Redis" in way and rate == TARGET_PER_SECOND and not crowd:
            for what, within_ms in (("median", WITHIN_MEDIAN_MS), ("p99", WITHIN_P99_MS)):
                value = above(latencies, bare, what)
                result.targets.append(
                    Target(
                        f"{what} above a bare LISTEN, {way}, {rate:,} a second",
                        f"{value:.2f} ms",
                        f"at most {within_ms:g} ms",
                        value <= within_ms,
                        limit if value > within_ms else "",
                    )
                )


def above(latencies: list[Latency], bare: list[Latency], what: str) -> float:
    """Milliseconds; each round is compared with the bare LISTEN of the same round."""
    return median(getattr(one, what) - getattr(other, what) for one, other in zip(latencies, bare, strict=True))


if __name__ == "__main__":
    run(main)
