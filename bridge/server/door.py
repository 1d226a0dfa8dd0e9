"""The door: what there is to ask for, who may ask, and whether there is a place. All of it is decided without waiting,
but for a NOTIFY from the page, and for what all processes of a pod say together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bridge.hub.retry import retry_seconds
from bridge.server.auth import Authenticator
from bridge.server.clients import Clients
from bridge.server.endpoints import Ask, Endpoint, answer, answer_for_pod, concerns_pod
from bridge.server.guard import Guard
from bridge.server.http import Header, HttpConnection, Request, Response, refuse
from bridge.server.limits import Lobby, Places
from bridge.server.notify import PATH, Notifier
from bridge.server.proxies import Address, Network, client_address, is_trusted, site
from bridge.server.sse import come_back_later
from bridge.server.tls import Tls
from bridge.server.upgrade import Upgrade, Welcome, judge, targets_clients, targets_streams, targets_websockets
from bridge.settings import Settings
from bridge.telemetry import Metrics
from bridge.telemetry.metrics import Refusal

_REFUSALS: Mapping[int, Refusal] = {401: "auth", 403: "forbidden"}


class Door:
    """The rules. Without `clients`, nobody hears events."""

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
        self.clients = clients
        self._paths = paths
        self._guard = Guard(settings)
        self._authenticator = authenticator
        self._notifier = notifier
        self.lobby = lobby
        self._places = places
        self.tls = tls
        self._metrics = metrics
        self._trusted: Sequence[Network] = settings.trusted_proxies

    def address(self, peer: Address | None, request: Request) -> Address | None:
        """Who asks, where a proxy may ask for others."""
        return client_address(peer, request, self._trusted)

    def limited(self, address: Address | None) -> str | None:
        """What an address counts as in the limits; None where it has none: this machine, and proxies."""
        if address is None or address.is_loopback or is_trusted(address, self._trusted):
            return None
        return site(address)

    def cors(self, request: Request) -> tuple[Header, ...]:
        return self._guard.cors(request)

    def takes_body(self, request: Request) -> bool:
        return self._notifier is not None and request.method == "POST" and request.path == PATH

    async def judge(self, request: Request, address: Address | None, http: HttpConnection) -> Response | Welcome:
        """The answer to a request, or what it is to hear. Under ``/sse`` pages of welcome origins may read answers."""
        if self._notifier is not None and request.path == PATH:
            return self._unwelcome(request) or await self._notifier.answer(request, http.body)
        if self._ask_pod is not None and concerns_pod(request):
            return self._unwelcome(request) or await answer_for_pod(request, self._ask_pod, self._paths)
        asked = self.ask(request, address)
        if isinstance(asked, Response) and targets_streams(request.path):
            return replace(asked, headers=(*asked.headers, *self._guard.cors(request)))
        return asked

    def ask(self, request: Request, address: Address | None) -> Response | Welcome:
        """The same for what is no NOTIFY, which nobody has to wait for."""
        if (unwelcome := self._unwelcome(request)) is not None:
            return unwelcome
        if self.clients is None or self._authenticator is None or not targets_clients(request.path):
            return answer(request, self._paths)
        if targets_streams(request.path) and (preflight := self._guard.preflight(request)) is not None:
            return preflight
        asked = judge(request, self.clients.hub.channels, self._authenticator.grant)
        if isinstance(asked, Response):
            self.count(_REFUSALS.get(asked.status, "bad_request"))
            return asked
        no_place = self._no_place(self.limited(address))
        if no_place is not None and not isinstance(asked, Upgrade):
            return come_back_later()
        return no_place or asked

    def _unwelcome(self, request: Request) -> Response | None:
        websocket = request.upgrades_to_websocket and targets_websockets(request.path)
        reason = self._guard.refusal(request, websocket=websocket)
        if reason is None:
            return None
        self.count("origin")
        return refuse(403, reason)

    def _no_place(self, client: str | None) -> Response | None:
        """Why there is no place for one more client; None if there is."""
        if self._places.closed:
            status, reason = 503, "this server is about to end"
            self.count("draining")
        elif self._places.full:
            status, reason = 503, "there are too many clients"
            self.count("full")
        elif self._places.enough(client):
            status, reason = 429, "there are too many clients of this address"
            self.count("address")
        else:
            return None
        return refuse(status, reason, (b"Retry-After", b"%d" % retry_seconds()))

    def count(self, reason: Refusal) -> None:
        """Somebody was refused for this reason."""
        self._metrics.refused.labels(reason).inc()
