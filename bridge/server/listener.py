"""Where the server begins: binds its address, accepts, and keeps the hub's time."""

import errno
import os
import socket

import trio

from bridge.errors import BridgeError
from bridge.hub import Hub
from bridge.hub.fanout import TICK_SECONDS
from bridge.server.connection import Door
from bridge.server.endpoints import HealthSource, endpoints
from bridge.settings import Settings
from bridge.telemetry import Metrics, log

BACKLOG = 4096
"""Connections that wait to be accepted: after a restart all come back at once. The kernel caps it (somaxconn)."""
EXHAUSTED_PAUSE_SECONDS = 0.1
EXHAUSTED_LOG_SECONDS = 10.0
UNSENT_BYTES = 128 * 1024
"""What the kernel holds for a client beyond what is on its way: the rest is in our buffer, bounded and shared."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


async def serve(
    settings: Settings,
    hub: Hub | None,
    health: HealthSource,
    metrics: Metrics,
    *,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP and, with a hub, WebSockets; reports the bound (host, port). Never returns.

    Raises BridgeError if the address cannot be bound. Cancelling closes every client with 1001, as far as the kernel
    takes the frame at once, and takes no longer than that.
    """
    listeners = await open_listeners(settings.host, settings.port)
    observe = hub.observe if hub else lambda: None
    door = Door(hub, endpoints(health, metrics, observe), local=settings.loopback, max_clients=settings.max_clients)
    async with trio.open_nursery() as nursery:
        if hub is not None:
            nursery.start_soon(_keep_time, hub)
        for listener in listeners:
            nursery.start_soon(_accept, listener, door, nursery)
        host, port, *_ = listeners[0].socket.getsockname()
        task_status.started((host, port))


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listening sockets on every address of `host`; for port 0 on the first alone, as each would get its own port."""
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except socket.gaierror as error:
        raise BridgeError(f"cannot listen on {host}: {error.strerror}; check BRIDGE_HOST") from error
    except OSError as error:
        variable = "BRIDGE_HOST" if error.errno == errno.EADDRNOTAVAIL else "BRIDGE_PORT"
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise BridgeError(f"cannot listen on {host} port {port}: {reason}; check {variable}") from error
    if port == 0:
        for listener in listeners[1:]:
            await trio.aclose_forcefully(listener)
        del listeners[1:]
    return listeners


async def _accept(listener: trio.SocketListener, door: Door, nursery: trio.Nursery) -> None:
    """Accept for ever; where descriptors or memory run out, wait for better times and say so now and then."""
    quiet_until = -1.0
    async with listener:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                if trio.current_time() >= quiet_until:
                    log.error("Cannot accept connections: %s; raise the limit (ulimit -n)", error.strerror)
                    quiet_until = trio.current_time() + EXHAUSTED_LOG_SECONDS
                await trio.sleep(EXHAUSTED_PAUSE_SECONDS)
                continue
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            nursery.start_soon(door.handle, stream)


async def _keep_time(hub: Hub) -> None:
    """One timer for all clients."""
    while True:
        due = trio.current_time() + TICK_SECONDS
        await trio.sleep_until(due)
        hub.tick(after_pause=trio.current_time() - due > TICK_SECONDS)
