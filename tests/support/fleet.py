"""Bridge processes that belong together, watched from outside: their logs, modes and sessions, and their clients.

What a test measures comes from three clocks that agree: the times in the bridge's log, the arrivals at the clients, and
the moment at which the test made the fault; all are wall-clock seconds.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.support import postgres as pg
from tests.support import redis as rd
from tests.support.bridge_log import IN_REDIS, tail, time_of
from tests.support.oracle import violations
from tests.support.process import BridgeProcess, wait_until
from tests.support.traffic import Reader, Writer, all_committed, clients, longest_stall, view_of

RETRY_SECONDS = 1.0
REDIS_TIMEOUT_SECONDS = 3.0
HEARTBEAT_TIMEOUT_SECONDS = 6.0
"""A busy machine holds a process up for a second or two: that is to be no failure that a check has not asked for."""
SETTLE_SECONDS = 60.0
STRAY_SECONDS = 0.3
"""How long to go on listening after all have all: for what comes a second time."""

LISTENER = ("listen",)
WORKER = ("serve", "--no-listener")
WHOLE = ("serve",)

Servers = tuple[pg.PostgresServer, rd.RedisServer]

LISTENING = "SELECT application_name, pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' ORDER BY 1, 2"


@dataclass
class Fleet:
    """Processes with common settings. A process that has ended is started again by `whole_again`."""

    postgres: pg.PostgresServer
    settings: dict[str, str]
    directory: Path | None = None
    """Where the processes live, and leave their logs; None for directories that are thrown away."""
    processes: dict[str, BridgeProcess] = field(default_factory=dict)
    _kinds: dict[str, tuple[tuple[str, ...], dict[str, str]]] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _numbers: int = 0

    def add(self, name: str, arguments: tuple[str, ...], **settings: str) -> None:
        """Begin to start one process; `wait` waits for all."""
        self._kinds[name] = (arguments, settings)
        if self.directory is None:
            directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))
        self.processes[name] = BridgeProcess(arguments, self.settings | settings, directory)

    def wait(self) -> None:
        for process in self.processes.values():
            if not process.url:
                process.wait_until_listening()
        self.wait_until_healthy()

    def wait_until_healthy(self, seconds: float = 60.0) -> None:
        """Wait until every process says that all is well, in the mode that was set."""

        def unwell() -> dict[str, object]:
            answers = {name: json.loads(process.get("/health")[1]) for name, process in self.processes.items()}
            return {name: answer for name, answer in answers.items() if answer["status"] != "ok"}

        wait_until(lambda: not unwell(), lambda: f"unwell after {seconds:g} s: {unwell()}", seconds)

    def whole_again(self) -> None:
        """Bring the fleet back to where a test may begin: replace what has ended, and wait for health."""
        self.replace_ended()
        self.wait()

    def replace_ended(self) -> None:
        """Begin to start again what has ended."""
        for name, process in list(self.processes.items()):
            if process.process.poll() is not None:
                self._bury(process)
                arguments, settings = self._kinds[name]
                self.add(name, arguments, **settings)

    def sessions(self) -> list[tuple[str, int]]:
        """The LISTEN sessions that the database shows: application name and backend pid."""
        return [(name, pid) for name, pid in self.postgres.execute(LISTENING)]

    def session_of(self, name: str) -> int:
        """The backend pid of this process's LISTEN session."""
        return int(self.processes[name].status()["links"]["postgres"]["term"]) % (1 << 22)

    def names(self) -> list[str]:
        return [name for name, _ in self.sessions()]

    def wait_for_sessions(self, *names: str, seconds: float = 60.0) -> float:
        """Wait until exactly these sessions are there; when that was."""
        expected = sorted(names)
        wait_until(lambda: self.names() == expected, lambda: f"{self.names()} listen, not {expected}", seconds)
        return time.time()

    @contextmanager
    def traffic(self, *names: str, per_second: float = 300.0) -> Iterator["Traffic"]:
        """A writer, and one client at each of these processes. Begins when everything flows."""
        self._numbers += 1_000_000
        began = time.time()
        writer = Writer(self.postgres.url(), per_second, after=self._numbers)
        with clients(*(self.processes[name].url for name in names)) as made:
            traffic = Traffic(writer.start(), dict(zip(names, made, strict=True)))
            try:
                traffic.flow()
                yield traffic
            except Exception as error:
                for name, process in self.processes.items():
                    error.add_note(f"{name}, seconds since {began:.3f}:\n{tail(process, began)}")
                raise
            finally:
                writer.stop()

    def close(self) -> None:
        for process in self.processes.values():
            self._bury(process)
        self._stack.close()

    def _bury(self, process: BridgeProcess) -> None:
        process.process.kill()
        process.process.wait()
        assert process.process.stdout is not None
        process.process.stdout.close()


@dataclass
class Traffic:
    """A writer and the clients that it is measured at, by the names of their processes."""

    writer: Writer
    clients: Mapping[str, Reader]

    def __getitem__(self, name: str) -> Reader:
        return self.clients[name]

    def flow(self, seconds: float = 0.5) -> None:
        """Let it run for a while, and then until every client has what was committed by then."""
        time.sleep(seconds)
        last = self.writer.last
        wait_until(
            lambda: all(any((a.number or 0) >= last for a in c.arrivals[-50:]) for c in self.clients.values()),
            lambda: f"some clients did not get as far as {last}",
        )

    def settle(self, gaps: Mapping[str, int] | int | None = 0) -> None:
        """Stop writing, wait for what is on its way, and fail unless the oracle is content with every client.

        `gaps` is how many final gaps each client was told of; None for any number.
        """
        self.writer.stop()
        deadline, last = time.time() + SETTLE_SECONDS, self.writer.last
        while time.time() < deadline and (
            not all(client.has(last) for client in self.clients.values()) or self.violations()
        ):
            time.sleep(0.1)
        time.sleep(STRAY_SECONDS)
        stories = "\n".join(f"{name} was told:\n{told(client)}" for name, client in self.clients.items())
        assert self.violations() == [], stories
        for name, client in self.clients.items():
            assert client.has(last), f"{name} never got {last}, the last one\n{stories}"
            wanted = gaps.get(name, 0) if isinstance(gaps, Mapping) else gaps
            final = len(client.final_gaps)
            assert wanted is None or final == wanted, f"{name}: {final} final gaps, not {wanted}\n{stories}"

    def violations(self) -> list[str]:
        views = [view_of(name, client, self.writer) for name, client in self.clients.items()]
        return violations(all_committed(self.writer), views)


def told(client: Reader) -> str:
    """What the client was told of gaps, with the numbers around."""
    lines, newest = [], 0
    for arrival in client.arrivals:
        if arrival.number is not None:
            newest = arrival.number
        elif arrival.message["type"] != "position":
            lines.append(f"{arrival.at:.3f} after {newest}: {arrival.message}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """A PostgreSQL and a Redis that the tests of a module may do anything to."""
    binary = next((each for each in rd.BINARIES if each.name == "redis-debian" and each.path), rd.BINARIES[0])
    with pg.postgres_server("embedded") as postgres, rd.running_redis(binary) as redis:
        yield postgres, redis


@pytest.fixture
def postgres(servers: Servers) -> pg.PostgresServer:
    return servers[0]


@pytest.fixture
def redis(servers: Servers) -> rd.RedisServer:
    return servers[1]


@contextmanager
def running_fleet(servers: Servers, prefix: str, directory: Path | None = None) -> Iterator[Fleet]:
    """A fleet on these servers, with a log in Redis of its own; empty at first, killed at the end."""
    postgres, redis = servers
    fleet = Fleet(
        postgres,
        {
            "DATABASE_URL": postgres.url(),
            "REDIS_URL": redis.url,
            "USE_REDIS_NOTIFIER": "true",
            "BRIDGE_REDIS_PREFIX": prefix,
            "BRIDGE_PORT": "0",
            "BRIDGE_RETRY_SECONDS": f"{RETRY_SECONDS:g}",
            "BRIDGE_REDIS_TIMEOUT_SECONDS": f"{REDIS_TIMEOUT_SECONDS:g}",
            "BRIDGE_HEARTBEAT_TIMEOUT_SECONDS": f"{HEARTBEAT_TIMEOUT_SECONDS:g}",
            "BRIDGE_PROBE_SECONDS": "1",
        },
        directory,
    )
    try:
        yield fleet
    finally:
        fleet.close()


def expect_no_gap(traffic: Traffic, name: str) -> None:
    """Not even one that was filled."""
    assert traffic[name].of_type("gap") == [], f"{name} was told:\n{told(traffic[name])}"


def stall_from(traffic: Traffic, began: float) -> float:
    """The longest time that the worker's client got nothing after the fault, until everything flows again."""
    time.sleep(1.0)
    traffic.flow(0)
    return longest_stall(traffic["worker"], began - 0.1, time.time())


def wait_until_back(fleet: Fleet, since: float) -> float:
    """Seconds from this moment until the worker is in Redis mode and has closed its session."""
    time_of(fleet.processes["worker"], IN_REDIS, since)
    listeners = [name for name in fleet.names() if name == "bridge listener"]
    return fleet.wait_for_sessions(*listeners) - since


def best_of(measure: Callable[[], float], limit_seconds: float, what: str, attempts: int = 5) -> float:
    """Measure until it is within the limit: a noisy machine gets so many chances, a slow bridge fails all."""
    taken: list[float] = []
    while len(taken) < attempts:
        taken.append(measure())
        if taken[-1] <= limit_seconds:
            print(f"{what}: {taken[-1] * 1000:.0f} ms (limit {limit_seconds * 1000:.0f})")
            return taken[-1]
    raise AssertionError(f"{what} took {[round(each, 3) for each in taken]} s, more than {limit_seconds:g} s each time")


def through(url: str, port: int) -> str:
    """The same URL with another port: the one of a proxy."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit(parts._replace(netloc=f"{user}{parts.hostname}:{port}"))
