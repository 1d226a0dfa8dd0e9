"""A process of the bridge in the simulation: relay, feed and hub as the service has them, on links in memory."""

import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, cast

import trio

from bridge.core.topics import Subscription
from bridge.feed.build import build_feed
from bridge.feed.delivery import Delivery
from bridge.feed.feed import Feed
from bridge.feed.source import FeedState
from bridge.hub import Buffers, Client, Hub, SocketClient
from bridge.links.openers import RealLinks
from bridge.links.pod import OpenPod, open_pod
from bridge.links.postgres import ListenSession, SessionOptions
from bridge.relay.outlet import Outlet
from bridge.relay.relay import Relay
from bridge.settings import Settings
from bridge.telemetry import Metrics
from tests.sim.clients import ClientSocket
from tests.sim.postgres_server import Connection as PostgresConnection
from tests.sim.runtime import Freezer, current_process
from tests.sim.wire import Path, ServerEnd, Wire
from tests.support.oracle import Message, View

if TYPE_CHECKING:
    from tests.sim.world import World

CHANNELS = (("a", "b"), ("a", "c"))
"""The two sets of channels that processes may have."""

METRICS = Metrics()  # nobody reads them here, and making them is slow


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
        self._clients: dict[Client, View | None] = {}
        """Those that stay, with what they see, and travellers."""
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._lives = 0
        self._arrived = trio.Event()

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

    def start(self, nursery: trio.Nursery) -> None:
        """Run, in a task of this nursery, until `kill` or `end`."""
        self.running = True
        self._scope = trio.CancelScope()
        nursery.start_soon(self._live)

    async def _live(self) -> None:
        current_process.set(self.freezer)
        self._lives += 1
        links = MemoryLinks(self.settings, self)
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                if self.listens:
                    feeds_a_pod = any(one.pod is self for one in self.world.processes)
                    nonce = self.name if feeds_a_pod else None
                    self.relay = Relay(self.settings, links, METRICS, with_redis=self.world.with_redis, nonce=nonce)
                    self._nursery.start_soon(self.relay.run)
                    if feeds_a_pod:
                        outlet = Outlet(self.relay, self.settings.digest, trims=not self.world.with_redis)
                        self._nursery.start_soon(self.serve_pod, outlet)
                if self.serves:
                    open_own = partial(open_pod, pathlib.Path(self.name)) if self.pod is not None else None
                    self.feed, self._hub = _feed_and_hub(self.settings, links, self.relay, open_own)
                    self._nursery.start_soon(self.feed.run)
                    self.connect_client()
        self._nursery = self.feed = self.relay = self._hub = self._outlet = None
        self._ends.clear()
        self._clients.clear()
        self.running = False

    def end(self) -> None:
        """SIGTERM: it ends in order."""
        self.freezer.resume()
        self._scope.cancel()

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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outlet.keep_trimmed)
            served: set[ServerEnd] = set()
            while True:
                self._arrived = trio.Event()
                for end in self._ends:
                    if end not in served:
                        served.add(end)
                        nursery.start_soon(outlet.serve_stream, end)
                await self._arrived.wait()

    def connect_client(self, channels: frozenset[str] = frozenset()) -> None:
        """A client comes, for all channels or some."""
        if self._hub is None or self._nursery is None or self.freezer.paused:
            return
        wanted = frozenset(self.settings.channels) & channels or frozenset(self.settings.channels)
        view = self.world.new_view(f"{self.name}.{self._lives}", wanted)

        def see(_: Client | None, message: Message) -> None:
            if message["type"] == "subscribed":
                view.subscribed = len(self.world.committed)
            view.messages.append(message)

        client = self.connect(ClientSocket(see), wanted, None)
        if client is not None:
            self._clients[client] = view

    @property
    def reachable(self) -> bool:
        """Whether a client may come."""
        return self._hub is not None and self._nursery is not None and not self.freezer.paused

    def connect(self, socket: ClientSocket, channels: frozenset[str], after: str | None) -> Client | None:
        """A client comes, to go on after a cursor."""
        if self._hub is None or self._nursery is None or self.freezer.paused:
            return None
        raw: Any = socket
        client = SocketClient(raw, self._nursery.start_soon, self._hub.buffers)
        self._clients[client] = None
        self._hub.subscribe(client, None, Subscription(channels), after)
        return client

    def has(self, client: Client) -> bool:
        """Whether this client is connected here."""
        return client in self._clients

    def disconnect(self, client: Client) -> None:
        """A client goes."""
        if self._clients.pop(client, self) is not self and self._hub is not None:
            self._hub.remove(client)

    def disconnect_client(self, number: int) -> None:
        """One of the clients that stay at one process goes."""
        staying = [client for client, view in self._clients.items() if view is not None]
        if staying and not self.freezer.paused:
            self.disconnect(staying[number % len(staying)])


def _feed_and_hub(settings: Settings, links: RealLinks, relay: Relay | None, pod: OpenPod | None) -> tuple[Feed, Hub]:
    local = (relay.listener, relay.tape) if relay else None
    delivery = Delivery(lambda items: hub.deliver(items), METRICS, relay.timeline if relay else None)
    buffers = Buffers(settings.client_buffer_bytes, settings.buffers_total_bytes)
    hub = Hub(settings.channels, buffers, settings.history_entries, METRICS, delivery.timeline, delivery.newest)

    def tell_hub(state: FeedState) -> None:
        if state.mode == "none":
            hub.set_waiting()
        else:
            hub.set_live(delivery.position)

    return build_feed(settings, links, local, delivery, tell_hub, METRICS, pod), hub
