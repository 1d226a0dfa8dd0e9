"""One accepted connection, from its first byte to its last; and the one place that says which errors are the peer's.

Whatever a peer does (garbage, a TLS hello, half a request, a reset), it ends its own connection and leaves a line at
debug level. Anything else that fails here is a bug: it is logged with its stack, and costs this connection alone.
"""

import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import h11
import trio
from trio_websocket import ConnectionClosed
from wsproto.utilities import ProtocolError

from bridge.hub.retry import retry_seconds
from bridge.server.auth import Authenticator
from bridge.server.clients import Clients
from bridge.server.endpoints import Ask, Endpoint, answer, answer_for_pod, concerns_pod
from bridge.server.guard import Guard
from bridge.server.http import HEAD_BYTES, HttpConnection, Request, Response, linger, refuse
from bridge.server.limits import Lobby, Places, Visitor
from bridge.server.notify import PATH, Notifier
from bridge.server.proxies import Address, Network, address_of, client_address, is_trusted, site
from bridge.server.sse import come_back_later, resume_from, run_sse
from bridge.server.tls import Tls, serve_tls
from bridge.server.upgrade import Upgrade, Welcome, judge, targets_clients, targets_streams, targets_websockets
from bridge.server.websocket import run_websocket
from bridge.settings import Settings
from bridge.telemetry import Metrics, error_text, log
from bridge.telemetry.metrics import Refusal

_TURNED_AWAY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: %d\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

_REFUSALS: Mapping[int, Refusal] = {401: "auth", 403: "forbidden"}

_PEERS_FAULT = (
    OSError,  # reset, broken pipe, unreachable, timed out: all that a socket raises
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    h11.RemoteProtocolError,
    ProtocolError,
    ConnectionClosed,
)


class Door:
    """Where connections come in: what there is to ask for, and who may ask. Without `clients`, nobody hears events."""

    def __init__(
        self,
        settings: Settings,
        clients: Clients | None,
        paths: Mapping[str, Endpoint],
        lobby: Lobby,
        places: Places,
        tls: Tls | None,
        authenticator: Authenticator | None,
        notifier: Notifier | None,
        metrics: Metrics,
        ask_pod: Ask | None = None,
    ) -> None:
        self._ask_pod = ask_pod
        self._clients = clients
        self._paths = paths
        self._guard = Guard(settings)
        self._authenticator = authenticator
        self._notifier = notifier
        self._lobby = lobby
        self._places = places
        self._tls = tls
        self._metrics = metrics
        self._trusted: Sequence[Network] = settings.trusted_proxies

    def open(self, raw: socket.socket, host: str, nursery: trio.Nursery) -> None:
        """Take a connection that was accepted; a task in the nursery serves it until it ends."""
        peer = address_of(host)
        visitor = self._lobby.enter(raw, self._limited(peer))
        if visitor is None:
            self._turn_away(raw, host)
        else:
            visitor.client = peer
            nursery.start_soon(self._handle, raw, peer, visitor)

    def _turn_away(self, raw: socket.socket, host: str) -> None:
        """Say so in passing, as far as the kernel takes it, and close."""
        log.debug("Too many connections of %s wait to be served; one more was closed", host)
        self._count("visitors")
        with raw, suppress(OSError):
            if self._tls is None:
                raw.send(_TURNED_AWAY % retry_seconds())
                raw.shutdown(socket.SHUT_WR)
                raw.recv(HEAD_BYTES)  # closing with unread bytes would take the answer back

    async def _handle(self, raw: socket.socket, peer: Address | None, visitor: Visitor) -> None:
        """Serve one connection until it ends. Raises nothing but cancellation."""
        converse = partial(self._converse, peer=peer, visitor=visitor)
        with raw:
            try:
                if self._tls is None:
                    await converse(raw)
                else:
                    await serve_tls(raw, self._tls.context, converse)
            except* _PEERS_FAULT as group:
                log.debug("A connection of %s failed: %s", visitor.client, _text(group))
            except* Exception as group:
                log.error("A connection failed, which should not happen", exc_info=group)
            finally:
                self._lobby.leave(visitor)

    async def _converse(self, raw: socket.socket, peer: Address | None, visitor: Visitor) -> None:
        admitted = await self._admit(raw, peer, visitor)
        if admitted is not None:
            client, serve = admitted
            self._lobby.leave(visitor)
            self._places.take(client)
            try:
                await serve()
            finally:
                self._places.release(client)
        await linger(raw)

    async def _admit(
        self, raw: socket.socket, peer: Address | None, visitor: Visitor
    ) -> tuple[str | None, Callable[[], Awaitable[None]]] | None:
        """Answer requests until one makes a client of the visitor: its address and how to serve it. None at the end."""
        http = HttpConnection(raw, self._takes_body)
        while (request := await http.next_request()) is not None:
            visitor.client = address = client_address(peer, request, self._trusted)
            client = self._limited(address)
            asked = await self._judge(request, client, http)
            if self._clients is not None and isinstance(asked, Upgrade):
                return client, partial(run_websocket, raw, asked, http.trailing, self._clients)
            if self._clients is not None and isinstance(asked, Welcome):
                after, headers = resume_from(request, asked), self._guard.cors(request)
                return client, partial(run_sse, raw, asked, after, self._clients, headers)
            if isinstance(asked, Response):
                if asked.status >= 400:  # not what was asked for: there may be a token in it, in the wrong place
                    log.debug("A request of %s was answered with %d", address, asked.status)
                if not await http.answer(asked):
                    break
            self._lobby.answered(visitor)
        return None

    def _takes_body(self, request: Request) -> bool:
        return self._notifier is not None and request.method == "POST" and request.path == PATH

    async def _judge(self, request: Request, client: str | None, http: HttpConnection) -> Response | Welcome:
        """The answer to a request, or what it is to hear. Under ``/sse`` pages of welcome origins may read answers."""
        if self._notifier is not None and request.path == PATH:
            return self._unwelcome(request) or await self._notifier.answer(request, http.body)
        if self._ask_pod is not None and concerns_pod(request):
            return self._unwelcome(request) or await answer_for_pod(request, self._ask_pod, self._paths)
        asked = self._ask(request, client)
        if isinstance(asked, Response) and targets_streams(request.path):
            return replace(asked, headers=(*asked.headers, *self._guard.cors(request)))
        return asked

    def _unwelcome(self, request: Request) -> Response | None:
        websocket = request.upgrades_to_websocket and targets_websockets(request.path)
        reason = self._guard.refusal(request, websocket=websocket)
        if reason is None:
            return None
        self._count("origin")
        return refuse(403, reason)

    def _ask(self, request: Request, client: str | None) -> Response | Welcome:
        if (unwelcome := self._unwelcome(request)) is not None:
            return unwelcome
        if self._clients is None or self._authenticator is None or not targets_clients(request.path):
            return answer(request, self._paths)
        if targets_streams(request.path) and (preflight := self._guard.preflight(request)) is not None:
            return preflight
        asked = judge(request, self._clients.hub.channels, self._authenticator.grant)
        if isinstance(asked, Response):
            self._count(_REFUSALS.get(asked.status, "bad_request"))
            return asked
        no_place = self._no_place(client)
        if no_place is not None and not isinstance(asked, Upgrade):
            return come_back_later()
        return no_place or asked

    def _no_place(self, client: str | None) -> Response | None:
        """Why there is no place for one more client; None if there is."""
        if self._places.closed:
            status, reason = 503, "this server is about to end"
            self._count("draining")
        elif self._places.full:
            status, reason = 503, "there are too many clients"
            self._count("full")
        elif self._places.enough(client):
            status, reason = 429, "there are too many clients of this address"
            self._count("address")
        else:
            return None
        return refuse(status, reason, (b"Retry-After", b"%d" % retry_seconds()))

    def _count(self, reason: Refusal) -> None:
        self._metrics.refused.labels(reason).inc()

    def _limited(self, address: Address | None) -> str | None:
        """What an address counts as in the limits; None where it has none: this machine, and proxies."""
        if address is None or address.is_loopback or is_trusted(address, self._trusted):
            return None
        return site(address)


def _text(group: BaseExceptionGroup[BaseException]) -> str:
    error = group.exceptions[0]
    return _text(error) if isinstance(error, BaseExceptionGroup) else error_text(error.__cause__ or error)
