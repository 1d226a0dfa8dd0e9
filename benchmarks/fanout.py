"""How many deliveries a second: the bridge, the bare loops it is built of, and its peers, in one run.

    python -m benchmarks.fanout [--clients 1 100 1000 10000] [--rounds 3] [--only TEXT …] [--no-peers]

*Burst*: many notifications of one transaction (or as many messages as a peer's source takes), timed from before they
are published until the last client has the last one. *One by one*: each is published when everybody has the one before.
The systems take turns, each with its clients alone; numbers are medians over the rounds, ratios are medians of the
ratios within a round. A slow system gets smaller bursts, of about `--seconds`.
"""

import argparse
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from benchmarks.lib.bridge import Servers, servers
from benchmarks.lib.choice import add_choice, chosen
from benchmarks.lib.databases import fresh_database
from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.lib.fanning import Turn, fitting, take_turn, wait_until_quiet
from benchmarks.lib.machine import server_versions
from benchmarks.lib.result import Result, Target, parser, turn
from benchmarks.lib.stats import median
from benchmarks.lib.system import Running, System, bridge_system, local_system
from benchmarks.lib.table import Cell
from benchmarks.peers import PEERS

MOST_MESSAGES = 20_000
MOST_DELIVERIES = 10_000_000
JOINED, MUCH_JOINED = 64, 512
AHEAD = 1.5
NEAR = 0.9
TARGET_CLIENTS = 1000

BARE_C, BARE_PYTHON, HUB = (local_system(language, MUCH_JOINED) for language in ("C", "Python", "hub"))
DIRECT, REDIS = bridge_system("direct"), bridge_system("redis")
SYSTEMS = (
    BARE_C,
    local_system("C", JOINED),
    BARE_PYTHON,
    HUB,
    local_system("hub", JOINED),
    DIRECT,
    REDIS,
    bridge_system("direct", 2),
    bridge_system("redis", 2),
)

Turns = dict[tuple[str, int], list[Turn]]
"""By system and number of clients; one a round."""


class Comparison:
    """Starts the systems, lets them take turns, remembers who could not and why."""

    def __init__(self, options: argparse.Namespace, systems: Sequence[System]) -> None:
        self.turns: Turns = {}
        self.failed: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._options = options
        self._systems = systems
        self._messages: dict[tuple[str, int], int] = {}

    def run(self, where: Servers) -> None:
        """All rounds for all numbers of clients."""
        with contextlib.ExitStack() as stack:
            running = deque(self._start(where, stack))
            for _, one in running:
                wait_until_quiet(one)
            for clients in self._options.clients:
                for _ in range(self._options.rounds):
                    with turn(self._options):
                        for system, one in running:
                            self._turn(system, one, clients)
                    running.rotate(-1)

    def _start(self, where: Servers, stack: contextlib.ExitStack) -> Iterator[tuple[System, Running]]:
        for number, system in enumerate(self._systems):
            reason = system.missing()
            try:
                if reason is None:
                    alone = stack.enter_context(fresh_database(where, str(number)))
                    yield system, stack.enter_context(system.start(alone))
                    self.versions |= system.versions()
                    continue
            except BenchmarkFailed as failure:
                reason = str(failure)
            self.failed[system.name] = reason

    def _turn(self, system: System, running: Running, clients: int) -> None:
        key, name = (system.name, clients), f"{system.name}, {clients:,} clients"
        if name in self.failed:
            return
        most = max(1, min(MOST_MESSAGES, self._options.deliveries // clients, system.most_messages))
        fit = functools.partial(fitting, running, clients=clients, most=most, seconds=self._options.seconds)
        try:
            taken = take_turn(running, clients, self._messages.get(key, fit), self._options.seconds)
        except (BenchmarkFailed, OSError) as failure:
            self.failed[name] = str(failure)
            print(f"{name}: {failure}", flush=True)
            return
        self._messages[key] = taken.burst.messages
        self.turns.setdefault(key, []).append(taken)
        fast, slow = taken.burst.per_second, taken.one_by_one.per_second
        print(f"{name}: burst {fast:,.0f}/s, one by one {slow:,.0f}/s", flush=True)


def middle(turns: Sequence[Turn], value: Callable[[Turn], float | None]) -> float | None:
    """The median over the rounds, of those that have a value."""
    values = [found for one in turns if (found := value(one)) is not None]
    return median(values) if values else None


def ratio(turns: Turns, first: System, second: System, clients: int, value: Callable[[Turn], float]) -> float | None:
    """The median of the ratios within a round; None where one of the two was not measured."""
    pairs = zip(turns.get((first.name, clients), []), turns.get((second.name, clients), []), strict=False)
    values = [value(one) / value(other) for one, other in pairs]
    return median(values) if values else None


def row(system: System, clients: int, turns: Turns) -> dict[str, Cell]:
    """Medians of one system's turns with so many clients."""
    taken = turns[system.name, clients]
    return {
        "system": system.name,
        "kind": system.kind,
        "clients": clients,
        "burst/s": middle(taken, lambda one: one.burst.per_second),
        "of bare C": ratio(turns, system, BARE_C, clients, lambda one: one.burst.per_second),
        "from first byte/s": middle(taken, lambda one: one.burst.sending_per_second),
        "messages": taken[-1].burst.messages,
        "one by one/s": middle(taken, lambda one: one.one_by_one.per_second),
        "while sending/s": middle(taken, lambda one: one.one_by_one.sending_per_second),
        "CPU s/M burst": middle(taken, lambda one: one.burst.processor_seconds_per_million),
        "CPU s/M single": middle(taken, lambda one: one.one_by_one.processor_seconds_per_million),
    }


def targets(turns: Turns, clients: int) -> Iterator[Target]:
    """One process ahead of every peer in bursts, and near a bare loop one by one."""
    for system in (DIRECT, REDIS):
        behind = {peer.name: ratio(turns, system, peer, clients, lambda one: one.burst.per_second) for peer in PEERS}
        known = {name: value for name, value in behind.items() if value is not None}
        if known:
            nearest = min(known, key=lambda name: known[name])
            yield Target(
                f"burst to {clients:,} clients, {system.name}, one process",
                f"{known[nearest]:.2f} times the fastest peer ({nearest})",
                f"at least {AHEAD:g} times every peer",
                known[nearest] >= AHEAD,
                "" if known[nearest] >= AHEAD else "the kernel's part of a send, which all pay",
            )
    for system in (HUB, DIRECT, REDIS):
        near = ratio(turns, system, BARE_PYTHON, clients, lambda one: one.one_by_one.sending_per_second or 0.0)
        if near is not None:
            yield Target(
                f"one by one to {clients:,} clients, {system.name}",
                f"{near:.0%} of a bare send loop in Python, while sending",
                f"at least {NEAR:.0%}",
                near >= NEAR,
                "" if near >= NEAR else "the servers beside it on the same processors",
            )


def main() -> None:
    options = _options()
    wanted = chosen(SYSTEMS, options)
    comparison = Comparison(options, wanted)
    with servers() as where:
        versions = server_versions(*where)
        comparison.run(where)
    turns = comparison.turns
    result = Result("fanout", "Fan-out", versions=versions | comparison.versions)
    for clients in options.clients:
        result.rows += [row(system, clients, turns) for system in wanted if (system.name, clients) in turns]
    if TARGET_CLIENTS in options.clients:
        result.targets += targets(turns, TARGET_CLIENTS)
    result.notes += [f"Not measured: {name}: {reason}" for name, reason in comparison.failed.items()]
    result.notes += [
        f"{system.name}: messages come from {system.source}; what it promises: {system.promises}"
        for system in wanted
        if system.promises
    ]
    result.finish(options)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    add_choice(made)
    made.add_argument("--clients", type=int, nargs="+", default=[1, 100, 1000, 10_000])
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--seconds", type=float, default=0.5, help="how long a burst takes at most, and one by one")
    made.add_argument("--deliveries", type=int, default=MOST_DELIVERIES, help="of one burst, at most")
    return made.parse_args()


if __name__ == "__main__":
    run(main)
