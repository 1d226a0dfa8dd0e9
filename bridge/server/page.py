"""The page at `/`: the files of the package beside this one, put together into one answer that loads nothing more.

Its policy names the script and the style by their hashes and lets the page talk to its own origin alone: nothing that a
notification holds is ever run, and a token that somebody types in can be sent nowhere else.
"""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from bridge.origins import parse_host
from bridge.server.http import Header, Request, Response
from bridge.server.javascript import as_constants

SCRIPTS = ("base", "charts", "route", "status", "payload", "events", "listen", "send")
"""In this order, after the client: each uses those before it."""

_STYLE, _SCRIPT = "/* page.css */", "/* page.js */"
_ALWAYS: tuple[Header, ...] = (
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)


def page(request: Request) -> Response:
    """The answer to ``GET /``."""
    html, policy = _assembled()
    allowed = policy.format(connect=_connect(request.header(b"host"))).encode()
    headers = ((b"Content-Security-Policy", allowed), *_ALWAYS)
    return Response(200, html, b"text/html; charset=utf-8", headers)


@cache
def _assembled() -> tuple[bytes, str]:
    """The page, and the policy that goes with it, but for where it may connect to."""
    directory = files("bridge.server") / "page"
    html, style = ((directory / name).read_text("utf-8") for name in ("index.html", "page.css"))
    parts = [(directory / f"{name}.js").read_text("utf-8") for name in SCRIPTS]
    script = "\n".join(['"use strict";', "(() => {", as_constants(), *parts, "})();"])
    policy = [
        "default-src 'none'",
        f"script-src {_source(script)}",
        f"style-src {_source(style)}",
        "connect-src {connect}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return html.replace(_STYLE, style).replace(_SCRIPT, script).encode(), "; ".join(policy)


def _connect(host: str | None) -> str:
    """Where the page may connect to: its origin, and the same host by WebSocket, which some browsers tell apart."""
    named = None if host is None else parse_host(host)
    if named is None or named[0].startswith("["):  # a policy has no way to write an IPv6 address
        return "'self'"
    where = named[0] if named[1] is None else f"{named[0]}:{named[1]}"
    return f"'self' ws://{where} wss://{where}"


def _source(text: str) -> str:
    """What a policy calls an inline script or style of this text."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
