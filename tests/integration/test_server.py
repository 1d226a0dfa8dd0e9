"""The server as its clients see it: other people's WebSocket clients, and raw bytes where those are too polite."""

import json
import logging
import resource
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio_websocket import open_websocket_url
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from bridge.core.position import Position
from bridge.errors import BridgeError
from bridge.server import serve
from bridge.server.websocket import MAX_BAD_MESSAGES, MAX_MESSAGE_BYTES
from bridge.settings import Settings
from tests.support.frames import Message
from tests.support.server import RawClient, client_frame, happening, running_server, upgrade

pytestmark = pytest.mark.usefixtures("quiet_log")


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No client may leave more than an INFO line, and never a stack trace."""
    yield
    assert [record for record in caplog.records if record.levelno > logging.INFO or record.exc_info] == []


def number(message: Message) -> int:
    assert isinstance(message, dict), message
    return int(message["payload"]["n"])


async def kinds(client: RawClient, count: int) -> list[Any]:
    found = [await client.message() for _ in range(count)]
    return [m["type"] if isinstance(m, dict) else m for m in found]


# --- HTTP ---


async def test_the_endpoints() -> None:
    async with running_server() as server:
        status, headers, body = await server.ask("GET /health HTTP/1.1\nHost: localhost")
        assert (status, json.loads(body)) == (200, {"status": "ok", "mode": "redis"})
        assert headers["content-type"] == "application/json"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert (await server.ask("GET /ready HTTP/1.1\nHost: 127.0.0.1:1"))[0] == 200
        assert (await server.ask("GET /status?x=1 HTTP/1.1\nHost: [::1]:8000"))[0] == 200
        client = await server.websocket()
        await client.message()
        status, headers, body = await server.ask("GET /metrics HTTP/1.1\nHost: LOCALHOST")
        assert status == 200
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b"\nnotify_bridge_clients 1.0\n" in body
        await client.close()


async def test_ready_follows_health_and_without_a_hub_there_are_no_websockets() -> None:
    async with running_server(with_hub=False) as server:
        assert (await server.ask("GET /ready HTTP/1.1\nHost: localhost"))[0] == 200
        server.health.is_ready = False
        assert (await server.ask("GET /ready HTTP/1.1\nHost: localhost"))[0] == 503
        assert (await server.ask("GET /ws HTTP/1.1\nHost: localhost"))[0] == 404


async def test_pipelined_requests_are_answered_in_order_on_one_connection() -> None:
    async with running_server() as server:
        client = await server.connect()
        lines = ["GET /health", "HEAD /status", "GET /nothing", "POST /health", "GET /ws", "DELETE /ws", "GET /ready"]
        await client.send(b"".join(f"{line} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for line in lines))
        found = [await client.answer(head_only=line.startswith("HEAD")) for line in lines]
        assert [status for status, _, _ in found] == [200, 200, 404, 405, 426, 405, 200]
        assert found[3][1]["allow"] == "GET, HEAD"
        assert (found[4][1]["upgrade"], found[5][1]["allow"]) == ("websocket", "GET")
        refused = upgrade("/ws?channel=nope") + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        await client.send(refused)
        assert (await client.answer())[0] == 400
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),  # the hello of TLS
        (b"\x00\xff garbage\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000, 431),
        (b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"POST /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 413),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n", 413),
    ],
)
async def test_what_is_not_for_us_gets_one_answer_and_the_end(sent: bytes, status: int) -> None:
    async with running_server() as server:
        client = await server.connect()
        await client.send(sent)
        found, headers, body = await client.answer()
        assert (found, headers["connection"]) == (status, "close")
        assert body.count(b"\n") == 1
        assert await client.rest() == b""


async def test_connections_that_end_in_ugly_ways() -> None:
    async with running_server() as server:
        for sent in (b"", b"G", b"GET /ws HTTP/1.1\r\nHo", upgrade("/ws"), upgrade("/ws") + b"\x81", b"\x16\x03"):
            for reset in (False, True):
                client = await server.connect()
                await client.send(sent)
                if reset:
                    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    await client.stream.send_eof()
                    await client.rest()
                await client.close()
        assert (await server.ask("GET /health HTTP/1.1\nHost: localhost"))[0] == 200
        await server.wait_for_clients(0)


async def test_slow_heads_and_idle_connections_end(autojump_clock: trio.testing.MockClock) -> None:
    async with running_server() as server:
        half = await server.connect()
        half.wait_seconds = 100
        await half.send(b"GET /health HT")
        assert (await half.answer())[0] == 408
        silent = await server.connect()
        silent.wait_seconds = 100
        assert await silent.rest() == b""
        idle = await server.connect()
        idle.wait_seconds = 100
        await idle.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await idle.answer())[0] == 200
        assert await idle.rest() == b""


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        ("localhost", (), 101),
        ("any.example", (), 101),
        ("localhost", ("Origin: http://localhost:3000",), 101),
        ("localhost", ("Origin: https://127.9.9.9",), 101),
        ("localhost", ("Origin: http://[::1]:5173",), 101),
        ("localhost", ("Origin: http://example.com",), 403),
        ("example.com", ("Origin: http://example.com",), 403),
        ("localhost", ("Origin: null",), 403),
        ("localhost", ("Origin: http://localhost.example.com",), 403),
        ("localhost", ("Origin: http://localhost@example.com",), 403),
        ("localhost", ("Origin: http://localhost", "Origin: http://example.com"), 403),
        ("localhost", ("Origin: file://localhost",), 403),
    ],
)
async def test_origins_of_websockets(host: str, headers: tuple[str, ...], status: int) -> None:
    async with running_server() as server:
        client = await server.connect()
        await client.send(upgrade("/ws", *headers, host=host))
        assert (await client.answer())[0] == status
        await client.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Host: example.com", 403),
        ("Host: localhost:8000:1", 403),
        ("Host: 10.0.0.1", 403),
        ("Host: 127.0.0.1\nOrigin: http://example.com", 403),
        ("Host: 127.0.0.1\nOrigin: http://localhost:3000", 200),
    ],
)
async def test_hosts_and_origins_of_http(headers: str, status: int) -> None:
    async with running_server() as server:
        assert (await server.ask(f"GET /status HTTP/1.1\n{headers}"))[0] == status


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("bridge.example:8000", "http://bridge.example:8000", 101),
        ("bridge.example", "https://Bridge.example", 101),
        ("bridge.example:8000", "http://bridge.example", 403),
        ("bridge.example", "http://other.example", 403),
        ("bridge.example", "http://localhost:3000", 101),
    ],
)
async def test_a_public_address_takes_its_own_origin(host: str, origin: str, status: int) -> None:
    async with running_server(host="0.0.0.0", auth="none") as server:
        client = await server.connect()
        await client.send(upgrade("/ws", f"Origin: {origin}", host=host))
        assert (await client.answer())[0] == status
        await client.close()
        assert (await server.ask("GET /health HTTP/1.1\nHost: bridge.example"))[0] == 200


async def test_a_taken_port_is_one_clear_line() -> None:
    async with running_server() as server:
        with pytest.raises(BridgeError, match=f"port {server.port}: Address already in use; check BRIDGE_PORT$"):
            await serve(Settings(port=server.port, channels=("a",)), None, server.health, server.metrics)


# --- the handshake ---


@pytest.mark.parametrize(
    ("head", "status", "text"),
    [
        ("GET /wsx", 404, "nothing"),
        ("GET /ws/a/b", 404, "nothing"),
        ("GET /ws?channel=nope", 400, "unknown channel 'nope'"),
        ("GET /ws?chanel=a", 400, "unknown parameter"),
        ("GET /ws?after=1-1", 400, "after is not supported"),
        ("GET /ws?token=x", 400, "token is not supported"),
        ("GET /ws", 426, "WebSocket"),
        ("GET /ws/a", 426, "WebSocket"),
        ("POST /ws", 405, "GET"),
    ],
)
async def test_what_is_refused_before_the_handshake(head: str, status: int, text: str) -> None:
    async with running_server() as server:
        found, _, body = await server.ask(f"{head} HTTP/1.1\nHost: localhost")
        assert found == status
        assert text in body.decode()
        assert body.count(b"\n") == 1


@pytest.mark.parametrize(
    ("taken", "put", "status"),
    [
        ("Sec-WebSocket-Version: 13", "X: y", 400),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", 426),
        ("Sec-WebSocket-Key: ", "X-Key: ", 400),
        ("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: x", 400),
        ("Connection: Upgrade", "Connection: keep-alive", 426),
        ("Upgrade: websocket", "Upgrade: h2c", 426),
        ("Connection: Upgrade", "Connection: keep-alive, UPGRADE", 101),
        ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: upgrade", 101),
        ("Upgrade: websocket", "Upgrade: WebSocket", 101),
        ("Host: localhost", "Host: \xe9", 101),
        ("Host: localhost", "Host: localhost\r\nAuthorization: Basic eA==", 101),
        ("Host: localhost", "Host: localhost\r\nSec-WebSocket-Protocol: bridge.v1, bearer.x", 400),
        ("Host: localhost", "Host: localhost\r\nSec-WebSocket-Protocol: other", 101),
    ],
)
async def test_handshakes(taken: str, put: str, status: int) -> None:
    async with running_server() as server:
        client = await server.connect()
        await client.send(upgrade("/ws").replace(taken.encode(), put.encode("latin-1")))
        found, headers, _ = await client.answer()
        assert found == status
        if found == 426:
            assert headers["upgrade"] == "websocket"
        await client.close()


async def test_the_subprotocol_is_accepted_where_it_is_offered() -> None:
    async with (
        running_server() as server,
        open_websocket_url(server.url + "/ws", subprotocols=["other", "bridge.v1"]) as client,
    ):
        assert client.subprotocol == "bridge.v1"


async def test_what_follows_the_head_in_the_same_packet_is_read() -> None:
    async with running_server() as server:
        client = await server.connect()
        await client.send(upgrade("/ws") + client_frame(b'{"type":"ping"}'))
        assert (await client.answer())[0] == 101
        assert await kinds(client, 2) == ["subscribed", "pong"]
        await client.close()


async def test_full_is_503_and_free_again_when_somebody_leaves() -> None:
    async with running_server(max_clients=2) as server:
        one, two = await server.websocket(), await server.websocket()
        refused = await server.connect()
        await refused.send(upgrade("/ws"))
        status, headers, _ = await refused.answer()
        assert (status, headers["retry-after"]) == (503, "5")
        await one.close()
        await server.wait_for_clients(1)
        with trio.fail_after(5):
            while True:
                third = await server.connect()
                await third.send(upgrade("/ws"))
                if (await third.answer())[0] == 101:
                    break
                await third.close()
        for client in (two, third):
            await client.close()


# --- events ---


async def test_a_client_of_the_websockets_library() -> None:
    async with running_server() as server:

        def follow() -> list[Any]:
            with connect(server.url + "/ws/match/7/stats", subprotocols=["bridge.v1"], open_timeout=5) as client:  # type: ignore[list-item]
                subscribed = json.loads(client.recv(timeout=5))
                trio.from_thread.run_sync(
                    server.hub.deliver, [happening(n, "match_change", match_id=n) for n in range(9)]
                )
                event = json.loads(client.recv(timeout=5))
                client.send('{"type":"ping"}')
                pong = json.loads(client.recv(timeout=5))
                assert client.ping().wait(timeout=5)
                return [subscribed, event, pong]

        assert await trio.to_thread.run_sync(follow) == [
            {
                "type": "subscribed",
                "channels": ["a", "b", "match_change"],
                "where": {"match_id": "7"},
                "position": None,
            },
            {"type": "notification", "id": "1-7", "channel": "match_change", "payload": {"n": 7, "match_id": 7}},
            {"type": "pong", "cursor": "1-8"},
        ]
        await server.wait_for_clients(0)


async def test_a_hundred_thousand_events_arrive_complete_and_in_order() -> None:
    count = 100_000
    async with running_server() as server, open_websocket_url(server.url + "/ws/a") as client:
        await client.get_message()

        async def feed() -> None:
            for start in range(0, count, 500):
                server.hub.deliver([happening(n) for n in range(start, start + 500)])
                await trio.lowlevel.checkpoint()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed)
                for n in range(count):
                    message = await client.get_message()
                    assert f'"id":"1-{n}"' in str(message)


async def test_two_hundred_clients_with_a_stalled_one_among_them() -> None:
    async with running_server(client_buffer_bytes=100_000) as server:
        stalled = await server.websocket()
        clients = [await server.websocket(f"/ws?channel=a&where.odd={n % 2}") for n in range(200)]
        await server.wait_for_clients(201)
        count, size = 200, 60_000
        for start in range(0, count, 2):
            server.hub.deliver([happening(n, odd=n % 2) for n in (start, start + 1)])
            server.hub.deliver([happening(n, "b", pad=f'"{"x" * size}"') for n in (start, start + 1)])
            await trio.lowlevel.checkpoint()
        await server.wait_for_clients(200)
        for index, client in enumerate(clients):
            assert await kinds(client, 1) == ["subscribed"]
            assert [number(await client.message()) for _ in range(count // 2)] == list(range(index % 2, count, 2))
            await client.close()
        seen = []
        while isinstance(message := await stalled.message(), dict):
            seen.append(message)
        assert message == ("close", (4008, "resume with after"))
        numbers = [(m["channel"], number(m)) for m in seen[1:]]
        assert 0 < len(numbers) < 2 * count
        assert numbers == [(c, n) for s in range(0, count, 2) for c in "ab" for n in (s, s + 1)][: len(numbers)]
        await stalled.close()


async def test_pings_and_closes_take_their_place_behind_held_events() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await server.wait_for_clients(1)
        count = 200
        server.hub.deliver([happening(n, pad=f'"{"x" * 60_000}"') for n in range(count)])
        assert server.hub.buffers.total_bytes > 0
        await client.send_frame(b"here", opcode=9)
        await client.send_frame(b'{"type":"ping"}')
        await client.send_frame(b"\x03\xe8", opcode=8)
        assert await kinds(client, 1) == ["subscribed"]
        assert [number(await client.message()) for _ in range(count)] == list(range(count))
        assert await kinds(client, 4) == [("pong", b"here"), "pong", ("close", (1000, "")), ("end", None)]
        await client.close()
        await server.wait_for_clients(0)


async def test_subscribed_waits_for_a_live_source() -> None:
    async with running_server(live=False) as server:
        client = await server.websocket()
        await client.send_frame(b'{"type":"ping"}')
        assert await client.message() == {"type": "pong", "cursor": None}
        server.hub.set_live(Position(3, 9))
        subscribed = await client.message()
        assert isinstance(subscribed, dict)
        assert (subscribed["type"], subscribed["position"]) == ("subscribed", "3-9")
        await client.close()


# --- what clients send, and how connections end ---


async def test_bad_messages_are_answered_and_then_enough() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await client.message()
        sent: list[tuple[bytes, int]] = [(b"{}", 1), (b'{"type":"subscribe"}', 1), (b"\x00\x01", 2)]
        for payload, opcode in sent:
            await client.send_frame(payload, opcode)
            answer = await client.message()
            assert isinstance(answer, dict)
            assert (answer["type"], answer["code"]) == ("error", "bad_message")
        for _ in range(MAX_BAD_MESSAGES - len(sent)):
            await client.send_frame(b"?")
        assert await kinds(client, MAX_BAD_MESSAGES - len(sent)) == ["error"] * (MAX_BAD_MESSAGES - len(sent))
        closed = await client.message()
        assert isinstance(closed, tuple)
        assert closed[1][0] == 1008
        await client.close()
        await server.wait_for_clients(0)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (client_frame(b"x" * (MAX_MESSAGE_BYTES + 1)), 1009),
        (client_frame(b"x" * 3_000_000) + client_frame(b"", opcode=9), 1009),
        (client_frame(b"\xff\xfe"), 1007),
        (b"\x81\x02no", 1002),  # not masked
        (b"\xf1\x80\x00\x00\x00\x00", 1002),  # reserved bits
        (client_frame(b"x" * 126, opcode=9), 1002),  # a control frame that is too long
        (client_frame(b"\x00\x01", opcode=8), 1002),  # a close code that does not exist
    ],
)
async def test_violations_are_closed_with_their_code(sent: bytes, code: int) -> None:
    async with running_server() as server:
        client = await server.websocket()
        await client.message()
        await client.send(sent)
        closed = await client.message()
        assert isinstance(closed, tuple)
        assert (closed[0], closed[1][0]) == ("close", code)
        assert await client.message() == ("end", None)
        await client.close()
        await server.wait_for_clients(0)


async def test_a_message_of_the_largest_size_is_read() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await client.message()
        await client.send_frame(b'{"type":"ping"}'.ljust(MAX_MESSAGE_BYTES))
        assert await kinds(client, 1) == ["pong"]
        await client.close()


async def test_who_floods_and_does_not_read_is_read_no_further() -> None:
    async with running_server() as server:
        client = await server.websocket()
        client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        flood = client_frame(b"x" * 100, opcode=9) * 1000
        with trio.move_on_after(1.0):
            while True:
                await client.stream.send_all(flood)
        assert server.hub.buffers.total_bytes < 200_000
        await client.close()
        await server.wait_for_clients(0)


async def test_ending_says_going_away_and_takes_no_time() -> None:
    async with running_server(live=False) as server:
        clients = [await server.websocket() for _ in range(20)]
        idle = await server.connect()
        await server.wait_for_clients(20)
        started = trio.current_time()
        server.scope.cancel()
        with trio.CancelScope(shield=True):
            for client in clients:
                closed = await client.message()
                assert isinstance(closed, tuple)
                assert closed[1][0] == 1001
                assert closed[1][1].startswith("retry=")
                await client.close()
            assert await idle.rest() == b""
            await idle.close()
        assert trio.current_time() - started < 0.5


async def test_running_out_of_descriptors_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with running_server() as server:
        client = await server.websocket()
        await client.message()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = [socket.socket() for _ in range(5)]
        in_use = max(sock.fileno() for sock in waiting) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (in_use, hard))
        try:
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex((server.host, server.port))
            await trio.sleep(0.3)
            server.hub.deliver([happening(1)])
            assert number(await client.message()) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await server.ask("GET /health HTTP/1.1\nHost: localhost"))[0] == 200
        for sock in waiting:
            sock.close()
        await client.close()
    complaints = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(complaints) == 1
    assert "Too many open files" in complaints[0].getMessage()
    caplog.clear()


async def test_a_client_library_learns_that_it_was_too_slow() -> None:
    async with running_server(client_buffer_bytes=65_536) as server:

        def flood() -> None:
            for n in range(400):
                server.hub.deliver([happening(n, pad=f'"{"x" * 60_000}"')])

        def read_slowly() -> ConnectionClosed:
            with connect(server.url + "/ws", open_timeout=5) as client:
                client.recv(timeout=5)
                trio.from_thread.run_sync(flood)
                with pytest.raises(ConnectionClosed) as caught:
                    list(client)
                return caught.value

        closed = await trio.to_thread.run_sync(read_slowly)
        assert closed.rcvd is not None
        assert (closed.rcvd.code, closed.rcvd.reason) == (4008, "resume with after")
