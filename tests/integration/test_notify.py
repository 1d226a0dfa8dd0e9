"""`POST /notify` as its page, and as others, use it: what is sent, and who is refused before anything is."""

import json
from typing import Any

import pytest
import trio

from bridge.errors import BridgeError, PostgresLost
from bridge.server import http, notify
from bridge.server.notify import BURST, MAX_BODY_BYTES, MAX_PAYLOAD_BYTES
from tests.support.server import RunningServer, running_server
from tests.support.tokens import SECRET, token

pytestmark = pytest.mark.usefixtures("quiet_log")


class Sent(list[tuple[str, str]]):
    """What was sent."""

    async def __call__(self, channel: str, payload: str) -> None:
        self.append((channel, payload))


def post(body: str | bytes, *headers: str, content_type: str = "application/json") -> bytes:
    data = body if isinstance(body, bytes) else body.encode()
    lines = ["POST /notify HTTP/1.1", "Host: localhost:8000", f"Content-Type: {content_type}", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data


async def answer(server: RunningServer, request: bytes) -> tuple[int, str]:
    client = await server.connect()
    await client.send(request)
    status, _, body = await client.answer()
    return status, body.decode()


def order(payload: Any, channel: str = "a") -> str:
    return json.dumps({"channel": channel, "payload": payload})


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        ('"plain text"', "plain text"),
        ('"{\\"a\\": 1}"', '{"a": 1}'),
        ('"é\\n\\ud83d\\ude00"', "é\n😀"),
        ('""', ""),
        (
            '{ "a" : [ 1.50, 12345678901234567890, "two  \\" words" ] }',
            '{"a":[1.50,12345678901234567890,"two  \\" words"]}',
        ),
        (" 7 ", "7"),
        ("null", "null"),
        ("true", "true"),
    ],
)
async def test_a_string_is_sent_as_it_is_and_other_values_as_their_text(payload: str, sent: str) -> None:
    async with running_server(send=(done := Sent())) as server:
        status, body = await answer(server, post(f'{{"channel": "a", "payload": {payload}}}'))
        assert (status, json.loads(body)) == (200, {"channel": "a", "payload_bytes": len(sent.encode())})
        assert done == [("a", sent)]


async def test_several_requests_go_through_one_connection() -> None:
    async with running_server(send=(done := Sent())) as server:
        client = await server.connect()
        await client.send(
            post(order(1)) + post("nonsense") + post(order(2)) + b"GET /health HTTP/1.1\r\nHost: ::1\r\n\r\n"
        )
        assert [(await client.answer())[0] for _ in range(3)] == [200, 400, 200]
        assert (await client.answer())[0] == 403  # of that Host, and it is a request of its own
        assert done == [("a", "1"), ("a", "2")]


async def test_a_body_comes_in_pieces_also_to_who_waits_for_leave_to_send_it() -> None:
    async with running_server(send=(done := Sent())) as server:
        head, _, body = post(order("x" * 5000), "Expect: 100-continue").partition(b"\r\n\r\n")
        client = await server.connect()
        await client.send(head + b"\r\n\r\n")
        assert (await client.answer())[0] == 100
        for start in range(0, len(body), 1000):
            await client.send(body[start : start + 1000])
        assert (await client.answer())[0] == 200
        assert done == [("a", "x" * 5000)]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ("", 400, "cannot be read"),
        ("[]", 400, "Expected `object`"),
        ('{"channel":"a"}', 400, "payload"),
        ('{"payload":1}', 400, "channel"),
        ('{"channel":1,"payload":1}', 400, "channel"),
        ('{"channel":"a","payload":1,"more":1}', 400, "more"),
        ('{"channel":"a","payload":"\\ud800"}', 400, "cannot be read"),
        ('{"channel":"a","payload":"\\u0000"}', 400, "NUL"),
        ('{"channel":"a","payload":{"\\u0000":1}}', 200, ""),
        (b'{"channel":"a","payload":"\xff"}', 400, "cannot be read"),
        ('{"channel":"a","payload":' + "[" * 20_000 + "]" * 20_000 + "}", 400, "deep"),
        (order("x", channel="nope"), 400, "there are a, b, match_change"),
        (order("x" * MAX_PAYLOAD_BYTES), 200, ""),
        (order("x" * (MAX_PAYLOAD_BYTES + 1)), 413, "7,999"),
        ("x" * (MAX_BODY_BYTES + 1), 413, "65,536"),
    ],
)
async def test_what_cannot_be_sent_is_told_why(body: str | bytes, status: int, named: str) -> None:
    async with running_server(send=(done := Sent())) as server:
        found = await answer(server, post(body))
        assert found[0] == status, found
        assert named in found[1]
        assert len(done) == (status == 200)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(order(1), "Origin: http://localhost:8000"), 200),
        (post(order(1), content_type="Application/JSON; charset=UTF-8"), 200),
        (post(order(1), "Origin: https://evil.example"), 403),
        (post(order(1), "Origin: http://localhost:8001"), 403),  # may listen, but is another page
        (post(order(1), "Origin: null"), 403),
        (post(order(1)).replace(b"localhost:8000", b"evil.example"), 403),  # a name that somebody else made point here
        (post(order(1), content_type="text/plain"), 415),
        (post("channel=a&payload=1", content_type="application/x-www-form-urlencoded"), 415),
        (post(order(1), content_type="application/json, text/plain"), 415),
        (post(order(1)).replace(b"POST", b"PUT").replace(b"Content-Length", b"X"), 405),
        (b"GET /notify HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"OPTIONS /notify HTTP/1.1\r\nHost: localhost\r\nAccess-Control-Request-Method: POST\r\n\r\n", 405),
    ],
)
async def test_only_a_page_of_this_origin_sends(request_: bytes, status: int) -> None:
    async with running_server(send=(done := Sent())) as server:
        assert (await answer(server, request_))[0] == status
        assert len(done) == (status == 200)


async def test_a_body_of_unknown_length_is_refused_and_a_body_that_nobody_reads_ends_the_connection() -> None:
    async with running_server(send=(done := Sent())) as server:
        hidden = b"POST /notify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for request, status in [
            (hidden + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
            (hidden + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 411),
            (hidden + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
            (hidden + b"Content-Length: -5\r\n\r\nhello", 400),
            (hidden + b"Origin: https://evil.example\r\nContent-Length: 99\r\n\r\n" + post(order(1)), 403),
            (hidden.replace(b"/notify", b"/status") + b"Content-Length: 99\r\n\r\n" + post(order(1)), 413),
        ]:
            client = await server.connect()
            await client.send(request)
            found, headers, _ = await client.answer()
            assert (found, headers["connection"]) == (status, "close"), request
            assert await client.rest() == b""
        assert done == []


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.1)
    async with running_server(send=(done := Sent())) as server:
        client = await server.connect()
        await client.send(post(order(1))[:-1])
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (408, "close")
        monkeypatch.setattr(http, "BODY_SECONDS", 60)
        client = await server.connect()
        await client.send(post(order(1))[:-1])
        await client.stream.send_eof()
        assert await client.rest() == b""
        assert done == []


async def test_without_embedded_servers_there_is_nothing_to_send_to() -> None:
    async with running_server() as server:
        status, text = await answer(server, post(order(1)))
        assert (status, "embedded" in text) == (404, True)
    async with running_server(with_hub=False, send=Sent()) as server:
        assert (await answer(server, post(order(1))))[0] == 413
        assert (await server.ask("GET /notify HTTP/1.1\nHost: localhost"))[0] == 404


async def test_with_authentication_a_token_is_needed_that_allows_the_channel() -> None:
    async with running_server(send=(done := Sent()), jwt_key=SECRET) as server:
        status, text = await answer(server, post(order(1)))
        assert (status, "a token is needed" in text) == (401, True)
        bearer = f"Authorization: Bearer {token({'channels': ['b']})}"
        assert (await answer(server, post(order(1), bearer)))[0] == 403
        assert (await answer(server, post(order(1, channel="b"), bearer)))[0] == 200
        assert done == [("b", "1")]


@pytest.mark.parametrize(
    ("error", "status"), [(PostgresLost("lost it"), 503), (BridgeError("an encoding without that character"), 400)]
)
async def test_what_postgres_says_is_passed_on(error: BridgeError, status: int) -> None:
    async def send(channel: str, payload: str) -> None:
        raise error

    async with running_server(send=send) as server:
        found = await answer(server, post(order(1)))
        assert found[0] == status
        assert str(error) in found[1]


async def test_one_is_sent_at_a_time_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "SEND_SECONDS", 0.2)
    sending = 0

    async def send(channel: str, payload: str) -> None:
        nonlocal sending
        sending += 1
        assert sending == 1
        try:
            await trio.sleep_forever()
        finally:
            sending -= 1

    found = []
    async with running_server(send=send) as server, trio.open_nursery() as nursery:

        async def ask() -> None:
            found.append((await answer(server, post(order(1))))[0])

        for _ in range(3):
            nursery.start_soon(ask)
    assert found == [504, 504, 504]


async def test_the_rate_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PER_SECOND", 0.001)  # not even a slow machine gets more than the burst
    async with running_server(send=(done := Sent())) as server:
        client = await server.connect()
        found = []
        for _ in range(int(BURST) + 1):
            await client.send(post(order(1)))
            found.append((await client.answer())[0])
        assert found == [200] * int(BURST) + [429]
        assert len(done) == BURST
