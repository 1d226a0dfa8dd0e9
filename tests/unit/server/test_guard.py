"""Origin and Host against every way of serving: which pages are let in, and what they may read."""

from typing import Any

import pytest

from bridge.server.guard import Guard
from bridge.server.http import Header, Request
from bridge.settings import Settings

LOCAL: dict[str, Any] = {}
PUBLIC: dict[str, Any] = {"host": "0.0.0.0", "auth": "none"}
TOKENS: dict[str, Any] = {"host": "0.0.0.0", "jwt_key": "k" * 32}
LISTED: dict[str, Any] = {"allowed_origins": "https://*.example.com,http://dev.example:3000"}


def request(host: str | None, origin: str | None, method: str = "GET", *headers: Header) -> Request:
    named = [
        (name, value.encode("latin-1")) for name, value in ((b"host", host), (b"origin", origin)) if value is not None
    ]
    return Request(method, "/sse", [*named, *headers])


def is_refused(settings: dict[str, Any], host: str | None, origin: str | None, *, websocket: bool) -> bool:
    reason = Guard(Settings(**settings)).refusal(request(host, origin), websocket=websocket)
    assert reason is None or ("not allowed" in reason and "\n" not in reason)
    return reason is not None


@pytest.mark.parametrize("settings", [LOCAL, PUBLIC, TOKENS, LOCAL | LISTED, PUBLIC | LISTED, TOKENS | LISTED])
@pytest.mark.parametrize("websocket", [True, False])
def test_null_and_what_is_no_origin_are_always_refused(settings: dict[str, Any], websocket: bool) -> None:
    for origin in ("null", "", "file://", "http://localhost@evil.example", "http://localhost, http://evil.example"):
        assert is_refused(settings, "localhost", origin, websocket=websocket)
    assert not is_refused(settings, "localhost", None, websocket=websocket)
    assert not is_refused(settings, None, None, websocket=websocket)


def test_null_is_not_even_in_the_list_of_all() -> None:
    everybody = {"allowed_origins": "*"}
    for settings in (LOCAL, PUBLIC, TOKENS):
        assert is_refused(settings | everybody, "localhost", "null", websocket=True)
        assert not is_refused(settings | everybody, "any.example", "https://other.example", websocket=True)
        assert not is_refused(settings | everybody, "any.example", None, websocket=False)


@pytest.mark.parametrize(
    ("settings", "host", "origin", "refused"),
    [
        (LOCAL, "localhost", "http://localhost:3000", False),
        (LOCAL, "localhost", "https://127.9.9.9", False),
        (LOCAL, "127.0.0.1:8000", "http://[::1]:5173", False),
        (LOCAL, "localhost", "http://evil.example", True),
        (LOCAL, "evil.example", "http://evil.example", True),
        (LOCAL, "10.0.0.1:8000", "http://10.0.0.1:8000", True),
        (LOCAL, "localhost", "capacitor://localhost", True),
        (LOCAL, "localhost", "http://localhost.evil.example", True),
        (LOCAL | LISTED, "localhost", "https://a.example.com", False),
        (LOCAL | LISTED, "localhost", "http://a.example.com", True),
        (LOCAL | LISTED, "localhost", "http://dev.example", True),
        (PUBLIC, "bridge.example", "http://bridge.example", True),
        (PUBLIC, "10.0.0.1:8000", "http://10.0.0.1:8000", False),
        (PUBLIC, "[fd00::1]:8000", "http://[fd00::1]:8000", False),
        (PUBLIC, "10.0.0.1:8000", "http://10.0.0.2:8000", True),
        (PUBLIC, "10.0.0.1:8000", "http://10.0.0.1:9000", True),
        (PUBLIC, "10.0.0.1:8000", "http://localhost:3000", False),
        (PUBLIC | LISTED, "10.0.0.1:8000", "http://dev.example:3000", False),
        (TOKENS, "bridge.example", "https://bridge.example", False),
        (TOKENS, "bridge.example", "http://Bridge.Example", False),
        (TOKENS, "bridge.example:443", "https://bridge.example", False),
        (TOKENS, "bridge.example:8000", "http://bridge.example:8000", False),
        (TOKENS, "bridge.example:8000", "http://bridge.example", True),
        (TOKENS, "bridge.example:80", "https://bridge.example", True),
        (TOKENS, "bridge.example", "https://evil.example", True),
        (TOKENS, "bridge.example", "http://localhost:3000", True),
        (TOKENS, None, "https://bridge.example", True),
        (TOKENS | LISTED, "bridge.example", "https://a.example.com", False),
        (TOKENS | LISTED, "bridge.example", "https://example.com", True),
        (TOKENS | LISTED, "bridge.example", "https://a.example.com.evil.example", True),
    ],
)
def test_origins(settings: dict[str, Any], host: str | None, origin: str, refused: bool) -> None:
    assert is_refused(settings, host, origin, websocket=True) == refused


@pytest.mark.parametrize(
    ("settings", "host", "refused"),
    [
        (LOCAL, "localhost:8000", False),
        (LOCAL, "127.0.0.1", False),
        (LOCAL, "[::1]:8000", False),
        (LOCAL, "evil.example", True),
        (LOCAL, "10.0.0.1", True),
        (LOCAL, "0.0.0.0:8000", True),
        (LOCAL, "localhost:8000:1", True),
        (LOCAL, "localhost.evil.example", True),
        (LOCAL, "", True),
        (LOCAL | LISTED, "a.example.com:8000", False),
        (LOCAL | LISTED, "dev.example", False),
        (LOCAL | LISTED, "evil.example", True),
        (PUBLIC, "10.0.0.1:8000", False),
        (PUBLIC, "localhost", False),
        (PUBLIC, "bridge.example", True),
        (PUBLIC | LISTED, "bridge.example.com", False),
        (TOKENS, "any.example", False),
    ],
)
def test_hosts_are_checked_where_there_are_no_tokens_but_not_for_websockets(
    settings: dict[str, Any], host: str, refused: bool
) -> None:
    assert is_refused(settings, host, None, websocket=False) == refused
    assert not is_refused(settings, host, None, websocket=True)


def headers_of(guard: Guard, origin: str | None, host: str = "bridge.example") -> dict[bytes, bytes]:
    return dict(guard.cors(request(host, origin)))


def test_a_welcome_page_may_read_the_stream() -> None:
    guard = Guard(Settings(**TOKENS, **LISTED))
    for origin in ("https://a.example.com", "https://bridge.example", "http://dev.example:3000"):
        assert headers_of(guard, origin) == {b"Access-Control-Allow-Origin": origin.encode(), b"Vary": b"Origin"}
    for other in ("https://evil.example", "null", "https://a.example.com\r\nx: y", None):
        assert headers_of(guard, other) == {b"Vary": b"Origin"}


def test_a_welcome_page_may_send_a_token_and_a_position() -> None:
    guard = Guard(Settings(**TOKENS, **LISTED))
    asking: tuple[Header, ...] = (
        (b"access-control-request-method", b"GET"),
        (b"access-control-request-headers", b"authorization,last-event-id"),
    )
    answer = guard.preflight(request("bridge.example", "https://a.example.com", "OPTIONS", *asking))
    assert answer is not None
    assert answer.status == 200
    headers = dict(answer.headers)
    assert headers[b"Access-Control-Allow-Methods"] == b"GET"
    assert {b"Authorization", b"Last-Event-ID"} <= set(headers[b"Access-Control-Allow-Headers"].split(b", "))
    assert b"Access-Control-Allow-Credentials" not in headers
    assert guard.preflight(request("bridge.example", "https://a.example.com", "GET", *asking)) is None
    assert guard.preflight(request("bridge.example", "https://a.example.com", "OPTIONS")) is None
