"""A small world around hubs: one true order of commits, a log, workers that follow it or a session, and their clients.

Workers are the real delivery, history and hub; the log and the sessions are lists. A client's socket takes as many
bytes as the test says. So every order of events can be made, and everything is known.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from bridge.core import events
from bridge.core.events import Entry, Marker, Notification
from bridge.core.position import Position
from bridge.core.topics import Subscription
from bridge.feed.delivery import Delivery
from bridge.feed.direct_source import learn
from bridge.feed.log_source import LogSource
from bridge.hub import Buffers, Hub, SocketClient
from bridge.hub.encoding import Protocol
from bridge.telemetry import Metrics
from tests.support.frames import FrameReader
from tests.support.peers import SseReader

T = TypeVar("T")

METRICS = Metrics()  # nobody reads them here, and making them is slow
UNLIMITED = 1 << 40
CHANNELS = ("a", "b")


@dataclass
class Commit:
    """What happened at one place of the true order: an event with its number, or the marker of a session."""

    channel: str | None
    marker: int | None = None


class World:
    """The true order, and the log. Position (term, seq) is the commit at ``starts[term] + seq``."""

    def __init__(self) -> None:
        self.commits: list[Commit] = []
        self.starts: dict[int, int] = {}
        self.log: list[tuple[Position, int]] = []
        self._log_term = 0
        self.written = 0
        """Commits before this one are in the log, or never will be."""
        self.stalled = False
        self._terms = 10**15
        self.break_log()

    def commit(self, count: int, channel: str = "a") -> None:
        self.commits += [Commit(channel) for _ in range(count)]
        self.write()

    def open_session(self) -> int:
        """The term of a new session, whose marker all hear."""
        self._terms += 1
        self.starts[self._terms] = len(self.commits)
        self.commits.append(Commit(None, self._terms))
        self.write()
        return self._terms

    def write(self) -> None:
        """The listener brings the log up to date, unless it stalls."""
        while not self.stalled and self.written < len(self.commits):
            self.log.append((Position(self._log_term, self.written - self.starts[self._log_term]), self.written))
            self.written += 1

    def break_log(self) -> None:
        """The listener's session ends, and what was not written is never; another one begins a new term."""
        was, self.stalled = self.stalled, True
        self._log_term = self.open_session()
        self.written = len(self.commits) - 1
        self.stalled = was
        self.write()

    def trim(self, count: int) -> None:
        """The log forgets its oldest entries, but for so many."""
        del self.log[: max(0, len(self.log) - count)]

    async def read(self, after: Position, count: int = 3) -> list[Entry]:
        """As a log is read. Never waits."""
        return [self.entry(*one) for one in self.log if one[0] > after][:count]

    def entry(self, position: Position, index: int) -> Entry:
        marker = self.commits[index].marker
        if marker is not None:
            return Entry(position, None, Marker(marker, "", "", "", ""))
        return Entry(position, self.event(position, index), None)

    def event(self, position: Position, index: int) -> events.Event:
        return events.event(position, Notification(self.commits[index].channel or "", b'{"n":%d}' % index))

    def index(self, position: str) -> int:
        """The place in the true order."""
        term, seq = position.split("-", 1)
        return self.starts[int(term)] + int(seq)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What it returns, without ever having waited."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("it waits")


class Worker:
    """A process: delivery and hub, fed from the log or from a session of its own."""

    def __init__(self, world: World, *, history_entries: int, buffers: Buffers) -> None:
        self.world = world
        self.delivery = Delivery(lambda items: self.hub.deliver(items), METRICS)
        self.hub = Hub(CHANNELS, buffers, history_entries, METRICS, self.delivery.timeline, self.delivery.newest)
        self._source = LogSource(None, self.delivery, "", 1.0)  # type: ignore[arg-type]
        self.session: int | None = None
        self._heard = 0
        self.in_log = False

    def work(self, count: int) -> None:
        """Take so many entries of the log, or commits that the session hears."""
        if self.in_log:
            self._read_log(count)
        elif self.session is not None:
            self._hear(count)

    def lose_log(self) -> None:
        """The log is lost, and nothing feeds this worker."""
        if self.in_log:
            self.in_log = False
            self.hub.set_waiting()
            self.delivery.open_beside()

    def lose_session(self) -> None:
        if self.session is not None:
            self.session = None
            self.hub.set_waiting()

    def open_session(self) -> None:
        """A session of its own, where the log does not feed this worker."""
        if self.in_log or self.session is not None:
            return
        delivery = self.delivery
        delivery.open_beside()
        reason: events.GapReason = "postgres_session_lost" if delivery.beside else "failover"
        self.session = self.world.open_session()
        marker = Position(self.session, 0)
        self._heard = len(self.world.commits)
        delivery.continue_with(marker, reason, fillable=True)
        delivery.passed(marker)
        delivery.beside[self.session] = None
        self.hub.set_live(delivery.position)

    def join_log(self, count: int = UNLIMITED, *, give_up: bool = False) -> None:
        """Go over to the log if it is related to what was heard beside it; else, only when that is given up.

        Reads so many entries. Where that is not all, late events have come, and more will at the next attempt.
        """
        if self.in_log or not self.world.log:
            return
        delivery, source = self.delivery, self._source
        end, _ = self.world.log[-1]
        for position, index in self.world.log:
            marker = self.world.commits[index].marker
            if marker is not None:
                learn(delivery.timeline, Position(marker, 0), position)
        if delivery.unrelated(end.term):
            if not give_up:
                return
            source._give_up(list(delivery.beside)[-1], end)
        if not at_once(source._start_at(self.world, end)):  # type: ignore[arg-type]
            return
        self._read_log(count)
        source._joining_to = delivery.newest(end.term) or end
        if source.tail is not None and source._caught_up(source.tail):
            self.session, self.in_log = None, True
            delivery.joined()
            self.hub.set_live(delivery.position)

    def _read_log(self, count: int) -> None:
        source, world = self._source, self.world
        entries = [world.entry(*one) for one in world.log if source.tail is None or one[0] > source.tail][:count]
        while not source._take(entries):
            entries = [entry for entry in entries if source.tail is None or entry.position > source.tail]
            source._jump(entries[0].position)

    def _hear(self, count: int) -> None:
        session, delivery, world = self.session, self.delivery, self.world
        assert session is not None
        batch: list[events.Event] = []
        end = min(len(world.commits), self._heard + count)
        for index in range(self._heard, end):
            position = Position(session, index - world.starts[session])
            marker = world.commits[index].marker
            if marker is None:
                batch.append(world.event(position, index))
                continue
            delivery.offer(batch)
            batch = []
            learn(delivery.timeline, Position(marker, 0), position)
            delivery.passed(position)
        self._heard = end
        delivery.offer(batch)


class Socket:
    """Takes bytes as long as there is `room`."""

    def __init__(self, protocol: Protocol, room: int) -> None:
        self.room = room
        self.messages: list[dict[str, Any]] = []
        self._reader = SseReader() if protocol == "sse" else FrameReader()
        self._has_room = trio.Event()

    def send(self, data: bytes) -> int:
        if self.room <= 0:
            raise BlockingIOError
        sent = min(self.room, len(data))
        self.room -= sent
        self.messages += [message for message in self._reader.feed(data[:sent]) if isinstance(message, dict)]
        return sent

    def sendmsg(self, views: Sequence[memoryview]) -> int:
        return self.send(b"".join(views))

    def give_room(self, room: int) -> None:
        self.room = room
        self._has_room.set()
        self._has_room = trio.Event()

    async def wait_writable(self) -> None:
        while self.room <= 0:
            await self._has_room.wait()

    def setsockopt(self, *_: object) -> None: ...

    def shutdown(self, _: int) -> None: ...


class Connection:
    """One connection of a client, and its tasks."""

    def __init__(self, worker: Worker, nursery: trio.Nursery, protocol: Protocol, room: int) -> None:
        self.worker = worker
        self.socket = Socket(protocol, room)
        self.scopes: set[trio.CancelScope] = set()
        """Of the tasks that have not ended."""
        self._nursery = nursery
        raw: Any = self.socket
        self.client = SocketClient(raw, self._start_soon, worker.hub.buffers, protocol)

    def close(self) -> None:
        self.worker.hub.remove(self.client)
        self.client.finish()
        for scope in self.scopes:
            scope.cancel()

    def _start_soon(self, task: Callable[[], Any]) -> None:
        scope = trio.CancelScope()
        self.scopes.add(scope)

        async def run() -> None:
            with scope:
                await task()
            self.scopes.discard(scope)

        self._nursery.start_soon(run)


class Traveller:
    """A client that goes from worker to worker by its cursor alone, and what all its connections brought together."""

    def __init__(
        self, world: World, nursery: trio.Nursery, wants: dict[str | None, Subscription], protocol: Protocol
    ) -> None:
        self.wants = wants
        self.messages: list[dict[str, Any]] = []
        self.connection: Connection | None = None
        self._world = world
        self._nursery = nursery
        self._protocol: Protocol = protocol
        self._cursors: list[str | None] = []
        """After each message."""
        self._taken = 0
        self.begun: dict[str | None, int] = {}
        """By subscription, the first commit that is owed."""
        self._safe = 0
        """So many messages say where it began."""
        self._subscribed: set[str | None] = set()
        """The subscriptions that are in force at this connection."""
        self._whole_at: int | None = None
        """So many messages had come when all of them were."""
        self._before = 0
        """Messages of the connections before."""

    def connect(self, worker: Worker, room: int) -> None:
        if self.connection is not None:
            return
        if not self.messages:
            self.begun.clear()
        after = self._cursors[-1] if self._cursors else None
        self.connection = Connection(worker, self._nursery, self._protocol, room)
        self._taken = 0
        self._subscribed.clear()
        self._whole_at = None
        self._before = len(self.messages)
        for name, subscription in self.wants.items():
            worker.hub.subscribe(self.connection.client, name, subscription, after)

    def take(self) -> None:
        """Look at what the connection has brought."""
        connection = self.connection
        if connection is None:
            return
        new = connection.socket.messages[self._taken :]
        self._taken += len(new)
        for message in new:
            cursor = message.get("cursor") or message.get("id")
            if message["type"] == "subscribed":
                cursor = message["position"]
                self._subscribed.add(message["sub"])
                if len(self._subscribed) == len(self.wants):
                    self._whole_at = len(self.messages) + 1
                if message["sub"] not in self.begun and cursor is not None:
                    self._safe = len(self.messages) + 1
                    self.begun[message["sub"]] = self._world.index(cursor.partition("~")[0]) + 1
            self.messages.append(message)
            self._cursors.append(cursor or (self._cursors[-1] if self._cursors else None))

    def leave(self, lost: int) -> None:
        """Drop the connection; what came last may not have come, and nothing has before all was subscribed to."""
        self.take()
        if self.connection is not None:
            self.connection.close()
            self.connection = None
            keep = max(self._safe, len(self.messages) - lost)
            if self._whole_at is None or keep < self._whole_at:
                keep = self._before
            del self.messages[keep:]
            del self._cursors[keep:]

    def complaints(self) -> list[str]:
        """All that is wrong with what it got, when everything has come to rest."""
        found: list[str] = []
        if len(self.begun) < len(self.wants):
            return ["never subscribed"]
        owed = {
            index
            for name, subscription in self.wants.items()
            for index in range(self.begun[name], len(self._world.commits))
            if self._world.commits[index].channel in subscription.channels
        }
        seen: set[int] = set()
        pending: set[tuple[str, str]] = set()
        lost: list[tuple[int, int]] = []
        newest = -1
        for message in self.messages:
            kind = message["type"]
            bounds: Any = message.get("after"), message.get("before")
            if kind == "notification":
                index = message["payload"]["n"]
                if self._world.index(message["id"]) != index:
                    found.append(f"{index} came as {message['id']}")
                if index in seen:
                    found.append(f"{index} came twice")
                if index not in owed:
                    found.append(f"{index} is not owed")
                if index < newest and not message.get("late"):
                    found.append(f"{index} came after {newest}, and is not late")
                seen.add(index)
                newest = newest if message.get("late") else max(newest, index)
            elif kind == "gap" and message.get("pending"):
                pending.add(bounds)
            elif kind == "gap":
                pending.discard(bounds)
                after, before = bounds
                low = self._world.index(after) if after else -1
                high = self._world.index(before) if before else len(self._world.commits)
                if low >= high:
                    found.append(f"the gap {bounds} has no room")
                lost.append((low, high))
            elif kind == "filled":
                if bounds not in pending:
                    found.append(f"{bounds} was not pending, but is filled")
                pending.discard(bounds)
        missing = {index for index in owed - seen if not any(low < index < high for low, high in lost)}
        if missing:
            found.append(f"{sorted(missing)} are missing, and no gap says so")
        if pending:
            found.append(f"{pending} never ended")
        return found

    @property
    def final_gaps(self) -> list[dict[str, Any]]:
        return [one for one in self.messages if one["type"] == "gap" and not one.get("pending")]
