"""Which web pages may talk to this server, and under which names: what the Origin and Host headers must say.

A page on any web site can make a browser connect to a server in reach, and with DNS rebinding even under a name of the
page's own. A browser sends an honest Origin with every WebSocket and every request to elsewhere, and Host says which
name it believes in. What is no browser sends no Origin, and is let through.
"""

from functools import lru_cache
from ipaddress import ip_address

from bridge.origins import Origin, OriginPattern, parse_host
from bridge.server.http import Header, Request, Response
from bridge.settings import Settings

PREFLIGHT_SECONDS = 600
"""How long a browser may remember that it may ask."""

REMEMBERED = 256
"""Pairs of Origin and Host that are judged once: a crowd has few."""

_VARY: Header = (b"Vary", b"Origin")
_PREFLIGHT: tuple[Header, ...] = (
    (b"Access-Control-Allow-Methods", b"GET"),
    (b"Access-Control-Allow-Headers", b"Authorization, Cache-Control, Last-Event-ID"),
    (b"Access-Control-Max-Age", b"%d" % PREFLIGHT_SECONDS),
)


class Guard:
    """The rules that follow from the settings.

    With authentication, an Origin is welcome that names the host and port that Host names, or is listed in
    `BRIDGE_ALLOWED_ORIGINS`. The scheme is not compared: a proxy may have ended TLS.

    Without authentication, whatever reaches the server would get everything, so a name that anybody could have made
    point here is worth nothing: Origin must be loopback or listed, and so must Host, but for WebSockets, whose Origin
    is enough. On an address that is not loopback, addresses are as good as listed, as they are no names: probes and
    people use them. ``null`` is never welcome: every sandboxed page and every file has that origin.

    `authenticates` says whether there is authentication, where that is not the settings' business.
    """

    def __init__(self, settings: Settings, *, authenticates: bool | None = None) -> None:
        self._listed = [OriginPattern.parse(text) for text in settings.allowed_origins]
        self._authenticates = settings.authenticates if authenticates is None else authenticates
        self._local = settings.loopback
        self._judged = lru_cache(maxsize=REMEMBERED)(self._judge)

    def refusal(self, request: Request, *, websocket: bool) -> str | None:
        """Why a request must be answered with 403, in one line; None where it is welcome.

        `websocket` is true for a handshake at a path for it. An HTTP/1.0 request without Host is no browser's.
        """
        return self._judged(request.header(b"origin"), request.header(b"host"), websocket)

    def _judge(self, origin: str | None, host: str | None, websocket: bool) -> str | None:
        if origin is not None and not self._is_welcome(origin, host):
            return "this origin is not allowed; BRIDGE_ALLOWED_ORIGINS lists those that are"
        if not self._authenticates and not websocket and host is not None and not self._is_trusted_host(host):
            return "this host is not allowed without authentication; BRIDGE_ALLOWED_ORIGINS lists those that are"
        return None

    def cors(self, request: Request) -> tuple[Header, ...]:
        """What goes with every answer at ``/sse``, so that a page of a welcome origin may read it.

        Credentials are not allowed: a browser's cookies mean nothing here, tokens are given by the page.
        """
        origin = request.header(b"origin")
        if origin is None or not self._is_welcome(origin, request.header(b"host")):
            return (_VARY,)
        return (b"Access-Control-Allow-Origin", origin.encode("latin-1")), _VARY

    def preflight(self, request: Request) -> Response | None:
        """The answer to a browser that asks whether it may ask, for a path of ``/sse`` and without any token.

        `cors` goes with it, as with every answer there: a browser takes no header of it twice. None where this is no
        such request. `refusal` comes first.
        """
        if request.method != "OPTIONS" or request.header(b"access-control-request-method") is None:
            return None
        return Response(200, headers=_PREFLIGHT)

    def _is_welcome(self, text: str, host: str | None) -> bool:
        origin = Origin.parse(text)
        if origin is None:
            return False
        if any(pattern.fits(origin) for pattern in self._listed):
            return True
        named = None if host is None else parse_host(host)
        same = named is not None and origin.is_of(*named)
        if self._authenticates:
            return same
        web = origin.scheme in ("http", "https")
        return web and (is_loopback(origin.host) or (same and self._is_trusted_host(origin.host)))

    def _is_trusted_host(self, host: str) -> bool:
        """Whether nobody else can have made this name point here."""
        named = parse_host(host)
        if named is None:
            return False
        name, _ = named
        if is_loopback(name) or any(pattern.fits_host(name) for pattern in self._listed):
            return True
        return not self._local and _is_address(name)


def is_loopback(host: str) -> bool:
    """Whether a bare host, without a port, is localhost or a loopback address (IPv6 with or without brackets)."""
    return host.lower() == "localhost" or (_is_address(host) and ip_address(_bare(host)).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ip_address(_bare(host))
    except ValueError:
        return False
    return True


def _bare(host: str) -> str:
    return host.removeprefix("[").removesuffix("]")
