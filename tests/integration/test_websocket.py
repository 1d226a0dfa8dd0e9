"""WebSockets as clients see them: other people's client libraries, and raw bytes where those are too polite."""

import json
import socket
from typing import Any

import pytest
import trio
from trio_websocket import open_websocket_url
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from bridge.core.messages import MAX_BAD, MAX_MESSAGE_BYTES
from bridge.core.position import Position
from tests.support.frames import Message
from tests.support.server import RawClient, client_frame, happening, running_server, upgrade

pytestmark = pytest.mark.usefixtures("quiet_log")


def number(message: Message) -> int:
    assert isinstance(message, dict), message
    return int(message["payload"]["n"])


async def kinds(client: RawClient, count: int) -> list[Any]:
    found = [await client.message() for _ in range(count)]
    return [m["type"] if isinstance(m, dict) else m for m in found]


# --- the handshake ---


@pytest.mark.parametrize(
    ("head", "status", "text"),
    [
        ("GET /wsx", 404, "nothing"),
        ("GET /ws/a/b", 404, "nothing"),
        ("GET /ws?channel=nope", 426, "WebSocket"),
        ("GET /ws?chanel=a", 400, "unknown parameter"),
        ("GET /ws?after=1-1", 426, "WebSocket"),
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


async def test_no_extension_is_agreed_to() -> None:
    async with running_server() as server:
        client = await server.connect()
        await client.send(upgrade("/ws", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"))
        status, headers, _ = await client.answer()
        assert status == 101
        assert headers.keys() == {"upgrade", "connection", "sec-websocket-accept"}
        await client.close()


async def test_what_follows_the_head_in_the_same_packet_is_read() -> None:
    async with running_server() as server:
        client = await server.connect()
        await client.send(upgrade("/ws") + client_frame(b'{"type":"ping"}'))
        assert (await client.answer())[0] == 101
        assert await kinds(client, 2) == ["subscribed", "pong"]
        await client.close()


# --- events ---


async def test_a_client_of_the_websockets_library() -> None:
    async with running_server() as server:

        def follow() -> list[Any]:
            with connect(server.url + "/ws/match/7/stats", subprotocols=["bridge.v1"], open_timeout=30) as client:  # type: ignore[list-item]
                subscribed = json.loads(client.recv(timeout=30))
                trio.from_thread.run_sync(
                    server.hub.deliver, [happening(n, "match_change", match_id=n) for n in range(9)]
                )
                event = json.loads(client.recv(timeout=30))
                client.send('{"type":"ping"}')
                pong = json.loads(client.recv(timeout=30))
                assert client.ping().wait(timeout=30)
                return [subscribed, event, pong]

        assert await trio.to_thread.run_sync(follow) == [
            {
                "type": "subscribed",
                "channels": ["a", "b", "match_change"],
                "where": {"match_id": "7"},
                "sub": None,
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

        with trio.fail_after(300):
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
        sent: list[tuple[bytes, int]] = [(b"{}", 1), (b'{"type":"subscribe","sub":7}', 1), (b"\x00\x01", 2)]
        for payload, opcode in sent:
            await client.send_frame(payload, opcode)
            answer = await client.message()
            assert isinstance(answer, dict)
            assert (answer["type"], answer["code"]) == ("error", "bad_message")
        for _ in range(MAX_BAD - len(sent)):
            await client.send_frame(b"?")
        assert await kinds(client, MAX_BAD - len(sent)) == ["error"] * (MAX_BAD - len(sent))
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
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        flood = client_frame(b"x" * 100, opcode=9) * 1000
        with trio.move_on_after(1.0):
            while True:
                await client.stream.send_all(flood)
        assert server.hub.buffers.total_bytes < 200_000
        await client.close()
        await server.wait_for_clients(0)


async def test_a_client_library_learns_that_it_was_too_slow() -> None:
    async with running_server(client_buffer_bytes=65_536) as server:

        def flood() -> None:
            for n in range(400):
                server.hub.deliver([happening(n, pad=f'"{"x" * 60_000}"')])

        def read_slowly() -> ConnectionClosed:
            with connect(server.url + "/ws", open_timeout=30) as client:
                client.recv(timeout=30)
                trio.from_thread.run_sync(flood)
                with pytest.raises(ConnectionClosed) as caught:
                    list(client)
                return caught.value

        closed = await trio.to_thread.run_sync(read_slowly)
        assert closed.rcvd is not None
        assert (closed.rcvd.code, closed.rcvd.reason) == (4008, "resume with after")
