"""Clients that go on by their cursor alone, on real servers: judged by the oracle as if they had never been away.

A traveller drops its connection without notice, loses what was under way, and comes back to another worker. All that
its connections brought is one stream to the oracle.
"""

import http.client
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.support import redis as rd
from tests.support.bridge_log import IN_DIRECT, IN_REDIS, tail, time_of
from tests.support.fleet import LISTENER, SETTLE_SECONDS, STRAY_SECONDS, WORKER, Fleet, Servers, running_fleet
from tests.support.fleet import redis as redis
from tests.support.fleet import servers as servers
from tests.support.oracle import View, violations
from tests.support.process import BridgeProcess, wait_until
from tests.support.sse import EventSource
from tests.support.traffic import CHANNELS, Client, Writer, all_committed

STAY_SECONDS = 0.3
MOST_LOST = 5
PER_SECOND = 300.0
FAST_PER_SECOND = 500.0
FAST_SECONDS = 10.0

Message = dict[str, Any]


def cursor_after(messages: list[Message]) -> str | None:
    """What a client goes on with: the cursor of the last message, or its id where it has none."""
    for message in reversed(messages):
        cursor = message.get("cursor") or message.get("id") or message.get("position")
        if cursor:
            return str(cursor)
    return None


class WebSocketVisit:
    """One connection of a traveller."""

    def __init__(self, url: str, after: str | None) -> None:
        self._client = Client(url, f"/ws?after={quote(after)}" if after else "/ws")

    def wait_until_subscribed(self) -> None:
        self._client.wait_until_subscribed()

    @property
    def messages(self) -> list[Message]:
        return self._client.messages

    def close(self) -> None:
        self._client.close()


class StreamVisit:
    """The same over server-sent events; it goes on with `Last-Event-ID`, which is all that a browser knows."""

    def __init__(self, url: str, after: str | None) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        self._source = EventSource()
        headers = {"Last-Event-ID": after} if after else {}
        try:
            self._connection.request("GET", "/sse", headers=headers)
            self._socket = self._connection.sock
            self._response = self._connection.getresponse()
            assert self._response.status == 200
        except BaseException:
            self._connection.close()
            raise
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def wait_until_subscribed(self) -> None:
        wait_until(lambda: self._source.blocks or not self._thread.is_alive(), lambda: "never subscribed")
        if not self._source.blocks:
            raise ConnectionError("the stream ended at once: come back later")

    @property
    def messages(self) -> list[Message]:
        return [json.loads(block.data) | {"cursor": block.last_event_id} for block in list(self._source.blocks)]

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._response.close()
        self._connection.close()

    def _run(self) -> None:
        with suppress(OSError, ValueError, http.client.HTTPException):
            while data := self._response.read1(65536):
                self._source.feed(data)


Visit = Callable[[str, str | None], WebSocketVisit | StreamVisit]


class Traveller:
    """Goes round the workers, in a thread, until it is told to settle."""

    def __init__(self, name: str, workers: list[BridgeProcess], writer: Writer, visit: Visit) -> None:
        self.name = name
        self.visits = 0
        self.error: BaseException | None = None
        """Why it goes no further; `settle` raises it."""
        self._workers = workers
        self._writer = writer
        self._visit = visit
        self._choices = random.Random(name)
        self._settled = threading.Event()
        self._ended = threading.Event()
        self._messages: list[Message] = []
        self._current: WebSocketVisit | StreamVisit | None = None
        self._asked = time.time()
        self._subscribed = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def messages(self) -> list[Message]:
        """Of all connections, `subscribed` but once."""
        current = self._current
        return self._messages + (self._without_greeting(current.messages) if current else [])

    @property
    def final_gaps(self) -> list[Message]:
        return [one for one in self.messages if one["type"] == "gap" and not one.get("pending")]

    def settle(self) -> None:
        """Stay where it is from now on; where it is nowhere, go on to the next worker that takes it."""
        self._settled.set()
        self._thread.join(90)
        assert not self._thread.is_alive(), f"{self.name} hangs"
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self._ended.set()
        self._settled.set()
        self._thread.join(30)
        if self._current is not None:
            self._current.close()

    def view(self) -> View:
        """What the oracle judges. The writer must have stopped."""
        writer = self._writer
        return View(
            name=self.name,
            channels=frozenset(CHANNELS),
            asked=sum(at < self._asked for at in writer.confirmed.values()),
            subscribed=sum(at <= self._subscribed for at in writer.committed.values()),
            messages=self.messages,
            complete=True,
        )

    def has(self, number: int) -> bool:
        return any(one["type"] == "notification" and one["payload"]["n"] == number for one in self.messages[-200:])

    def _run(self) -> None:
        try:
            while not self._ended.is_set() and not self._stays(self._workers[self.visits % len(self._workers)]):
                pass
        except BaseException as error:
            self.error = error

    def _stays(self, worker: BridgeProcess) -> bool:
        """One visit. Whether it lasts, as all are to stay where they are; else what it brought was taken along."""
        self.visits += 1
        try:
            visit = self._visit(worker.url, cursor_after(self._messages))
        except (OSError, http.client.HTTPException, AssertionError):
            self._ended.wait(0.05)  # the worker is not there, or about to end; there is another one
            return False
        self._current = visit
        try:
            visit.wait_until_subscribed()
        except ConnectionError:
            self._current = None
            visit.close()
            return False
        self._subscribed = self._subscribed or time.time()
        if self._settled.wait(self._choices.uniform(0.5, 1.5) * STAY_SECONDS):
            return True
        self._current = None
        visit.close()
        came = self._without_greeting(visit.messages)
        lost = self._choices.randrange(MOST_LOST)
        self._messages += came[: max(len(came) - lost, 0 if self._messages else 1)]
        return False

    def _without_greeting(self, messages: list[Message]) -> list[Message]:
        return messages[1:] if self._messages else messages


class Journey:
    """A writer and travellers, and the judgement at the end."""

    def __init__(self, fleet: Fleet, per_second: float) -> None:
        self.fleet = fleet
        self.writer = Writer(fleet.postgres.url(), per_second).start()
        self.travellers: list[Traveller] = []

    def travel(self, name: str, visit: Visit, *workers: str) -> Traveller:
        """One more, between these processes."""
        processes = [self.fleet.processes[worker] for worker in workers]
        self.travellers.append(Traveller(name, processes, self.writer, visit))
        return self.travellers[-1]

    def settle(self) -> None:
        """Everybody stays, everything arrives, and the oracle is content: nothing was lost, not even with a gap."""
        for traveller in self.travellers:
            traveller.settle()
        self.writer.stop()
        deadline, last = time.time() + SETTLE_SECONDS, self.writer.last
        while time.time() < deadline and (
            not all(traveller.has(last) for traveller in self.travellers) or self.violations()
        ):
            time.sleep(0.1)
        time.sleep(STRAY_SECONDS)
        assert self.violations() == [], self._stories()
        for traveller in self.travellers:
            assert traveller.final_gaps == [], self._stories()

    def violations(self) -> list[str]:
        return violations(all_committed(self.writer), [traveller.view() for traveller in self.travellers])

    def close(self) -> None:
        for traveller in self.travellers:
            traveller.close()
        self.writer.stop()

    def _stories(self) -> str:
        return "\n".join(
            f"{traveller.name}: {message}"
            for traveller in self.travellers
            for message in traveller.messages
            if message["type"] != "notification"
        )


@contextmanager
def journey(fleet: Fleet, per_second: float = PER_SECOND) -> Iterator[Journey]:
    began = time.time()
    made = Journey(fleet, per_second)
    try:
        yield made
    except Exception as error:
        for name, process in fleet.processes.items():
            error.add_note(f"{name}, seconds since {began:.3f}:\n{tail(process, began)}")
        raise
    finally:
        made.close()


_numbers = itertools.count()


@pytest.fixture
def fleet(servers: Servers) -> Iterator[Fleet]:
    """A listener and two workers without one, and a log of their own: nothing of another test has to be continued."""
    with running_fleet(servers, f"resume{next(_numbers)}") as made:
        made.add("listener", LISTENER)
        made.add("one", WORKER)
        made.add("two", WORKER)
        made.wait()
        yield made


def be_without_redis(fleet: Fleet, redis: rd.RedisServer, seconds: float) -> None:
    """Kill Redis, start it again so long after the workers have noticed, and wait until they use it."""
    killed = time.time()
    redis.kill()
    for name in ("one", "two"):
        time_of(fleet.processes[name], IN_DIRECT, killed)
    time.sleep(seconds)
    redis.start()
    returned = time.time()
    for name in ("one", "two"):
        time_of(fleet.processes[name], IN_REDIS, returned)


def pending_gaps(traveller: Traveller) -> list[Message]:
    return [message for message in traveller.messages if message["type"] == "gap" and message.get("pending")]


def test_travellers_while_redis_is_killed_and_a_worker_restarts(fleet: Fleet, redis: rd.RedisServer) -> None:
    with journey(fleet) as all_of_them:
        one = all_of_them.travel("websocket", WebSocketVisit, "one", "two")
        two = all_of_them.travel("stream", StreamVisit, "two", "one")
        time.sleep(1.0)
        be_without_redis(fleet, redis, 1.5)
        time.sleep(1.0)
        fleet.processes["two"].end()
        fleet.replace_ended()
        fleet.wait()
        one._workers[1] = two._workers[0] = fleet.processes["two"]
        time.sleep(1.5)
        wait_until(lambda: min(one.visits, two.visits) > 10, lambda: f"{one.visits} and {two.visits} visits")
        all_of_them.settle()
        assert pending_gaps(one), "nobody noticed that Redis was away"


def test_travellers_at_five_hundred_events_a_second_while_redis_is_killed(fleet: Fleet, redis: rd.RedisServer) -> None:
    with journey(fleet, FAST_PER_SECOND) as all_of_them:
        began = time.time()
        one = all_of_them.travel("websocket", WebSocketVisit, "one", "two")
        two = all_of_them.travel("stream", StreamVisit, "two", "one")
        time.sleep(FAST_SECONDS / 3)
        be_without_redis(fleet, redis, FAST_SECONDS / 5)
        time.sleep(max(0.0, began + FAST_SECONDS - time.time()))
        wait_until(lambda: min(one.visits, two.visits) > 10, lambda: f"{one.visits} and {two.visits} visits")
        all_of_them.settle()
        assert pending_gaps(one), "nobody noticed that Redis was away"
        times = list(all_of_them.writer.committed.values())
        assert len(times) / (times[-1] - times[0]) > 0.2 * FAST_PER_SECOND, "there was much less traffic than asked for"
