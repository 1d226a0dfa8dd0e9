"""How many may be here, what they are told when there is no place, and that bad ones leave nothing behind."""

import gc
import logging
import math
import os
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from bridge.hub.retry import RETRY_SECONDS
from bridge.server import listener
from bridge.server.http import HEAD_SECONDS
from bridge.server.limits import ALWAYS_AN_ADDRESS
from tests.support.redis import make_certificates
from tests.support.server import RunningServer, client_frame, happening, running_server, upgrade

BAD_CONNECTIONS = 10_000
AT_ONCE = 50

PROXY: dict[str, Any] = {"trusted_proxies": "127.0.0.1"}


def from_address(address: str) -> str:
    return f"X-Forwarded-For: {address}"


@pytest.fixture
def small_lobby(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(listener, "prepare_descriptors", lambda *_args, **_named: 16)
    return 16


# --- clients ---


async def test_one_address_does_not_get_all_places(caplog: pytest.LogCaptureFixture) -> None:
    async with running_server(max_clients=2 * ALWAYS_AN_ADDRESS, **PROXY) as server:
        clients = [await server.websocket("/ws", from_address("1.2.3.4")) for _ in range(ALWAYS_AN_ADDRESS)]
        refused = await server.connect()
        await refused.send(upgrade("/ws", from_address("9.9.9.9, 1.2.3.4")))
        status, headers, body = await refused.answer()
        assert (status, body.count(b"\n")) == (429, 1)
        assert 1 <= int(headers["retry-after"]) <= RETRY_SECONDS
        status, headers, body = await server.ask(f"GET /sse HTTP/1.1\nHost: localhost\n{from_address('1.2.3.4')}")
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert body.startswith(b"retry: ")
        await server.websocket("/ws", from_address("1.2.3.5"))
        await server.websocket("/ws", from_address("2001:db8::1"))
        await server.websocket("/ws")
        await server.wait_for_clients(ALWAYS_AN_ADDRESS + 3)
        await clients.pop().close()
        await server.wait_for_clients(ALWAYS_AN_ADDRESS + 2)
        with trio.fail_after(30):
            while True:
                again = await server.connect()
                await again.send(upgrade("/ws", from_address("1.2.3.4")))
                if (await again.answer())[0] == 101:
                    break
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert "BRIDGE_TRUSTED_PROXIES" in said[0]


async def test_addresses_in_headers_of_strangers_mean_nothing() -> None:
    async with running_server(max_clients=2 * ALWAYS_AN_ADDRESS) as server:
        for _ in range(ALWAYS_AN_ADDRESS + 1):
            await server.websocket("/ws", from_address("1.2.3.4"))


async def test_who_cannot_be_taken_while_draining_is_told_when_to_come_back() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await client.message()
        server.places.closed = True
        refused = await server.connect()
        await refused.send(upgrade("/ws"))
        status, headers, _ = await refused.answer()
        assert status == 503
        assert 1 <= int(headers["retry-after"]) <= RETRY_SECONDS
        status, headers, body = await server.ask("GET /sse HTTP/1.1\nHost: localhost\nOrigin: http://localhost:3000")
        assert (status, headers["connection"]) == (200, "close")
        assert headers["access-control-allow-origin"] == "http://localhost:3000"
        assert body.startswith(b"retry: ")
        assert (await server.ask("GET /health HTTP/1.1\nHost: localhost"))[0] == 200
        server.hub.deliver([happening(1)])
        message = await client.message()
        assert isinstance(message, dict)
        assert message["payload"] == {"n": 1}


@pytest.mark.parametrize("with_hub", [True, False])
async def test_too_few_descriptors_are_said_where_there_may_be_clients(
    with_hub: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
    async with running_server(with_hub=with_hub) as server:
        assert (await server.ask("GET /health HTTP/1.1\nHost: localhost"))[0] == 200
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.partition(",")[0] for line in said] == ["BRIDGE_MAX_CLIENTS is 10000"] * with_hub


# --- visitors ---


async def test_connections_that_say_nothing_make_room(small_lobby: int) -> None:
    async with running_server() as server:
        client = await server.websocket()
        await client.message()
        silent = [await server.connect() for _ in range(3 * small_lobby)]
        for connection in silent[::2]:
            await connection.send(b"GET /health HT")
        started = trio.current_time()
        assert (await server.ask("GET /health HTTP/1.1\nHost: localhost"))[0] == 200
        assert trio.current_time() - started < HEAD_SECONDS, "they were not sent away, they gave up"
        server.hub.deliver([happening(1)])
        assert isinstance(await client.message(), dict)


async def test_a_crowd_of_clients_is_let_through_however_small_the_lobby(small_lobby: int) -> None:
    async with running_server() as server:
        count = 10 * small_lobby

        async def come() -> None:
            client = await server.websocket()
            assert isinstance(await client.message(), dict)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(come)
        await server.wait_for_clients(count)


async def test_one_address_gets_a_part_of_the_lobby(small_lobby: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback counts as no address; so here it is made to count."""
    monkeypatch.setattr("bridge.server.door.Door.limited", lambda _self, address: str(address))
    async with running_server() as server:
        silent = [await server.connect() for _ in range(small_lobby // 4)]
        one_more = await server.connect()
        status, headers, _ = await one_more.answer()
        assert (status, headers["connection"]) == (429, "close")
        assert await one_more.rest() == b""
        await silent.pop().close()
        with trio.fail_after(30):
            while (await server.ask("GET /health HTTP/1.1\nHost: localhost"))[0] != 200:
                pass


# --- bad connections ---

RESET = struct.pack("ii", 1, 0)
BAD: list[tuple[bytes, bool]] = [
    (b"", False),
    (b"", True),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), False),
    (b"\x00\xff\r\n\r\n", False),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3, True),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 17_000, False),
    (b"POST /ws HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", False),
    (b"GET /ws HTTP/1.1\r\nHo", False),
    (b"GET /ws HTTP/1.1\r\nHo", True),
    (b"GET /" + b"%00" * 100 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", False),
    (b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", True),
    (b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\nmore", False),
    (upgrade("/ws", "Origin: https://evil.example"), False),
    (upgrade("/ws?channel=nope"), False),
    (upgrade("/ws", "Sec-WebSocket-Protocol: bearer.x"), False),
    (upgrade("/ws"), True),
    (upgrade("/ws") + b"\x81", False),
    (upgrade("/ws") + b"\x81\x02no", False),
    (upgrade("/ws") + b"\xf1\x80\x00\x00\x00\x00", True),
    (upgrade("/ws") + client_frame(b"\xff\xfe"), False),
    (upgrade("/ws") + client_frame(b"?"), False),
    (upgrade("/ws") + client_frame(b'{"type":"subscribe","channels":["a"],"where":{"x":"y"}}'), True),
    (upgrade("/ws") + client_frame(b"\x00\x01", opcode=8), False),
    (upgrade("/ws") + client_frame(b"x" * 300, opcode=9), False),
]


async def misbehave(server: RunningServer, numbers: Iterator[int], sent: Callable[[int], tuple[bytes, bool]]) -> None:
    for number in numbers:
        data, reset = sent(number)
        with suppress(OSError), trio.socket.socket() as peer:
            await peer.connect((server.host, server.port))
            await peer.send(data)
            if reset:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            else:
                peer.shutdown(socket.SHUT_WR)
                with trio.fail_after(60):
                    while await peer.recv(65536):
                        pass


def left_behind() -> tuple[int, int]:
    """Tasks and descriptors."""
    return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("encrypted", [False, True])
async def test_ten_thousand_bad_connections_leave_nothing_behind(
    encrypted: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes: dict[str, Any] = {"max_clients": 1000}
    if encrypted:
        made = make_certificates(tmp_path)
        changes |= {"tls_cert": str(made.certificate), "tls_key": str(made.key)}
        trust = ssl.create_default_context(cafile=made.authority)
    async with running_server(**changes) as server, trio.open_nursery() as reading:
        witness = await server.websocket("/ws/a", trust=trust if encrypted else None)
        await witness.message()
        witness.wait_seconds = math.inf
        heard: list[Any] = []

        async def stay() -> None:
            """Answer pings as any client does: on a busy machine this takes longer than a silent one may stay."""
            while (message := await witness.message()) != ("end", None):
                heard.append(message)

        reading.start_soon(stay)

        async def wave(count: int) -> tuple[int, int]:
            numbers = iter(range(count))
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(misbehave, server, numbers, lambda number: BAD[number % len(BAD)])
            with trio.fail_after(60):
                while server.places.taken > 1 or left_behind() > before:  # noqa: ASYNC110, nobody is told
                    await trio.sleep(0.02)
            return left_behind()

        await trio.testing.wait_all_tasks_blocked()
        before = left_behind()
        assert await wave(BAD_CONNECTIONS // 5) <= before
        gc.collect()
        resident = resident_bytes()
        assert await wave(BAD_CONNECTIONS * 4 // 5) <= before
        gc.collect()
        assert resident_bytes() - resident < 4_000_000
        assert server.hub.client_count == 1
        server.hub.deliver([happening(1)])
        with trio.fail_after(60):
            while not heard:  # noqa: ASYNC110, nobody is told
                await trio.sleep(0.01)
        assert [message["payload"] for message in heard] == [{"n": 1}]
        assert server.hub.buffers.total_bytes == 0
        reading.cancel_scope.cancel()
    assert [record for record in caplog.records if record.levelno > logging.INFO or record.exc_info] == []
