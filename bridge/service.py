"""The whole service: which tasks there are, who owns whom, and in which order everything ends.

    serve ── relay ── listener: LISTEN session -> tape           (without --no-listener)
      │        └───── publisher: tape -> log in Redis            (with Redis)
      ├───── feed: log, tape or a session of its own -> hub
      ├───── rates: samples for /status
      └───── server: accepts, one task reads for all quiet clients

What begins first ends last: clients are sent away (`bridge.server.drain`), then the feed stops, then the relay. A task
that fails with anything but the errors it handles ends the process: a supervisor that restarts on bugs hides them.
"""

import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import trio

from bridge.feed.build import build_feed
from bridge.feed.delivery import Delivery
from bridge.feed.source import FeedState
from bridge.health import ListenerHealth, Process, RelayHealth, ServerHealth
from bridge.hub import Buffers, Hub
from bridge.links.openers import RealLinks
from bridge.links.pod import OpenPod
from bridge.links.postgres_notify import notify
from bridge.rates import Rates
from bridge.relay.relay import Relay
from bridge.server import HealthSource
from bridge.server import serve as serve_http
from bridge.server.auth import Authenticator
from bridge.server.drain import drain
from bridge.server.endpoints import Ask
from bridge.server.limits import Places
from bridge.server.listener import Turns
from bridge.server.notify import Send
from bridge.server.tls import open_tls
from bridge.settings import Settings
from bridge.signals import received
from bridge.telemetry import Metrics, fields, log

OnListening = Callable[[str], None]
"""Called once with the URL, when connections are accepted."""
Signals = AsyncIterator[int]


@dataclass(frozen=True)
class Pod:
    """What a worker has from its pod, instead of having it alone."""

    listeners: Sequence[socket.socket]
    places: Places
    turns: Turns
    signals: Signals
    """Orders of the supervisor, as the signals that would mean the same."""
    listener_works: Callable[[], bool]
    ask: Ask
    """What /status and /metrics say of all processes."""
    introduce: Callable[[HealthSource, Metrics], None]
    """Called once with what this process says of itself."""
    open_listener: OpenPod | None
    """Links to the listener process, where there is one."""


def check_files(settings: Settings, *, serves_clients: bool) -> None:
    """Raise SettingsError where the files that settings name cannot be used, before anything is started."""
    open_tls(settings)
    if serves_clients:
        Authenticator(settings)


async def serve(
    settings: Settings,
    *,
    with_listener: bool,
    embedded: bool = False,
    on_listening: OnListening,
    pod: Pod | None = None,
) -> None:
    """Serve clients until SIGTERM or SIGINT; then drain, end everything in order and return; at once at a second one.

    SIGHUP reads certificate and keys again. Raises SettingsError where they cannot be used at the start. `embedded` is
    true where the database is thrown away at the end, so that the page may send to it. In a `pod` its supervisor's
    orders take the place of signals.
    """
    metrics = Metrics()
    links, with_redis = RealLinks(settings), settings.use_redis_notifier
    relay = Relay(settings, links, metrics, with_redis=with_redis) if with_listener else None
    heard = (relay.timeline, relay.listener.arrivals) if relay else (None, None)
    delivery = Delivery(lambda items: hub.deliver(items), metrics, *heard)
    hub = Hub(
        settings.channels,
        Buffers(settings.client_buffer_bytes, settings.buffers_total_bytes, drops=settings.slow_client == "gap"),
        settings.history_entries,
        metrics,
        delivery.timeline,
        delivery.newest,
    )

    def tell_hub(state: FeedState) -> None:
        if state.mode == "none":
            hub.set_waiting()
        else:
            hub.set_live(delivery.position)

    local = (relay.listener, relay.tape) if relay else None
    feed = build_feed(settings, links, local, delivery, tell_hub, metrics, pod.open_listener if pod else None)
    rates = Rates(metrics)
    process = Process(settings, metrics, rates, embedded=embedded)
    relay_health = RelayHealth(relay) if relay else None
    places = pod.places if pod else Places(settings.max_clients)
    listener_works = pod.listener_works if pod else lambda: True
    health = ServerHealth(settings, feed, delivery, hub, relay_health, process, places, listener_works)
    if pod:
        pod.introduce(health, metrics)

    async def send(channel: str, payload: str) -> None:
        await notify(settings.conninfo(), channel, [payload])

    server = Server(settings, hub, health, metrics, places, send if embedded else None, pod)
    with received(signal.SIGTERM, signal.SIGINT) if pod is None else nullcontext(pod.signals) as signals:
        async with _running(relay.run) if relay else _running(), _running(feed.run, rates.run):
            await server.run(signals, on_listening)


async def listen(settings: Settings, *, embedded: bool = False, on_listening: OnListening) -> None:
    """Bring notifications into the log until SIGTERM or SIGINT; then end everything in order and return."""
    metrics = Metrics()
    relay = Relay(settings, RealLinks(settings), metrics, with_redis=True)
    rates = Rates(metrics)
    health = ListenerHealth(RelayHealth(relay), Process(settings, metrics, rates, embedded=embedded))
    server = Server(settings, None, health, metrics, Places(settings.max_clients))
    with received(signal.SIGTERM, signal.SIGINT) as signals:
        async with _running(relay.run, rates.run):
            await server.run(signals, on_listening)


class Server:
    """The server of this process, from its first connection to the last signal."""

    def __init__(
        self,
        settings: Settings,
        hub: Hub | None,
        health: HealthSource,
        metrics: Metrics,
        places: Places,
        send: Send | None = None,
        pod: Pod | None = None,
    ) -> None:
        self._pod = pod
        self._settings = settings
        self._hub = hub
        self._health = health
        self._metrics = metrics
        self._places = places
        self._send = send
        self._tls = open_tls(settings)
        self._authenticator = Authenticator(settings) if hub else None

    async def run(self, signals: Signals, on_listening: OnListening) -> None:
        """Serve until a signal says that it is enough. Without clients to send away, that is the first one."""
        async with trio.open_nursery() as nursery:
            serve_this = partial(
                serve_http,
                places=self._places,
                tls=self._tls,
                authenticator=self._authenticator,
                send=self._send,
                listeners=self._pod.listeners if self._pod else None,
                turns=self._pod.turns if self._pod else None,
                ask_pod=self._pod.ask if self._pod else None,
            )
            host, port = await nursery.start(serve_this, self._settings, self._hub, self._health, self._metrics)
            scheme = "https" if self._tls else "http"
            on_listening(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
            async for number in signals:
                if number == signal.SIGHUP:
                    self._reload()
                    continue
                name = signal.Signals(number).name
                if self._pod is None:
                    log.info("Received %s, ending", name, extra=fields(signal=name))
                if self._hub is None or self._places.closed:
                    break
                nursery.start_soon(self._drain, self._hub, nursery.cancel_scope)
            nursery.cancel_scope.cancel()

    def _reload(self) -> None:
        log.info("Received SIGHUP: certificate and keys are read again, where there are any")
        if self._authenticator is not None:
            self._authenticator.reload()
        if self._tls is not None:
            self._tls.reload()

    async def _drain(self, hub: Hub, everything: trio.CancelScope) -> None:
        await drain(hub, self._places, self._settings.drain_seconds)
        everything.cancel()


@asynccontextmanager
async def _running(*tasks: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """These tasks run as long as the body does, and are cancelled after it."""
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
        yield
        nursery.cancel_scope.cancel()
