"""Requests are judged in an order in which nobody learns more than they may."""

import pytest

from bridge.core.grants import EVERYTHING, BadToken, Grant
from bridge.core.target import Target
from bridge.core.topics import Subscription
from bridge.server.http import Request, Response
from bridge.server.upgrade import Upgrade, Welcome, judge

KNOWN = frozenset({"a", "b"})
ONLY_A = Grant(("a",), (), 5.0)
HANDSHAKE = {
    b"host": b"x",
    b"connection": b"Upgrade",
    b"upgrade": b"websocket",
    b"sec-websocket-version": b"13",
    b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==",
}


def authenticate(request: Request, target: Target) -> Grant:
    """Three tokens are known."""
    if target.token is None:
        raise BadToken("a token is needed")
    if target.token == "twice":
        raise BadToken("one token is enough", 400)
    return {"a": ONLY_A, "all": EVERYTHING}[target.token]


def judged(target: str, method: str = "GET", **headers: bytes) -> Upgrade | Welcome | Response:
    changed = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return judge(Request(method, target, list((HANDSHAKE | changed).items())), KNOWN, authenticate)


@pytest.mark.parametrize(
    ("target", "method", "headers", "status"),
    [
        ("/ws/a/b", "POST", {}, 404),
        ("/ws?what=1", "POST", {}, 400),
        ("/ws", "POST", {"upgrade": b""}, 405),
        ("/sse", "HEAD", {}, 405),
        ("/ws", "GET", {"upgrade": b""}, 426),
        ("/ws", "GET", {"sec_websocket_version": b"8"}, 426),
        ("/ws", "GET", {"sec_websocket_version": b""}, 400),
        ("/ws", "GET", {"sec_websocket_key": b"short"}, 400),
        ("/ws?channel=nope", "GET", {}, 401),
        ("/sse?channel=nope", "GET", {}, 401),
        ("/ws?token=twice", "GET", {}, 400),
        ("/ws?channel=nope&channel=b&token=a", "GET", {}, 400),
        ("/ws?channel=b&token=a", "GET", {}, 403),
        ("/sse?channel=b&token=a", "GET", {}, 403),
    ],
)
def test_the_first_reason_is_the_answer(target: str, method: str, headers: dict[str, bytes], status: int) -> None:
    answer = judged(target, method, **headers)
    assert isinstance(answer, Response)
    assert answer.status == status
    assert ((b"WWW-Authenticate", b"Bearer") in answer.headers) == (status == 401)
    assert (b"a, b" in answer.body) == ("token=a" in target and status == 400)


def test_a_handshake_as_in_the_standard() -> None:
    asked = judged("/ws?token=a&after=1-2", sec_websocket_protocol=b"bridge.v1, bearer.very-secret")
    assert isinstance(asked, Upgrade)
    assert (asked.subscription, asked.grant, asked.after) == (Subscription(frozenset({"a"})), ONLY_A, "1-2")
    head, *lines, end, last = asked.answer.split(b"\r\n")
    assert (head, end, last) == (b"HTTP/1.1 101 Switching Protocols", b"", b"")
    assert sorted(lines) == [
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        b"Sec-WebSocket-Protocol: bridge.v1",
        b"Upgrade: websocket",
    ]


@pytest.mark.parametrize("offered", [b"bearer.x", b"other, bridge.v2", b""])
def test_what_was_not_offered_is_not_chosen(offered: bytes) -> None:
    asked = judged("/ws?token=all", sec_websocket_protocol=offered)
    assert isinstance(asked, Upgrade)
    assert b"Protocol:" not in asked.answer


def test_a_stream_needs_no_handshake() -> None:
    asked = judged("/sse/b?token=all", upgrade=b"", sec_websocket_key=b"")
    assert asked == Welcome(Subscription(frozenset({"b"})), EVERYTHING, None)
