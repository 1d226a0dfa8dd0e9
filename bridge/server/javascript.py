"""The client for JavaScript at `/client.js`, its types at `/client.d.ts`, and the same as a part of the page.

It is public: whoever may reach the server reads it without a token, and pages of origins that are welcome here import
it. A browser keeps it and asks each time whether it is still the same, so that it always fits the bridge it comes from.
"""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from bridge.server.http import Header, Request, Response

NAME, TYPES_NAME = "client.js", "client.d.ts"

_EXPORT = re.compile(r"^export (?=(?:class|function) (\w+))", re.MULTILINE)
"""The only form of `export` in the file."""

_PUBLIC: Header = (b"Access-Control-Allow-Origin", b"*")


def client_script(request: Request) -> Response:
    """The answer to ``GET /client.js``."""
    return _answer(request, NAME, b"text/javascript; charset=utf-8")


def client_types(request: Request) -> Response:
    """The answer to ``GET /client.d.ts``."""
    return _answer(request, TYPES_NAME, b"text/plain; charset=utf-8")


def as_constants() -> str:
    """The module as a statement of a script: what it exports becomes constants, what it does not stays hidden."""
    text = _read(NAME)
    names = ", ".join(_EXPORT.findall(text))
    return f"const {{ {names} }} = (() => {{\n{_EXPORT.sub('', text)}\nreturn {{ {names} }};\n}})();"


def _answer(request: Request, name: str, content_type: bytes) -> Response:
    body, tag = _tagged(name)
    headers = (_PUBLIC, (b"ETag", tag.encode()))
    known = [each.removeprefix("W/") for each in request.tokens(b"if-none-match")]  # a proxy that compresses says W/
    if tag in known:
        return Response(304, content_type=content_type, headers=headers, cache=b"no-cache")
    return Response(200, body, content_type, headers, cache=b"no-cache")


@cache
def _tagged(name: str) -> tuple[bytes, str]:
    """The file, and what tells it from its other versions."""
    body = _read(name).encode()
    return body, f'"{b64encode(sha256(body).digest()[:12]).decode()}"'


def _read(name: str) -> str:
    return (files("bridge.server") / "page" / name).read_text("utf-8")
