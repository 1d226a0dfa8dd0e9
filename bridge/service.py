"""The whole service: which tasks there are, who owns whom, and in which order everything ends.

    serve ── relay ── listener: LISTEN session -> tape           (without --no-listener)
      │        └───── publisher: tape -> log in Redis            (with Redis)
      ├───── feed: log, tape or a session of its own -> hub
      ├───── rates: samples for /status
      └───── server: accepts, one task a connection

What begins first ends last: clients are told, then the feed stops, then the relay. A task that fails with anything but
the errors it handles ends the process: a supervisor that restarts on bugs hides them.
"""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from bridge.feed.build import build_feed
from bridge.feed.delivery import Delivery
from bridge.feed.source import FeedState
from bridge.health import ListenerHealth, Rates, RelayHealth, ServerHealth
from bridge.hub import Hub
from bridge.links.openers import RealLinks
from bridge.relay.relay import Relay
from bridge.server import HealthSource
from bridge.server import serve as serve_http
from bridge.settings import Settings
from bridge.telemetry import Metrics, log

OnListening = Callable[[str], None]
"""Called once with the URL, when connections are accepted."""


async def serve(settings: Settings, *, with_listener: bool, on_listening: OnListening) -> None:
    """Serve clients until SIGTERM or SIGINT; then end everything in order and return."""
    metrics = Metrics()
    links, with_redis = RealLinks(settings), settings.use_redis_notifier
    relay = Relay(settings, links, metrics, with_redis=with_redis) if with_listener else None
    delivery = Delivery(lambda items: hub.deliver(items), metrics, relay.timeline if relay else None)
    buffers = (settings.client_buffer_bytes, settings.buffers_total_bytes)
    hub = Hub(settings.channels, *buffers, metrics, delivery.follows)

    def tell_hub(state: FeedState) -> None:
        if state.mode == "none":
            hub.set_waiting()
        else:
            hub.set_live(delivery.position)

    local = (relay.listener, relay.tape) if relay else None
    feed = build_feed(settings, links, local, delivery, tell_hub, metrics)
    rates = Rates(metrics, hub.observe)
    relay_health = RelayHealth(relay) if relay else None
    health = ServerHealth(feed, delivery, hub, relay_health, rates, wants_redis=with_redis)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with _running(relay.run) if relay else _running(), _running(feed.run, rates.run):
            await _serve_until(signals, settings, hub, health, metrics, on_listening)


async def listen(settings: Settings, *, on_listening: OnListening) -> None:
    """Bring notifications into the log until SIGTERM or SIGINT; then end everything in order and return."""
    metrics = Metrics()
    relay = Relay(settings, RealLinks(settings), metrics, with_redis=True)
    rates = Rates(metrics)
    health = ListenerHealth(RelayHealth(relay), rates)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with _running(relay.run, rates.run):
            await _serve_until(signals, settings, None, health, metrics, on_listening)


@asynccontextmanager
async def _running(*tasks: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """These tasks run as long as the body does, and are cancelled after it."""
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
        yield
        nursery.cancel_scope.cancel()


async def _serve_until(
    signals: AsyncIterator[int],
    settings: Settings,
    hub: Hub | None,
    health: HealthSource,
    metrics: Metrics,
    on_listening: OnListening,
) -> None:
    async with trio.open_nursery() as nursery:
        host, port = await nursery.start(serve_http, settings, hub, health, metrics)
        on_listening(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        async for number in signals:
            log.info("Received %s, ending", signal.Signals(number).name)
            break
        nursery.cancel_scope.cancel()
