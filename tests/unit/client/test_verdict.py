"""What follows when a connection has ended."""

import pytest

from bridge.client.conversation import Broken, Closed, End, Rejected
from bridge.client.verdict import Lost, judge, text_of
from bridge.errors import BridgeError, SettingsError


@pytest.mark.parametrize(
    ("end", "problem", "retry_seconds"),
    [
        (Closed(1000), "closed with 1000 NORMAL_CLOSURE", None),
        (Closed(1001, "retry=4"), "closed with 1001 retry=4", 4.0),
        (Closed(4013, "retry=4"), "closed with 4013 retry=4", 4.0),
        (Closed(1001, "retry=0"), "closed with 1001 retry=0", None),
        (Closed(1001, "retry=100000000"), "closed with 1001 retry=100000000", 60.0),
        (Closed(1001, "retry=-1"), "closed with 1001 retry=-1", None),
        (Closed(1001, "retry=٤"), "closed with 1001 retry=٤", None),
        (Closed(1001, "please retry=4"), "closed with 1001 please retry=4", None),
        (Closed(1006), "closed with 1006 ABNORMAL_CLOSURE", None),
        (Closed(4008, "resume with after"), "closed with 4008 resume with after", None),
        (Closed(1011, "a\x1b[2J\nb"), "closed with 1011 a\ufffd[2J b", None),
        (Broken("no WebSocket answers there: x"), "no WebSocket answers there: x", None),
        (Rejected(503, {"retry-after": "7"}, b""), "HTTP 503: no reason given", 7.0),
        (Rejected(429, {"retry-after": " 120 "}, b"slow down\n"), "HTTP 429: slow down", 60.0),
        (Rejected(503, {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, b""), "HTTP 503: no reason given", None),
        (Rejected(502, {}, b"<html>"), "HTTP 502: <html>", None),
        (Rejected(408, {}, b""), "HTTP 408: no reason given", None),
        (Rejected(425, {}, b""), "HTTP 425: no reason given", None),
        (Rejected(200, {}, b"hello"), "HTTP 200: hello", None),
        (Rejected(500, {}, b"[" * 8000), "HTTP 500: " + "[" * 500, None),
    ],
)
def test_worth_another_attempt(end: End, problem: str, retry_seconds: float | None) -> None:
    lost = judge(end)
    assert isinstance(lost, Lost)
    assert (lost.problem, lost.retry_seconds, lost.without_token) == (problem, retry_seconds, None)


@pytest.mark.parametrize(
    ("end", "kind", "text"),
    [
        (Closed(1008, "too many messages"), BridgeError, "The bridge has closed with 1008 too many messages"),
        (Rejected(403, {}, b"no"), BridgeError, "The bridge refused with HTTP 403: no"),
        (Rejected(426, {}, b"no"), BridgeError, "The bridge refused with HTTP 426: no"),
        (Rejected(400, {}, b'{"error":"x","message":"A\\nB"}'), SettingsError, "The bridge refused with HTTP 400: A B"),
        (Rejected(404, {}, b'{"error":"x"}'), SettingsError, "The bridge refused with HTTP 404: x"),
        (Rejected(301, {}, b""), SettingsError, "The bridge is elsewhere"),
        (Broken("a message of more than 9 bytes", 1009), BridgeError, "larger `message_bytes`"),
    ],
)
def test_final(end: End, kind: type[BridgeError], text: str) -> None:
    error = judge(end)
    assert type(error) is kind
    assert text in str(error)


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (Closed(4001, "the token has expired"), "closed with 4001 the token has expired; give as `token` a function"),
        (Rejected(401, {}, b"a token is needed"), "The bridge refused with HTTP 401: a token is needed"),
    ],
)
def test_worth_another_attempt_with_another_token(end: End, text: str) -> None:
    lost = judge(end)
    assert isinstance(lost, Lost)
    assert type(lost.without_token) is BridgeError
    assert text in str(lost.without_token)


def test_a_token_that_is_said_back_is_not_shown() -> None:
    for end in (
        Rejected(403, {}, b"no such path: /ws?token=hunter2"),
        Rejected(401, {}, b"bad: Bearer hunter2"),
        Closed(1008, "token=hunter2"),
        Closed(1011, "token=hunter2"),
    ):
        verdict = judge(end)
        assert "hunter2" not in str(verdict)
        assert "hunter2" not in str(getattr(verdict, "without_token", ""))


def test_an_error_is_told_with_its_cause_on_one_line() -> None:
    error, cause = OSError("All connection attempts failed"), ConnectionRefusedError(111, "Connection\nrefused")
    error.__cause__ = ExceptionGroup("x", [cause, ValueError("y")])
    assert text_of(error) == "All connection attempts failed: [Errno 111] Connection refused"
    silent = ConnectionResetError()
    silent.__cause__ = cause
    assert text_of(silent) == "[Errno 111] Connection refused"
    assert text_of(EOFError()) == "EOFError"
