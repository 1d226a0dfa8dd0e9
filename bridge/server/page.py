"""The page at `/`: three files of the package, put together into one answer that runs nothing but what it came with.

The policy names its script and its style by their hashes and lets it talk to its own origin alone: nothing that a
notification holds is ever run, and a token that somebody types in can be sent nowhere else.
"""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from bridge.server.http import Response

_STYLE, _SCRIPT = "/* page.css */", "/* page.js */"


@cache
def page() -> Response:
    """The answer to ``GET /``."""
    directory = files("bridge.server") / "page"
    html, style, script = (
        (directory / name).read_text("utf-8").strip() for name in ("index.html", "page.css", "page.js")
    )
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_source(script)}",
            f"style-src {_source(style)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )
    return Response(
        200,
        html.replace(_STYLE, style).replace(_SCRIPT, script).encode(),
        b"text/html; charset=utf-8",
        (
            (b"Content-Security-Policy", policy.encode()),
            (b"Referrer-Policy", b"no-referrer"),
            (b"Cross-Origin-Opener-Policy", b"same-origin"),
            (b"Cross-Origin-Resource-Policy", b"same-origin"),
        ),
    )


def _source(text: str) -> str:
    """What a policy calls an inline script or style of this text."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
