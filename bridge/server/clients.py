"""What the clients of a server share: the hub, one nursery for the tasks of all, one timer for their tokens.

A quiet client costs one task, which waits for its bytes. What else is to be done for it now and then (sending what is
held, waiting for its goodbye) runs in the server's own nursery, and has ended when the client's socket is closed.
"""

import math
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from bridge.core.grants import Grant
from bridge.core.wire import GOING_AWAY, TOKEN_EXPIRED
from bridge.hub import Client, Hub
from bridge.hub.encoding import Protocol
from bridge.hub.retry import retry_seconds
from bridge.telemetry import log

EXPIRY_SECONDS = 1.0
"""How often tokens are looked at."""

_NEVER = 2.0**53

Work = Callable[[], Awaitable[None]]
Session = Callable[[Client], Awaitable[None]]


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

    def cancel(self) -> None:
        """Cancel what runs. When this returns, nothing waits for the socket any more, and it may be closed."""
        scopes, self._scopes = self._scopes or (), None
        for scope in scopes:
            scope.cancel()

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


class Clients:
    """Where the clients of one server live. `nursery` is to be that in which their connections are served."""

    def __init__(self, hub: Hub, nursery: trio.Nursery) -> None:
        self.hub = hub
        self.expiry = Expiry()
        self._nursery = nursery
        nursery.start_soon(self.expiry.run)

    async def serve(self, raw: socket.socket, protocol: Protocol, grant: Grant, session: Session) -> None:
        """Run a client's session until it ends, then say goodbye. Closing the socket is left to the caller.

        Cancelling says goodbye with 1001 if the kernel takes it at once.
        """
        tasks = ClientTasks(self._nursery, raw)
        client = Client(raw, tasks.start_soon, self.hub.buffers, protocol)
        if grant.expires_at is not None:
            self.expiry.add(client, grant.expires_at)
        try:
            try:
                await session(client)
            finally:
                client.end(GOING_AWAY, f"retry={retry_seconds()}", drop=True)
                self.hub.remove(client)
                if grant.expires_at is not None:
                    self.expiry.remove(client, grant.expires_at)
            await client.flushed()
        finally:
            client.finish()
            tasks.cancel()


def _second(expires_at: float) -> int:
    return math.ceil(min(expires_at, _NEVER))
