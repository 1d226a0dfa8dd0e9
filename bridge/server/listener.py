"""Where the server begins: binds its address, accepts, and keeps the hub's time."""

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from bridge.errors import BridgeError
from bridge.hub import Hub
from bridge.hub.hub import TICK_SECONDS
from bridge.server.auth import Authenticator
from bridge.server.clients import Clients
from bridge.server.connection import open_connection
from bridge.server.door import Door
from bridge.server.endpoints import Ask, HealthSource, endpoints
from bridge.server.limits import Lobby, Places, prepare_descriptors
from bridge.server.notify import Notifier, Send
from bridge.server.tls import DESCRIPTORS_A_CONNECTION, Tls
from bridge.settings import Settings
from bridge.telemetry import Metrics, log

BACKLOG = 4096
"""Connections that wait to be accepted: after a restart all come back at once. The kernel caps it (somaxconn)."""
ACCEPTED_A_TURN = 32
TURN_SECONDS = 0.005
"""Then other tasks get a turn: events do not wait for a crowd at the door, nor for what those lack who come back."""
EXHAUSTED_PAUSE_SECONDS = 0.1
EXHAUSTED_LOG_SECONDS = 10.0
UNSENT_BYTES = 128 * 1024
"""What the kernel holds for a client beyond what is on its way: the rest is in our buffer, bounded and shared."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_GONE_ALREADY = {
    errno.ECONNABORTED,
    errno.EPERM,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.ENONET,
}
"""Trouble of the one connection that was to be accepted: accept(2)."""


class Turns(Protocol):
    """Who of several processes that share the listening sockets accepts how many connections now."""

    connections: Callable[[], int]
    """How many this process has open; the server sets it."""

    def note(self) -> None:
        """Some were accepted."""

    async def quota(self, most: int) -> int:
        """How many to accept now, from 0 to `most`; may wait a little."""
        ...


async def serve(
    settings: Settings,
    hub: Hub | None,
    health: HealthSource,
    metrics: Metrics,
    *,
    tls: Tls | None = None,
    places: Places | None = None,
    authenticator: Authenticator | None = None,
    send: Send | None = None,
    listeners: Sequence[socket.socket] | None = None,
    turns: Turns | None = None,
    ask_pod: Ask | None = None,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP and, with a hub, WebSockets and streams of events; reports the bound (host, port). Never returns.

    With a hub there is also the page, which sends NOTIFYs by `send`, if it is given. Processes that share `listeners`
    take `turns`, and `ask_pod` what they say together.
    What is not given is made from the settings, which raises SettingsError where a file cannot be used. Raises
    BridgeError if the address cannot be bound. Cancelling closes every client with 1001, as far as the kernel takes the
    frame at once, and takes no longer than that (with TLS, than `bridge.server.tls.GOODBYE_SECONDS`).
    """
    max_clients = settings.max_clients if hub else 0
    lobby = Lobby(prepare_descriptors(max_clients, a_connection=DESCRIPTORS_A_CONNECTION if tls else 1))
    listeners = listeners or await open_listeners(settings.host, settings.port)
    observe = hub.observe if hub else lambda: None
    places = places or Places(settings.max_clients)
    if hub is not None and authenticator is None:
        authenticator = Authenticator(settings)
    async with trio.open_nursery() as nursery:
        clients = Clients(hub, places, nursery) if hub else None
        notifier = Notifier(hub.channels, authenticator, send) if hub and authenticator else None
        paths = endpoints(health, metrics, observe, with_page=hub is not None)
        door = Door(settings, clients, paths, lobby, places, tls, authenticator, notifier, metrics, ask_pod)
        if turns is not None:
            turns.connections = lambda: lobby.count + places.taken
        if hub is not None:
            nursery.start_soon(_keep_time, hub)
        for listener in listeners:
            nursery.start_soon(_accept, listener, door, lobby, nursery, turns)
        host, port, *_ = listeners[0].getsockname()
        task_status.started((host, port))


async def open_listeners(host: str, port: int) -> list[socket.socket]:
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
    return [_plain(listener) for listener in listeners]


def _plain(listener: trio.SocketListener) -> socket.socket:
    """The socket itself. What is set here, every accepted connection inherits, without a call of its own."""
    sock = socket.socket(fileno=listener.socket.detach())
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    return sock


async def _accept(
    listener: socket.socket, door: Door, lobby: Lobby, nursery: trio.Nursery, turns: Turns | None
) -> None:
    """Accept for ever; where descriptors or memory run out, wait for better times and say so now and then."""
    quiet_until = -1.0
    with listener:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                count = ACCEPTED_A_TURN if turns is None else await turns.quota(ACCEPTED_A_TURN)
                await _accept_some(listener, door, lobby, nursery, count)
                if turns is not None:
                    turns.note()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                if trio.current_time() >= quiet_until:
                    log.error("Cannot accept connections: %s; raise the limit (ulimit -n)", error.strerror)
                    quiet_until = trio.current_time() + EXHAUSTED_LOG_SECONDS
                lobby.make_room()
                await trio.sleep(EXHAUSTED_PAUSE_SECONDS)


async def _accept_some(listener: socket.socket, door: Door, lobby: Lobby, nursery: trio.Nursery, count: int) -> None:
    until = trio.current_time() + TURN_SECONDS
    for _ in range(count):
        await lobby.room()
        try:
            raw, address = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _GONE_ALREADY:
                continue
            raise
        raw.setblocking(False)
        open_connection(raw, address[0], door, nursery)
        if trio.current_time() > until:
            return


async def _keep_time(hub: Hub) -> None:
    """One timer for all clients."""
    while True:
        due = trio.current_time() + TICK_SECONDS
        await trio.sleep_until(due)
        hub.tick(after_pause=trio.current_time() - due > TICK_SECONDS)
