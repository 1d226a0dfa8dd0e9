"""How long clients hear nothing when something fails, and when it comes back, at 500 notifications a second.

    python -m benchmarks.failover [--rounds 3] [--per-second 500] [--only WORDS] [--outage 3]

Each scenario: notifications at an even pace, all the time, to one client; after a while something fails, and is there
again after `--outage` seconds. Told is the longest time in which the client heard nothing although something was
committed, while the failure lasts and from when it is over; how late the latest event was, from its commit; how many
came marked `late`, how many never came (those must be covered by a gap that was announced), and how many came twice.
The servers are this benchmark's own. Numbers are medians of the rounds, but for what was lost or came twice: sums.
"""

import argparse
import contextlib
import os
import signal
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.lib.bridge import RunningBridge, bridge
from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.lib.faulty import Notifier, Valkey
from benchmarks.lib.machine import server_versions
from benchmarks.lib.probe import Probe, clients
from benchmarks.lib.result import Result, Target, parser, turn
from benchmarks.lib.sender import Times, session
from benchmarks.lib.stats import median
from bridge.embedded import started

BEFORE_SECONDS = 1.5
ARRIVE_SECONDS = 5.0
PREFIX = {"BRIDGE_REDIS_PREFIX": "benchmark_failover"}


@dataclass(frozen=True)
class World:
    """What a scenario has at hand; `bridges` and `listeners` in the order in which they were started."""

    database_url: str
    valkey: Valkey
    bridges: list[RunningBridge]
    listeners: list[RunningBridge]


@dataclass(frozen=True)
class Scenario:
    """`fail`, and after a while `heal`."""

    what: str
    shape: str
    fail: Callable[[World], None]
    heal: Callable[[World], None] = lambda _: None
    workers: int | None = None
    listeners: int = 0
    """Processes of their own; 0: the bridge is its own listener."""


@dataclass(frozen=True)
class Heard:
    """By one client."""

    silent_failing: float
    """Seconds; the longest time that nothing came, although something was committed, until the failure is healed."""
    silent_healed: float
    latest: float
    """Seconds from commit to the event that took longest."""
    late: int
    lost: int
    gaps: int
    repeated: int


def crash(world: World) -> None:
    """PostgreSQL throws all sessions away when one dies, and recovers."""
    with session(world.database_url) as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)


def listener_of(running: RunningBridge) -> int:
    """The process of `--workers` that listens."""
    processes = running.status()["processes"]
    return next(int(each["pid"]) for each in processes if each["role"] == "listener")


def restart_redis(world: World) -> None:
    world.valkey.start()


SCENARIOS = [
    *(
        Scenario(f"Redis {what}", shape, fail, heal, workers, listeners)
        for shape, workers, listeners in (
            ("one process", None, 0),
            ("--workers 2", 2, 0),
            ("--no-listener, listen beside it", None, 1),
        )
        for what, fail, heal in (
            ("killed, restarted empty", lambda world: world.valkey.kill(), restart_redis),
            (
                "paused",
                lambda world: world.valkey.send(signal.SIGSTOP),
                lambda world: world.valkey.send(signal.SIGCONT),
            ),
        )
    ),
    Scenario(
        "the appending listener killed",
        "--no-listener, two listen beside it",
        lambda world: world.listeners[0].process.kill(),
        listeners=2,
    ),
    Scenario(
        "the listener killed, started again",
        "--workers 2",
        lambda world: os.kill(listener_of(world.bridges[0]), signal.SIGKILL),
        workers=2,
    ),
    Scenario("PostgreSQL crashes", "one process", crash),
    Scenario("PostgreSQL crashes", "--no-listener, listen beside it", crash, listeners=1),
]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--per-second", type=float, default=500)
    made.add_argument("--outage", type=float, default=3.0, metavar="SECONDS")
    made.add_argument("--after", type=float, default=4.0, metavar="SECONDS", help="that it is back")
    made.add_argument("--only", metavar="WORDS", help="scenarios whose description contains this")
    options = made.parse_args()
    wanted = [each for each in SCENARIOS if not options.only or options.only in f"{each.what}, {each.shape}"]
    heard: dict[Scenario, list[Heard]] = {}
    with tempfile.TemporaryDirectory() as directory, started() as embedded:
        valkey = Valkey(Path(directory))
        valkey.start()
        try:
            result = Result("failover", "Failover", versions=server_versions(embedded.database_url, valkey.url))
            for _ in range(options.rounds):
                for scenario in wanted:
                    with turn(options):
                        heard.setdefault(scenario, []).append(play(scenario, embedded.database_url, valkey, options))
        finally:
            valkey.kill()
    report(heard, result)
    result.finish(options)


def play(scenario: Scenario, database_url: str, valkey: Valkey, options: argparse.Namespace) -> Heard:
    """One round."""
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(bridge(database_url, valkey.url, mode="redis", command="listen", settings=PREFIX))
            for _ in range(scenario.listeners)
        ]
        arguments = ("--no-listener",) if listeners else ()
        running = stack.enter_context(
            bridge(
                database_url,
                valkey.url,
                mode="redis",
                workers=scenario.workers,
                arguments=arguments,
                settings=PREFIX,
            )
        )
        capacity = int(options.per_second * (BEFORE_SECONDS + options.outage + options.after) * 2)
        probe = stack.enter_context(clients(running.port, 1, recorded=1, capacity=capacity))
        notifier = Notifier(database_url, options.per_second)
        notifier.start()
        world = World(database_url, valkey, [running], listeners)
        time.sleep(BEFORE_SECONDS)
        failed_ns = time.monotonic_ns()
        scenario.fail(world)
        time.sleep(options.outage)
        healed_ns = time.monotonic_ns()
        scenario.heal(world)
        time.sleep(options.after)
        notifier.end()
        return judge(probe, notifier, capacity, failed_ns, healed_ns)


def judge(probe: Probe, notifier: Notifier, capacity: int, failed_ns: int, healed_ns: int) -> Heard:
    """What the client has to say. Raises BenchmarkFailed where something was lost silently."""
    seen = probe.wait(len(notifier.sent), ARRIVE_SECONDS)
    (times,) = probe.times(capacity)
    lost = [number for number in notifier.sent if not times[number]]
    if lost and not seen.gaps:
        raise BenchmarkFailed(f"{len(lost)} events were lost and no gap was announced, the first is {lost[0]}")
    if seen.closed:
        raise BenchmarkFailed("the client was disconnected")
    return Heard(
        longest_silence(times, notifier.sent, failed_ns, healed_ns),
        longest_silence(times, notifier.sent, healed_ns, time.monotonic_ns()),
        max(times[number] - left for number, left in notifier.sent.items() if times[number]) / 1e9,
        seen.late,
        len(lost),
        seen.gaps,
        seen.repeated,
    )


def longest_silence(times: Times, sent: dict[int, int], begin_ns: int, end_ns: int) -> float:
    """Seconds; the longest time between the commit of something and the next event, of those that have their middle
    in this time."""
    arrived = sorted(at for at in times if at)
    commits = sorted(sent.values())
    longest = 0
    for before, after in pairwise(arrived):
        first = bisect_right(commits, before)
        if first < len(commits) and commits[first] < after and begin_ns <= (commits[first] + after) // 2 < end_ns:
            longest = max(longest, after - commits[first])
    return longest / 1e9


def report(heard: dict[Scenario, list[Heard]], result: Result) -> None:
    for scenario, found in heard.items():
        result.rows.append(
            {
                "what": scenario.what,
                "bridge": scenario.shape,
                "silence, s": median(each.silent_failing for each in found),
                "when it is back, s": median(each.silent_healed for each in found),
                "latest event, s": median(each.latest for each in found),
                "late": round(median(each.late for each in found)),
                "lost, announced": sum(each.lost for each in found),
                "gaps": sum(each.gaps for each in found),
                "twice": sum(each.repeated for each in found),
            }
        )
    lost = sum(row_lost for found in heard.values() for row_lost in (each.lost for each in found if not each.gaps))
    twice = sum(each.repeated for found in heard.values() for each in found)
    result.targets.append(
        Target("events lost silently, events that came twice", f"{lost}, {twice}", "none", lost == twice == 0)
    )


if __name__ == "__main__":
    run(main)
