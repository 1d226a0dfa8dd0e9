"""What many different filters cost: 10,000 clients with 10,000 of them, beside as many clients with one.

    python -m benchmarks.filters [--clients 10000] [--rounds 3]

Compared is the cost of one delivered event, in processor time of the bridge and in time until the last client has it.
What is compared must have the same deliveries and the same number of sends an event, or it would compare something
else. So there are two pairs:

- *everybody wants it*: all clients have the same filter, or each another one that accepts the event too (a list of two
  values, of which one is the event's): one group or 10,000 groups, and 10,000 sends an event.
- *one wants it*: one client has a filter that accepts the events, and all others share one that does not; or all
  filters differ, and every event is another client's: one send an event. Also with filters of three fields with lists,
  12 combinations each, and with fewer clients: the cost must follow the clients that want an event, not all.

Filters come in tokens, where lists are possible. What the connections cost that hear nothing is taken off. The cases
take turns; numbers are medians of the rounds', ratios medians of the ratios within a round.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jwt

from benchmarks.lib.bridge import RunningBridge, Servers, bridge, servers
from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.lib.fanning import wait_until_quiet
from benchmarks.lib.machine import server_versions
from benchmarks.lib.probe import clients
from benchmarks.lib.processes import processor_seconds
from benchmarks.lib.result import Result, Target, parser, turn
from benchmarks.lib.sender import CHANNEL, paced
from benchmarks.lib.stats import median

WANTED_RATIO = 2.0
IDLE_SECONDS = 0.5
ARRIVE_SECONDS = 60.0
KEY = "a key for the tokens of a benchmark"
FEW = 100

Where = dict[str, int | list[int]]


@dataclass(frozen=True)
class Case:
    """Clients with their filters, and the events that are sent to them. Event number `n` has the `match_id` n modulo
    `subjects`; its `quarter` is 3 and its `home` 24."""

    name: str
    filters: int
    clients: int
    where: Callable[[int], Where]
    subjects: int
    events: int
    per_second: float
    wanting: int
    """Clients that want an event."""


@dataclass(frozen=True)
class Cost:
    """Of one delivered event, in seconds."""

    processor: float
    arrival: float
    """From the commit until the last client that wants it has it: of an event, not of a delivery."""


def cases(count: int, events: int) -> Iterator[Case]:
    """In pairs: one filter, then the others that are compared with it."""
    crowd = partial(Case, "everybody wants it", clients=count, subjects=1, events=12, wanting=count)
    yield crowd(filters=1, where=lambda _: {"match_id": 0}, per_second=50_000 / count)
    yield crowd(filters=count, where=lambda number: {"match_id": [0, number + 1]}, per_second=50_000 / count)
    single = partial(Case, events=events, per_second=1000, wanting=1)
    yield single("one wants it", filters=1, clients=count, where=lambda number: {"match_id": -(number > 0)}, subjects=1)
    for fewer in sorted({count, count // 10, FEW}, reverse=True):
        yield single(
            "one wants it", filters=fewer, clients=fewer, where=lambda number: {"match_id": number}, subjects=fewer
        )
    lists: Where = {"quarter": [1, 2, 3, 4], "home": [23, 24, 25]}
    yield single(
        "one wants it, 3 fields",
        filters=count,
        clients=count,
        where=lambda number: {"match_id": number, **lists},
        subjects=count,
    )


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--clients", type=int, default=10_000)
    made.add_argument("--events", type=int, default=1500, help="each wanted by one client")
    made.add_argument("--rounds", type=int, default=3)
    options = made.parse_args()
    costs: dict[Case, list[Cost]] = {}
    with servers() as on:
        result = Result("filters", "Many filters", versions=server_versions(*on))
        every = list(cases(options.clients, options.events))
        with bridge(*on, settings={"BRIDGE_JWT_KEY": KEY}) as running:
            for _ in range(options.rounds):
                for case in every:
                    with turn(options):
                        costs.setdefault(case, []).append(measure(case, on, running))
    report(costs, result)
    result.finish(options)


def measure(case: Case, on: Servers, running: RunningBridge) -> Cost:
    """Connect the clients, send, and see what came. Raises BenchmarkFailed where that is not as it should be."""
    tokens = (jwt.encode({"where": case.where(number)}, KEY) for number in range(case.clients))
    targets = [f"/ws/{CHANNEL}?token={token}" for token in tokens]
    with clients(running.port, case.clients, targets, recorded=-1, capacity=case.events) as probe:
        wait_until_quiet(running)
        before = processor_seconds(running.pids())
        time.sleep(IDLE_SECONDS)
        idle = (processor_seconds(running.pids()) - before) / IDLE_SECONDS
        before, started = processor_seconds(running.pids()), time.monotonic()
        sent = paced(on.database_url, case.events, case.per_second, subjects=case.subjects)
        expected = case.events * case.wanting
        seen = probe.wait(expected, ARRIVE_SECONDS)
        used = processor_seconds(running.pids()) - before - idle * (time.monotonic() - started)
        if seen.events != expected or seen.gaps or seen.closed:
            raise BenchmarkFailed(f"{case.name}: {expected} deliveries were to come, but: {seen}")
        (came,) = probe.times(case.events)
    wait_until_quiet(running)
    arrivals = [at - left for left, at in zip(sent, came, strict=True)]
    return Cost(used / expected, median(arrivals) / 1e9)


def report(costs: dict[Case, list[Cost]], result: Result) -> None:
    one: Case | None = None
    for case, found in costs.items():
        if case.filters == 1:
            one = case
        assert one is not None
        pairs = list(zip(found, costs[one], strict=True))
        ratio = median(each.processor / single.processor for each, single in pairs)
        slower = median(each.arrival / single.arrival for each, single in pairs)
        result.rows.append(
            {
                "events": case.name,
                "clients": case.clients,
                "filters": case.filters,
                "deliveries an event": case.wanting,
                "processor, µs a delivery": median(each.processor for each in found) * 1e6,
                "of one filter's": ratio,
                "last client has it, ms": median(each.arrival for each in found) * 1e3,
                "of one filter's time": slower,
            }
        )
        if case.filters == case.clients == one.clients:
            result.targets.append(
                Target(
                    f"{case.filters:,} filters, {case.name}: processor time of a delivered event",
                    f"{ratio:.2f} times that with one filter",
                    f"at most {WANTED_RATIO:g} times",
                    ratio <= WANTED_RATIO,
                    "the work for each group of clients" if ratio > WANTED_RATIO else "",
                )
            )
    alike = [case for case in costs if case.wanting == 1 and case.filters == case.clients and "fields" not in case.name]
    same = [
        f"{case.clients:,} clients: {median(each.processor for each in costs[case]) * 1e6:.0f} µs"
        for case in sorted(alike, key=lambda case: case.clients)
    ]
    result.notes.append(f"an event that one client of many wants: {', '.join(same)}")


if __name__ == "__main__":
    run(main)
