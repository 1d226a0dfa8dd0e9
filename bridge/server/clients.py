"""What the clients of a server share: the hub, one reader and one nursery for all, one timer for their tokens.

A quiet WebSocket client costs no task: the reader waits for its bytes. What is to be done for it now and then (sending
what is held, waiting for its goodbye) runs in the server's own nursery, and has ended when its socket is closed.
"""

import math
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from bridge.core.grants import Grant
from bridge.core.wire import GOING_AWAY, TOKEN_EXPIRED
from bridge.hub import Client, Hub, SocketClient
from bridge.hub.encoding import Protocol
from bridge.hub.retry import retry_seconds
from bridge.server.limits import Places
from bridge.server.reader import Reader
from bridge.telemetry import log

EXPIRY_SECONDS = 1.0
"""How often tokens are looked at."""

_NEVER = 2.0**53

Work = Callable[[], Awaitable[None]]


class ClientTasks:
    """The short-lived tasks of one client, in a nursery that outlives it."""

    __slots__ = ("_nursery", "_raw", "_scopes")

    def __init__(self, nursery: trio.Nursery, raw: socket.socket) -> None:
        self._nursery = nursery
        self._raw = raw
        self._scopes: tuple[trio.CancelScope, ...] | None = ()
        """Of the tasks that run; None once there may be no more."""

    def start_soon(self, work: Work) -> None:
        """Run this until it ends or `cancel` is called; afterwards, not at all."""
        if self._scopes is not None:
            scope = trio.CancelScope()
            self._scopes += (scope,)
            self._nursery.start_soon(self._run, work, scope)

    def cancel(self) -> bool:
        """Cancel what runs. When this returns, nothing waits for the socket any more, and it may be closed.

        False where that was done before.
        """
        if self._scopes is None:
            return False
        scopes, self._scopes = self._scopes, None
        for scope in scopes:
            scope.cancel()
        return True

    async def _run(self, work: Work, scope: trio.CancelScope) -> None:
        with scope:
            try:
                await work()
            except Exception:
                log.exception("A connection failed, which should not happen")
                with suppress(OSError):
                    self._raw.shutdown(socket.SHUT_RDWR)  # whoever reads from it ends the connection
        if self._scopes is not None:
            self._scopes = tuple(other for other in self._scopes if other is not scope)


class Expiry:
    """Closes clients with 4001 when their tokens expire, within `EXPIRY_SECONDS`, by the clock on the wall.

    A deadline of the event loop would not notice that this clock is set, or that the machine was asleep.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._clients: dict[int, set[Client]] = {}
        """By the first whole second at which the token is no longer valid."""

    def add(self, client: Client, expires_at: float) -> None:
        """End this client at that time, in seconds since 1970."""
        self._clients.setdefault(_second(expires_at), set()).add(client)

    def remove(self, client: Client, expires_at: float) -> None:
        """Forget a client that was added with this time; harmless if its time has come."""
        clients = self._clients.get(_second(expires_at), set())
        clients.discard(client)
        if not clients:
            self._clients.pop(_second(expires_at), None)

    def expire(self) -> None:
        """End those whose time has come."""
        now = self._now()
        for second in [second for second in self._clients if second <= now]:
            for client in self._clients.pop(second):
                client.end(TOKEN_EXPIRED, "the token has expired")

    async def run(self) -> None:
        """Never returns."""
        while True:
            await trio.sleep(EXPIRY_SECONDS - self._now() % EXPIRY_SECONDS)  # tokens end with whole seconds
            self.expire()


class Stay:
    """One client's time here: from when it takes its place until it gives it back. Synchronous, and never raises."""

    __slots__ = ("_clients", "_expires_at", "_site", "_tasks", "client")

    def __init__(
        self, clients: "Clients", raw: socket.socket, protocol: Protocol, grant: Grant, site: str | None
    ) -> None:
        self._clients = clients
        self._site = site
        self._expires_at = grant.expires_at
        self._tasks = ClientTasks(clients.nursery, raw)
        self.client = SocketClient(raw, self._tasks.start_soon, clients.hub.buffers, protocol)
        clients.places.take(site)
        if self._expires_at is not None:
            clients.expiry.add(self.client, self._expires_at)

    def leave(self) -> None:
        """Hear nothing any more; a goodbye with 1001 is the last thing said, unless another one was."""
        self.client.end(GOING_AWAY, f"retry={retry_seconds()}", drop=True)
        self._clients.hub.remove(self.client)
        if self._expires_at is not None:
            self._clients.expiry.remove(self.client, self._expires_at)

    def end(self) -> None:
        """Give the place back, once. Afterwards nothing waits for the socket, and it may be closed."""
        if self._tasks.cancel():
            self.client.finish()
            self._clients.places.release(self._site)


class Clients:
    """Where the clients of one server live. `nursery` is to be that in which their connections are served."""

    def __init__(self, hub: Hub, places: Places, nursery: trio.Nursery) -> None:
        self.hub = hub
        self.places = places
        self.nursery = nursery
        self.reader = Reader()
        self.expiry = Expiry()
        nursery.start_soon(self.reader.run)
        nursery.start_soon(self.expiry.run)


def _second(expires_at: float) -> int:
    return math.ceil(min(expires_at, _NEVER))
