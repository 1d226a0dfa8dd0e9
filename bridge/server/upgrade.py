"""A client's request, judged before anything is promised: it gets what it asks for, or is told why not.

In this order, so that nobody learns more than they may: the URL (404, 400), the method (405), whether it is a handshake
and a good one (426, 400), the token (401), whether the channels exist (400), whether the token allows them (403).
Origin and Host come before all of it (`bridge.server.guard`), and whether there is a place is asked last.
"""

from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1

from bridge.core.grants import BadToken, Forbidden, Grant
from bridge.core.target import BadTarget, Target, check_channels, parse_target
from bridge.core.topics import Subscription
from bridge.server.http import Header, Request, Response, refuse

SUBPROTOCOL = "bridge.v1"

REMEMBERED = 1024
"""URLs, and subscriptions, that are read once: in a crowd many want the same."""
LONGEST_REMEMBERED = 512

_VERSION: Header = (b"Sec-WebSocket-Version", b"13")
_UPGRADE: tuple[Header, ...] = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))
_CHALLENGE: Header = (b"WWW-Authenticate", b"Bearer")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3

Authenticate = Callable[[Request, Target], Grant]
"""What a request's token allows. Raises BadToken."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """A request that may become a client: what it is to hear, and all that it may ask for later."""

    subscription: Subscription
    grant: Grant
    after: str | None
    """A cursor, unread."""


@dataclass(frozen=True, slots=True)
class Upgrade(Welcome):
    """A WebSocket handshake that succeeds with this answer."""

    answer: bytes


def targets_clients(path: str) -> bool:
    """Whether a path is one at which events are heard."""
    return targets_websockets(path) or targets_streams(path)


def targets_websockets(path: str) -> bool:
    return path == "/ws" or path.startswith("/ws/")


def targets_streams(path: str) -> bool:
    return path == "/sse" or path.startswith("/sse/")


def judge(request: Request, known: frozenset[str], authenticate: Authenticate) -> Upgrade | Welcome | Response:
    """What a request for such a path may have, an `Upgrade` under ``/ws``; or the answer that refuses it."""
    websocket = targets_websockets(request.path)
    try:
        target = _read(request.target)
    except BadTarget as error:
        return refuse(error.status, str(error))
    if request.method != "GET":
        return refuse(405, "only GET is allowed here", (b"Allow", b"GET"))
    refused = _check_handshake(request) if websocket else None
    if refused is not None:
        return refused
    try:
        grant = authenticate(request, target)
        subscription = _subscription(grant, target.channels, target.where, known)
    except BadToken as error:
        return refuse(error.status, str(error), *([_CHALLENGE] if error.status == 401 else []))
    except BadTarget as error:
        return refuse(error.status, str(error))
    except Forbidden as error:
        return refuse(403, str(error))
    if not websocket:
        return Welcome(subscription, grant, target.after)
    return Upgrade(subscription, grant, target.after, _answer(request))


def _read(target: str) -> Target:
    """What a URL says. A crowd has few that hold neither a cursor nor a token."""
    if len(target) > LONGEST_REMEMBERED or "after=" in target or "token=" in target:
        return parse_target(target)
    return _remembered(target)


@lru_cache(maxsize=REMEMBERED)
def _remembered(target: str) -> Target:
    return parse_target(target)


@lru_cache(maxsize=REMEMBERED)
def _subscription(
    grant: Grant, channels: frozenset[str], where: tuple[tuple[str, str], ...], known: frozenset[str]
) -> Subscription:
    """One object for all who want the same. Raises BadTarget and Forbidden."""
    check_channels(channels, known)
    return grant.subscription(channels, where, known)


def _check_handshake(request: Request) -> Response | None:
    if not request.upgrades_to_websocket:
        return refuse(426, "this path speaks WebSocket", *_UPGRADE)
    version = request.header(b"sec-websocket-version")
    if version != "13":
        return refuse(426 if version else 400, "WebSocket version 13 is expected", *_UPGRADE, _VERSION)
    if not _is_key(request.header(b"sec-websocket-key") or ""):
        return refuse(400, "Sec-WebSocket-Key must hold 16 bytes in base64")
    return None


def _is_key(key: str) -> bool:
    try:
        return len(a2b_base64(key, strict_mode=True)) == 16
    except (Error, ValueError):
        return False


def _answer(request: Request) -> bytes:
    """The head of the answer to a handshake. Of subprotocols, one that holds a token is never said back."""
    key = (request.header(b"sec-websocket-key") or "").encode()
    accept = b2a_base64(sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)
    offered = SUBPROTOCOL in request.tokens(b"sec-websocket-protocol")
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + (b"\r\nSec-WebSocket-Protocol: " + SUBPROTOCOL.encode() if offered else b"")
        + b"\r\n\r\n"
    )
