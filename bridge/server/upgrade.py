"""The WebSocket handshake, judged before it is made: a request is a subscription, or is told why not."""

import binascii
from base64 import b64decode
from dataclasses import dataclass

from bridge.core.grants import EVERYTHING
from bridge.core.target import BadTarget, parse_target
from bridge.core.topics import Subscription
from bridge.server.http import Request, Response, refuse

SUBPROTOCOL = "bridge.v1"

_VERSION = (b"Sec-WebSocket-Version", b"13")
_UPGRADE = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A handshake that will succeed. `head` is what is shown to the WebSocket library in place of the client's own.

    It holds only what has been checked here, so the library cannot stumble over an odd header.
    """

    subscription: Subscription
    subprotocol: str | None
    head: bytes


def targets_websocket(path: str) -> bool:
    """Whether a path belongs to the WebSocket side."""
    return path == "/ws" or path.startswith("/ws/")


def judge(request: Request, known: frozenset[str]) -> Upgrade | Response:
    """What a request for a WebSocket path asks for, or the answer that refuses it.

    An `Authorization` header is ignored: proxies add them, and there is nothing to authorise yet. A token that the
    client itself puts into the URL or the subprotocols is refused, as it may expect to be restricted by it.
    """
    try:
        target = parse_target(request.target, known)
    except BadTarget as error:
        return refuse(error.status, str(error))
    for name, value in (("after", target.after), ("token", target.token)):
        if value is not None:
            return refuse(400, f"the parameter {name} is not supported by this version")
    subscription = EVERYTHING.subscription(target.channels, target.where, known)
    if request.method != "GET":
        return refuse(405, "only GET is allowed here", (b"Allow", b"GET"))
    if not request.upgrades_to_websocket:
        return refuse(426, "this path speaks WebSocket", *_UPGRADE)
    version = request.header(b"sec-websocket-version")
    if version != "13":
        return refuse(426 if version else 400, "WebSocket version 13 is expected", *_UPGRADE, _VERSION)
    key = request.header(b"sec-websocket-key") or ""
    if not _is_key(key):
        return refuse(400, "Sec-WebSocket-Key must hold 16 bytes in base64")
    offered = request.tokens(b"sec-websocket-protocol")
    if any(protocol.startswith("bearer.") for protocol in offered):
        return refuse(400, "the subprotocol bearer.TOKEN is not supported by this version")
    subprotocol = SUBPROTOCOL if SUBPROTOCOL in offered else None
    return Upgrade(subscription, subprotocol, _head(key, subprotocol))


def _is_key(key: str) -> bool:
    try:
        return len(b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _head(key: str, subprotocol: str | None) -> bytes:
    lines = [
        "GET /ws HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *([f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode()
