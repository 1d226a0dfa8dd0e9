"""The server as HTTP clients see it, and how it begins and ends."""

import json
import logging
import resource
import socket
import struct

import pytest
import trio

from bridge.errors import BridgeError
from bridge.hub.retry import RETRY_SECONDS
from bridge.server import serve
from bridge.settings import Settings
from tests.support.frames import Message
from tests.support.server import happening, running_server, upgrade

pytestmark = pytest.mark.usefixtures("quiet_log")


def number(message: Message) -> int:
    assert isinstance(message, dict), message
    return int(message["payload"]["n"])


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
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
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
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
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
        ("bridge.example", "https://app.example", 101),
        ("bridge.example", "https://bridge.example", 101),
        ("rebound.test:8000", "http://rebound.test:8000", 403),  # anybody's name may point here
        ("bridge.example", "https://other.test", 403),
        ("bridge.example", "http://localhost:3000", 101),
    ],
)
async def test_a_public_address_takes_listed_origins(host: str, origin: str, status: int) -> None:
    async with running_server(host="0.0.0.0", auth="none", allowed_origins="https://*.example") as server:
        client = await server.connect()
        await client.send(upgrade("/ws", f"Origin: {origin}", host=host))
        assert (await client.answer())[0] == status
        await client.close()
        assert (await server.ask("GET /health HTTP/1.1\nHost: bridge.example"))[0] == 200
        assert (await server.ask("GET /health HTTP/1.1\nHost: rebound.test"))[0] == 403


async def test_a_taken_port_is_one_clear_line() -> None:
    async with running_server() as server:
        with pytest.raises(BridgeError, match=f"port {server.port}: Address already in use; check BRIDGE_PORT$"):
            await serve(Settings(port=server.port, channels=("a",)), None, server.health, server.metrics)


async def test_full_is_503_and_free_again_when_somebody_leaves() -> None:
    async with running_server(max_clients=2) as server:
        one, two = await server.websocket(), await server.websocket()
        refused = await server.connect()
        await refused.send(upgrade("/ws"))
        status, headers, _ = await refused.answer()
        assert status == 503
        assert 1 <= int(headers["retry-after"]) <= RETRY_SECONDS
        await one.close()
        await server.wait_for_clients(1)
        with trio.fail_after(30):
            while True:
                third = await server.connect()
                await third.send(upgrade("/ws"))
                if (await third.answer())[0] == 101:
                    break
                await third.close()
        for client in (two, third):
            await client.close()


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
        assert trio.current_time() - started < 25


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
