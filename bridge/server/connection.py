"""One accepted connection, until it ends or belongs to a WebSocket client.

A handshake that has come whole with its connection, as most have in a crowd after a deploy, is judged and answered at
once, without a task. Anything else gets a task, which answers requests and serves streams of events.
"""

import socket
from contextlib import suppress

import trio

from bridge.hub.retry import retry_seconds
from bridge.server.clients import Clients
from bridge.server.door import Door
from bridge.server.faults import contained, report
from bridge.server.http import HEAD_BYTES, HttpConnection, Request, Response, linger
from bridge.server.limits import Visitor
from bridge.server.proxies import Address, address_of
from bridge.server.sse import resume_from, run_sse
from bridge.server.tls import Tls, serve_tls
from bridge.server.upgrade import Upgrade, Welcome, targets_websockets
from bridge.server.websocket import WebSocket
from bridge.telemetry import log

_TURNED_AWAY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: %d\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def open_connection(raw: socket.socket, host: str, door: Door, nursery: trio.Nursery) -> None:
    """Take a connection that was accepted from this address. Never raises.

    It is served at once, or by a task in the nursery, until it ends.
    """
    peer = address_of(host)
    visitor = door.lobby.enter(raw, door.limited(peer))
    if visitor is None:
        _turn_away(raw, host, door)
        return
    visitor.client = peer
    if door.tls is not None:
        nursery.start_soon(_run_encrypted, raw, peer, visitor, door, door.tls)
        return
    connection = Connection(raw, peer, visitor, door)
    if not connection.try_at_once():
        nursery.start_soon(connection.run)


async def _run_encrypted(raw: socket.socket, peer: Address | None, visitor: Visitor, door: Door, tls: Tls) -> None:
    async def converse(inner: socket.socket) -> None:
        client = await Connection(inner, peer, visitor, door).converse()
        if client is not None:
            await client.ended()

    with raw:
        try:
            with contained(lambda: visitor.client):
                await serve_tls(raw, tls.context, converse)
        finally:
            door.lobby.leave(visitor)


def _turn_away(raw: socket.socket, host: str, door: Door) -> None:
    """Say so in passing, as far as the kernel takes it, and close."""
    log.debug("Too many connections of %s wait to be served; one more was closed", host)
    door.count("visitors")
    with raw, suppress(OSError):
        if door.tls is None:
            raw.send(_TURNED_AWAY % retry_seconds())
            raw.shutdown(socket.SHUT_WR)
            raw.recv(HEAD_BYTES)  # closing with unread bytes would take the answer back


class Connection:
    """A visitor's connection."""

    def __init__(self, raw: socket.socket, peer: Address | None, visitor: Visitor, door: Door) -> None:
        self._raw = raw
        self._peer = peer
        self._visitor = visitor
        self._door = door
        self._http = HttpConnection(raw, door.takes_body)
        self._request: Request | None = None
        """The first one, where it came at once, and what is to be the answer where that is known."""
        self._asked: Response | Welcome | None = None

    def try_at_once(self) -> bool:
        """Make a client of the visitor if its handshake is there already, and a good one; False where `run` is needed.

        True also where it failed, which ends it. Never raises.
        """
        try:
            request = self._request = self._http.handshake()
            if request is not None and targets_websockets(request.path):
                address = self._identify(request)
                self._asked = self._door.ask(request, address)
                if self._door.clients is not None and isinstance(self._asked, Upgrade):
                    self._let_in(self._asked, address, self._door.clients)
                    return True
        except Exception as error:
            report(error, self._visitor.client)
            self._end()
            return True
        return False

    async def run(self) -> None:
        """Serve it until it ends, or belongs to a client. Raises nothing but cancellation."""
        client: WebSocket | None = None
        try:
            with contained(lambda: self._visitor.client):
                client = await self.converse()
        finally:
            if client is None:
                self._end()

    async def converse(self) -> WebSocket | None:
        """Answer requests until there are no more, or until one makes a WebSocket client of the visitor.

        To that the socket belongs then. Raises OSError and what else is the peer's fault.
        """
        door, request = self._door, self._request or await self._http.next_request()
        while request is not None:
            address = self._identify(request)
            asked = self._asked or await door.judge(request, address, self._http)
            self._request = self._asked = None
            if door.clients is not None and isinstance(asked, Upgrade):
                return self._let_in(asked, address, door.clients)
            if door.clients is not None and isinstance(asked, Welcome):
                door.lobby.leave(self._visitor)
                after, headers = resume_from(request, asked), door.cors(request)
                await run_sse(self._raw, asked, after, door.clients, door.limited(address), headers)
                break
            if isinstance(asked, Response):
                if asked.status >= 400:  # not what was asked for: there may be a token in it, in the wrong place
                    log.debug("A request of %s was answered with %d", address, asked.status)
                if not await self._http.answer(asked):
                    break
            door.lobby.answered(self._visitor)
            request = await self._http.next_request()
        await linger(self._raw)
        return None

    def _identify(self, request: Request) -> Address | None:
        self._visitor.client = address = self._door.address(self._peer, request)
        return address

    def _let_in(self, upgrade: Upgrade, address: Address | None, clients: Clients) -> WebSocket:
        self._door.lobby.leave(self._visitor)
        client = WebSocket(self._raw, upgrade.grant, clients, self._door.limited(address), address)
        client.begin(upgrade, self._http.trailing)
        return client

    def _end(self) -> None:
        self._door.lobby.leave(self._visitor)
        self._raw.close()
