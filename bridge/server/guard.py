"""Who may talk to a server without authentication: what the Host and Origin headers must say.

A page on any web site can make a browser connect to a local server, and with DNS rebinding even under a name of its
own. A browser sends an honest Origin with every WebSocket, and Host says which name it believes in.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

_HOST = re.compile(r"(?P<name>\[[^\]]+\]|[^:\[\]@/\s]+)(?::[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether a bare host, without a port, is localhost or a loopback address (IPv6 with or without brackets)."""
    if host.lower() == "localhost":
        return True
    try:
        address: IPv4Address | IPv6Address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return address.is_loopback


def refusal(*, host: str | None, origin: str | None, local: bool, websocket: bool) -> str | None:
    """Why a request must be answered with 403, or None where it is welcome.

    Where the server is `local`, bound to a loopback address, Origin must be loopback, and so must Host but for
    WebSockets, whose Origin is enough. On another address (where its owner has switched authentication off), Origin
    must be loopback or name the very host and port that Host names. No Origin, or no Host at all, is no browser.
    """
    if origin is not None and not _loopback_authority(_authority(origin)):
        same = not local and host is not None and _authority(origin).lower() == host.lower()
        if not same:
            return "this origin is not allowed"
    if local and not websocket and host is not None and not _loopback_authority(host):
        return "this host is not allowed: the server is local"
    return None


def _authority(origin: str) -> str:
    """``host:port`` of an origin; empty for ``null`` and for anything that is no web origin."""
    scheme, separator, authority = origin.partition("://")
    return authority if separator and scheme.lower() in ("http", "https") else ""


def _loopback_authority(authority: str) -> bool:
    match = _HOST.fullmatch(authority)
    return match is not None and is_loopback(match["name"])
