"""Who asks: the token of a request, from wherever it was given, checked and turned into what it grants.

PyJWT checks signatures and nothing else; which key and algorithm may be used is decided here, and what the claims mean
in `bridge.core.grants`. A token is shown to nobody: no text here holds a part of one, and no library's is passed on.
"""

import time
from collections.abc import Callable

import msgspec
from jwt import PyJWS
from jwt.exceptions import InvalidSignatureError, PyJWTError
from jwt.utils import base64url_decode

from bridge.core.grants import EVERYTHING, BadToken, Grant, read_grant
from bridge.core.target import Target
from bridge.server.http import Request
from bridge.server.key_source import key_source
from bridge.server.keys import ALGORITHMS, Key
from bridge.settings import Settings

MAX_TOKEN_BYTES = 8192
"""Half of what the head of a request may have."""
BEARER_PROTOCOL = "bearer."
"""How the subprotocol begins that carries a token; pages cannot set headers of a WebSocket."""


class _Header(msgspec.Struct):
    """The part of a token's header that means something here."""

    alg: str
    kid: str | None = None
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_header = msgspec.json.Decoder(_Header)
_jws = PyJWS(algorithms=ALGORITHMS)


class Authenticator:
    """Turns requests into grants. Raises SettingsError where a key file cannot be used.

    `now` gives seconds since 1970, `clock` seconds that never go back.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = key_source(settings, clock) if settings.authenticates else None
        self._audience = settings.jwt_audience
        self._issuer = settings.jwt_issuer
        self._now = now

    def grant(self, request: Request, target: Target) -> Grant:
        """What the request's token grants. Raises BadToken.

        Without authentication everything is granted. An `Authorization` header is then ignored, since proxies add
        them; a token that the client itself put into the URL or the subprotocols is refused, as the client expects
        to be restricted by it.
        """
        own = _own_tokens(request, target)
        if self._keys is None:
            if own:
                raise BadToken("there is no authentication here, and a token restricts nothing: leave it out", 400)
            return EVERYTHING
        given = own | _header_tokens(request)
        if not given:
            raise BadToken("a token is needed: Authorization: Bearer, the subprotocol bearer.TOKEN, or ?token=")
        if len(given) > 1:
            raise BadToken("different tokens are given; give one", 400)
        payload = _verified(given.pop(), self._keys.keys())
        return read_grant(payload, now=self._now(), audience=self._audience, issuer=self._issuer)

    def reload(self) -> None:
        """Read a key file again, changed or not; where it cannot be used, an error is logged and nothing changes."""
        if self._keys is not None:
            self._keys.reload()


def _own_tokens(request: Request, target: Target) -> set[str]:
    """The tokens that only the client itself can have given."""
    found = set() if target.token is None else {target.token}
    if target.protocol == "ws":
        offered = request.tokens(b"sec-websocket-protocol")
        found |= {name.removeprefix(BEARER_PROTOCOL) for name in offered if name.startswith(BEARER_PROTOCOL)}
    return found


def _header_tokens(request: Request) -> set[str]:
    """The bearer token of the `Authorization` header; other schemes are none of our business."""
    scheme, _, token = (request.header(b"authorization") or "").strip().partition(" ")
    return {token.strip()} if scheme.lower() == "bearer" else set()


def _verified(token: str, keys: tuple[Key, ...]) -> bytes:
    """The payload of a token that one of the keys has signed. Raises BadToken."""
    if len(token) > MAX_TOKEN_BYTES:
        raise BadToken(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
    segments = token.split(".")
    if len(segments) != 3:
        raise BadToken("the token is no signed JWT")
    try:
        header = _header.decode(base64url_decode(segments[0]))
    except (ValueError, RecursionError):
        raise BadToken("the token's header cannot be read") from None
    if header.crit is not msgspec.UNSET:
        raise BadToken("the token demands an extension that is not known here (crit)")
    fitting = [key for key in keys if key.algorithm == header.alg]
    if not fitting:
        accepted = ", ".join(sorted({key.algorithm for key in keys}))
        raise BadToken(f"the token's algorithm is not accepted here; it is to be {accepted}")
    named = [key for key in fitting if header.kid is None or key.kid is None or key.kid == header.kid]
    if not named:
        raise BadToken("the token is signed with a key that is not known here (kid)")
    for key in named:
        try:
            return bytes(_jws.decode(token, key.value, algorithms=[key.algorithm]))
        except InvalidSignatureError:
            continue
        except (PyJWTError, ValueError):
            raise BadToken("the token cannot be read") from None
    raise BadToken("the token's signature does not fit")
