"""Web origins, ``https://app.example.com:8443``: read strictly, and compared with patterns that an operator wrote."""

import re
from dataclasses import dataclass
from typing import Self

from bridge.wildcards import fits

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
_ORIGIN = re.compile(_SCHEME + r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_PATTERN = re.compile(_SCHEME + r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._*-]+)(?::(?P<port>[0-9]{1,5}|\*))?")
_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Origin:
    """A page's origin, in lower case; `port` is the scheme's own where none is written, and None if it has none."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The origin of a header; None for ``null``, and for what no browser sends."""
        match = _ORIGIN.fullmatch(text.lower())
        if match is None:
            return None
        return cls(match["scheme"], match["host"], _port(match["scheme"], match["port"]))

    def is_of(self, host: str, port: int | None) -> bool:
        """Whether a page that names this host, and this port or none, in its requests has this very origin."""
        return self.host == host and self.port == (_DEFAULT_PORTS.get(self.scheme) if port is None else port)


@dataclass(frozen=True, slots=True)
class OriginPattern:
    """What an operator lists: an origin, with ``*`` for any text in the host and for any port; or ``*`` for every one.

    A port that is not written is the scheme's own.
    """

    scheme: str | None
    """None is any of http and https."""
    host: str
    port: int | str | None
    """``*`` is any port."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what an operator wrote. Raises ValueError, with a text for them."""
        if text == "*":
            return cls(None, "*", "*")
        match = _PATTERN.fullmatch(text.lower().removesuffix("/"))
        if match is None:
            raise ValueError("an origin is written https://host, https://*.host or http://host:port, without a path")
        port = "*" if match["port"] == "*" else _port(match["scheme"], match["port"])
        if isinstance(port, int) and not 1 <= port <= 65_535:
            raise ValueError("a port is a whole number from 1 to 65535")
        return cls(match["scheme"], match["host"], port)

    def fits(self, origin: Origin) -> bool:
        """Whether an origin is meant."""
        schemes = _DEFAULT_PORTS if self.scheme is None else (self.scheme,)
        return origin.scheme in schemes and self.port in ("*", origin.port) and self.fits_host(origin.host)

    def fits_host(self, host: str) -> bool:
        """Whether a host, without its port and in lower case, is the one of an origin that is meant."""
        return fits(self.host, host)


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Host in lower case (IPv6 in brackets) and port of a Host header; None for what no client sends."""
    match = _HOST.fullmatch(text.lower())
    return match and (match["host"], int(match["port"]) if match["port"] else None)


def _port(scheme: str, port: str | None) -> int | None:
    return int(port) if port else _DEFAULT_PORTS.get(scheme)
