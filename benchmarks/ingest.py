"""How fast notifications get through: a huge transaction, and many small ones, to ten clients.

    python -m benchmarks.ingest [--rounds 3] [--events 100000] [--clients 10] [--ways redis direct …]

One transaction with 100,000 NOTIFYs, all different: the time from COMMIT sent to the last client's last event, with the
default buffers; every client must get each once and in order, without a gap, and nobody may be disconnected. Beside it,
in the same rounds: the same transaction to bare LISTEN sessions, read by a program in C, and as many bare PUBLISHes of
the same payloads to Redis. Then as many transactions of one NOTIFY each as PostgreSQL takes on some connections.
"""

import argparse
import time
from collections.abc import Callable

from benchmarks.lib.bridge import Servers, bridge, servers
from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.lib.machine import server_versions
from benchmarks.lib.probe import Probe, bare_listen, bare_subscribe, clients, redis_socket
from benchmarks.lib.processes import processor_seconds
from benchmarks.lib.result import Result, Target, parser, turn
from benchmarks.lib.sender import CHANNEL, REST, SUBJECTS, flood, session, transaction
from benchmarks.lib.stats import median
from benchmarks.lib.ways import WAYS

WITHIN_SECONDS = 2.0
WAIT_SECONDS = 60.0
CONNECTIONS, DEPTH = 4, 50
"""Of the small transactions: PostgreSQL commits those with a NOTIFY one after another, more connections help little."""
LARGE, SMALL, PUBLISH = "one transaction", "small transactions", "PUBLISH"

Runs = dict[tuple[str, str, int], list[tuple[float, float]]]
"""By what was sent, through what, and the number of receivers: seconds, and those of a bridge's processors."""


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--events", type=int, default=100_000)
    made.add_argument("--clients", type=int, default=10)
    made.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="to run the bridge")
    options = made.parse_args()
    runs: Runs = {}
    with servers() as on:
        result = Result("ingest", "Ingest", versions=server_versions(*on))
        for _ in range(options.rounds):
            for step in [bare, *(through(name) for name in options.ways)]:
                with turn(options):
                    step(on, options, runs)
    report(runs, options, result)
    result.finish(options)


def bare(on: Servers, options: argparse.Namespace, runs: Runs) -> None:
    """What PostgreSQL and Redis take for it alone."""
    for receivers in (1, options.clients):
        with bare_listen(on.database_url, options.events, receivers) as probe:
            for what, send in ((LARGE, commit), (SMALL, commit_each)):
                note(runs, (what, "bare LISTEN", receivers), send(on, probe, options.events, receivers))
    with bare_subscribe(on.redis_url, options.events, options.clients) as probe:
        seconds = publish(on, probe, options.events, options.clients)
        note(runs, (PUBLISH, "bare SUBSCRIBE", options.clients), seconds)


def through(name: str) -> Callable[[Servers, argparse.Namespace, Runs], None]:
    """Both through a bridge."""
    way = WAYS[name]

    def measure(on: Servers, options: argparse.Namespace, runs: Runs) -> None:
        count = options.events
        with (
            bridge(*on, mode=way.mode, workers=way.workers) as running,
            clients(running.port, options.clients, recorded=options.clients, capacity=count) as probe,
        ):
            for what, send in ((LARGE, commit), (SMALL, commit_each)):
                before = processor_seconds(running.pids())
                seconds = send(on, probe, count, options.clients)
                note(runs, (what, way.name, options.clients), seconds, processor_seconds(running.pids()) - before)

    return measure


def commit(on: Servers, probe: Probe, count: int, receivers: int) -> float:
    """One transaction; seconds from its COMMIT to the last event."""
    probe.reset()
    with session(on.database_url) as opened:
        transaction(opened, count)
        started = time.monotonic_ns()
        opened.execute(b"COMMIT")
    return arrived(probe, count, receivers, started)


def commit_each(on: Servers, probe: Probe, count: int, receivers: int) -> float:
    """As many transactions as there are events, a part of them; seconds for the whole number."""
    some = count // 5
    probe.reset()
    started = flood(on.database_url, some, CONNECTIONS, DEPTH)[0]
    return arrived(probe, some, receivers, started, ordered=False) * count / some


def publish(on: Servers, probe: Probe, count: int, receivers: int) -> float:
    """The same payloads, pipelined."""
    payloads = [f'{{"n":{n},"match_id":{n % SUBJECTS},{REST}}}' for n in range(count)]
    data = "".join(f"PUBLISH {CHANNEL} '{payload}'\r\n" for payload in payloads).encode()
    probe.reset()
    with redis_socket(on.redis_url) as connection:
        started = time.monotonic_ns()
        connection.sendall(data)
        return arrived(probe, count, receivers, started)


def arrived(probe: Probe, count: int, receivers: int, started: int, *, ordered: bool = True) -> float:
    """Seconds until everything came; raises BenchmarkFailed where anything is missing, twice or not in order."""
    seen = probe.wait(count * receivers, WAIT_SECONDS)
    flaws = seen.repeated or seen.late or seen.gaps or seen.closed or (ordered and seen.disorder)
    if seen.events != count * receivers or flaws:
        raise BenchmarkFailed(f"not {receivers} times {count} events, each once and in order: {seen}")
    return (seen.last_ns - started) / 1e9


def note(runs: Runs, key: tuple[str, str, int], seconds: float, processor: float = 0.0) -> None:
    runs.setdefault(key, []).append((seconds, processor))


def report(runs: Runs, options: argparse.Namespace, result: Result) -> None:
    count = options.events
    for (what, through_what, receivers), pairs in sorted(runs.items(), key=lambda item: item[0][0]):
        seconds = median(pair[0] for pair in pairs)
        processor = median(pair[1] for pair in pairs)
        result.rows.append(
            {
                "sent as": what,
                "received": through_what,
                "receivers": receivers,
                "seconds": seconds,
                "events a second": round(count / seconds),
                "slowest round, s": max(pair[0] for pair in pairs),
                "processor, µs an event": processor / (count if what == LARGE else count / 5) * 1e6 or None,
            }
        )
        if what == LARGE and "Redis" in through_what:
            result.targets.append(
                Target(
                    f"{count:,} notifications of one transaction to {receivers} clients, {through_what}",
                    f"{seconds:.2f} s",
                    f"less than {WITHIN_SECONDS:g} s",
                    seconds < WITHIN_SECONDS,
                    "the processor time of the bridge" if seconds >= WITHIN_SECONDS else "",
                )
            )
    result.notes.append(
        f"small transactions: on {CONNECTIONS} connections, {DEPTH} unanswered on each; a fifth of the events was sent"
    )


if __name__ == "__main__":
    run(main)
