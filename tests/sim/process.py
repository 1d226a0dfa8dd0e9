"""A process of the bridge in the simulation: relay, feed and hub as the service has them, on links in memory."""

import contextvars
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, cast

import anyio
from anyio.abc import TaskGroup

from bridge.core import topics
from bridge.feed.build import build_feed
from bridge.feed.delivery import Delivery
from bridge.feed.feed import Feed
from bridge.feed.source import FeedState
from bridge.hub import Buffers, Hub, Inbox, SocketClient
from bridge.hub.client import StartSoon
from bridge.inprocess import Subscription
from bridge.links.openers import RealLinks
from bridge.links.pod import OpenPod, open_pod
from bridge.links.postgres import ListenSession, SessionOptions
from bridge.relay.outlet import Outlet
from bridge.relay.relay import Relay
from bridge.settings import Settings
from bridge.telemetry import Metrics
from tests.sim.clients import SLOW_BYTES, ClientSocket, Manner, Reader, See, read
from tests.sim.freezer import Freezer, current_process
from tests.sim.postgres_server import Connection as PostgresConnection
from tests.sim.wire import Path, ServerEnd, Wire
from tests.support.oracle import Message, View

if TYPE_CHECKING:
    from tests.sim.world import World

CHANNELS = (("a", "b"), ("a", "c"))
"""The two sets of channels that processes may have."""


class UnreadMetrics(Metrics):
    """Of all runs, because making them is slow. They keep nothing of a run."""

    def observe_with(self, bring_up_to_date: Callable[[], None]) -> None:
        """Nobody reads them."""


METRICS = UnreadMetrics()


@lru_cache
def settings_of(name: str, channel_set: int, with_redis: bool, history_entries: int) -> Settings:
    return Settings(
        database_url="postgresql://in-memory",
        use_redis_notifier=with_redis,
        redis_url=f"redis://{name}",
        channels=CHANNELS[channel_set],
        redis_prefix="sim",
        retry_seconds=2.0,
        redis_timeout_seconds=1.0,
        heartbeat_timeout_seconds=3.0,
        probe_seconds=2.0,
        history_entries=history_entries,
        backlog_bytes=65_536,
    )


class MemoryLinks(RealLinks):
    """The real links but for the sockets: Redis is found by the process's name in its URL, PostgreSQL through here."""

    def __init__(self, settings: Settings, process: "Process") -> None:
        super().__init__(settings)
        self._options = SessionOptions(
            "", settings.channels, settings.digest, "listener", settings.redis_prefix, settings.probe_seconds
        )
        self._process = process

    @asynccontextmanager
    async def session(self, role: Literal["listener", "fallback"], *, floor: int) -> AsyncIterator[ListenSession]:
        process = self._process
        options = SessionOptions(**{**vars(self._options), "role": role})
        nonce = process.world.choices.randbytes(8).hex()
        session = await process.world.postgres.open(options, process.to_postgres, floor, nonce)
        connection = cast(PostgresConnection, session._pgconn)
        process.sessions.append(connection)
        try:
            yield session
        finally:
            process.sessions.remove(connection)
            connection.finish()


class Process:
    """One process, started, killed and started again. `listens` and `serves` say what is in it."""

    def __init__(
        self, world: "World", name: str, channel_set: int, *, listens: bool, serves: bool, history_entries: int
    ) -> None:
        self.world = world
        self.name = name
        self.channel_set = channel_set
        self.listens = listens
        self.serves = serves
        self.to_postgres = Path(world.agenda)
        self.to_redis = Path(world.agenda)
        self.to_pod = Path(world.agenda)
        self.pod: Process | None = None
        """The listener process of its pod."""
        self.sessions: list[PostgresConnection] = []
        self.wires: list[Wire] = []
        self.freezer = Freezer(name)
        self.running = False
        self.feed: Feed | None = None
        self._outlet: Outlet | None = None
        self._ends: list[ServerEnd] = []
        self.relay: Relay | None = None
        self.settings = settings_of(name, channel_set, world.with_redis, history_entries)
        self._hub: Hub | None = None
        self._clients: dict[Reader, View | None] = {}
        """Those that stay, with what they see, and travellers."""
        self._tasks: TaskGroup | None = None
        self._scope = anyio.CancelScope()
        self._context = contextvars.Context()
        """Of its tasks, for what is done to it from outside: whoever is started by that belongs to it."""
        self._lives = 0
        self._arrived = anyio.Event()

    @property
    def views(self) -> list[View]:
        """Of the clients that are connected now, and stay."""
        return [view for view in self._clients.values() if view is not None]

    @property
    def well(self) -> bool:
        """Whether it does all that it is there for, in the mode that it was told."""
        relay, feed = self.relay, self.feed
        if (self.listens and relay is None) or (self.serves and feed is None):
            return False
        if relay is not None and not relay.listener.proven:
            return False
        if relay is not None and relay.publisher is not None and not relay.publisher.caught_up.value:
            return False
        if feed is None:
            return True
        pod, with_redis = feed.pod_view, self.world.with_redis
        if pod is not None and (pod.connected if with_redis else not pod.feeding):
            return False
        if pod is not None and feed.session is not None:
            return False
        return feed.state.value.mode == ("redis" if with_redis else "direct")

    def start(self, tasks: TaskGroup) -> None:
        """Run, as one of these tasks, until `kill` or `end`."""
        self.running = True
        self._scope = anyio.CancelScope()
        tasks.start_soon(self._live)

    async def _live(self) -> None:
        current_process.set(self.freezer)
        self._context = contextvars.copy_context()
        self._lives += 1
        links = MemoryLinks(self.settings, self)
        with self._scope:
            async with anyio.create_task_group() as self._tasks:
                if self.listens:
                    feeds_a_pod = any(one.pod is self for one in self.world.processes)
                    nonce = self.name if feeds_a_pod else None
                    self.relay = Relay(self.settings, links, METRICS, with_redis=self.world.with_redis, nonce=nonce)
                    self._tasks.start_soon(self.relay.run)
                    if feeds_a_pod:
                        outlet = Outlet(self.relay, self.settings.digest, trims=not self.world.with_redis)
                        self._tasks.start_soon(self.serve_pod, outlet)
                if self.serves:
                    open_own = partial(open_pod, pathlib.Path(self.name)) if self.pod is not None else None
                    self.feed, self._hub = _feed_and_hub(self.settings, links, self.relay, open_own, self._tell)
                    self._tasks.start_soon(self.feed.run)
                    self.connect_client()
        self._tasks = self.feed = self.relay = self._hub = self._outlet = None
        self._ends.clear()
        self._clients.clear()
        self.running = False

    def end(self) -> None:
        """SIGTERM: it ends in order."""
        self.freezer.resume()
        self._context.run(self._scope.cancel)

    def kill(self) -> None:
        """SIGKILL: what it has sent arrives, and nothing else."""
        for wire in self.wires:
            wire.close()
        self._outlet = None
        for end in self._ends:
            end.abandon()
        for connection in self.sessions:
            connection.abandon()
        self._clients.clear()
        self.end()

    def accept(self, end: ServerEnd) -> bool:
        """A worker of its pod connects, and waits until it is accepted; False where nothing listens."""
        if self._outlet is None:
            return False
        self._ends.append(end)
        self._arrived.set()
        return True

    async def serve_pod(self, outlet: Outlet) -> None:
        """What `Outlet.serve` does, with connections in memory."""
        self._outlet = outlet
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outlet.keep_trimmed)
            served: set[ServerEnd] = set()
            while True:
                self._arrived = anyio.Event()
                for end in self._ends:
                    if end not in served:
                        served.add(end)
                        tasks.start_soon(outlet.serve_stream, end)
                await self._arrived.wait()

    def connect_client(self, channels: frozenset[str] = frozenset()) -> None:
        """A client comes, for all channels or some."""
        if not self.reachable:
            return
        wanted = frozenset(self.settings.channels) & channels or frozenset(self.settings.channels)
        view = self.world.new_view(f"{self.name}.{self._lives}", wanted)

        def see(_: Reader | None, message: Message) -> None:
            if message["type"] == "subscribed":
                view.subscribed = len(self.world.committed)
            view.messages.append(message)

        manners: tuple[Manner, ...] = ("slow", "impatient") if self.world.readers == "odd tasks" else ("plain",)
        client = self.connect(see, wanted, None, manners[len(self.world.views) % len(manners)])
        if client is not None:
            self._clients[client] = view

    @property
    def reachable(self) -> bool:
        """Whether a client may come: not to one that is paused, or has been told to end."""
        is_there = self._hub is not None and self._tasks is not None
        return is_there and not (self.freezer.paused or self._scope.cancel_called)

    def connect(self, see: See, channels: frozenset[str], after: str | None, manner: Manner = "plain") -> Reader | None:
        """A client comes, to go on after a cursor."""
        if self._hub is None or self._tasks is None or not self.reachable:
            return None
        wanted = topics.Subscription(channels)
        if self.world.readers == "sockets":
            return self._context.run(self._by_socket, self._tasks, self._hub, see, wanted, after)
        return self._context.run(self._by_task, self._tasks, self._hub, see, wanted, after, manner)

    def _by_socket(
        self, tasks: TaskGroup, hub: Hub, see: See, wanted: topics.Subscription, after: str | None
    ) -> Reader:
        socket = ClientSocket(see)
        raw: Any = socket
        client = SocketClient(raw, _starter(tasks), hub.buffers)
        self._clients[client] = None
        hub.subscribe(client, None, wanted, after)
        socket.client = client
        return client

    def _by_task(
        self, tasks: TaskGroup, hub: Hub, see: See, wanted: topics.Subscription, after: str | None, manner: Manner
    ) -> Reader:
        """As `bridge.inprocess` has it."""
        limit_bytes = SLOW_BYTES if manner == "slow" else None
        new_inbox = partial(Inbox, _starter(tasks), hub.buffers, "lines", limit_bytes)
        assert self.feed is not None
        subscription = Subscription(hub, wanted, after, new_inbox, self.feed.state.value)
        self._clients[subscription] = None
        tasks.start_soon(read, subscription, see, self.world, manner)
        return subscription

    def _tell(self, state: FeedState) -> None:
        for client in self._clients:
            if isinstance(client, Subscription):
                client.tell(state)

    def has(self, client: Reader) -> bool:
        """Whether this client is connected here."""
        return client in self._clients

    def disconnect(self, client: Reader) -> None:
        """A client goes."""
        if self._clients.pop(client, self) is self or self._hub is None:
            return
        if isinstance(client, Subscription):
            self._context.run(client.close)
        else:
            self._hub.remove(client)

    def disconnect_client(self, number: int) -> None:
        """One of the clients that stay at one process goes."""
        staying = [client for client, view in self._clients.items() if view is not None]
        if staying and not self.freezer.paused:
            self.disconnect(staying[number % len(staying)])


def _starter(tasks: TaskGroup) -> StartSoon:
    async def run(task: Callable[[], Awaitable[None]]) -> None:
        await task()

    return lambda task: tasks.start_soon(run, task)


def _feed_and_hub(
    settings: Settings,
    links: RealLinks,
    relay: Relay | None,
    pod: OpenPod | None,
    tell_readers: Callable[[FeedState], None],
) -> tuple[Feed, Hub]:
    local = (relay.listener, relay.tape) if relay else None
    delivery = Delivery(lambda items: hub.deliver(items), METRICS, relay.timeline if relay else None)
    buffers = Buffers(settings.client_buffer_bytes, settings.buffers_total_bytes)
    hub = Hub(settings.channels, buffers, settings.history_entries, METRICS, delivery.timeline, delivery.newest)

    def tell(state: FeedState) -> None:
        tell_readers(state)
        if state.mode == "none":
            hub.set_waiting()
        else:
            hub.set_live(delivery.position)

    return build_feed(settings, links, local, delivery, tell, METRICS, pod), hub
