"""Streams of events as a browser reads them."""

import json
from typing import Any

import pytest
import trio

from bridge.core.events import Gap
from bridge.core.position import Position
from bridge.hub.hub import QUIET_TICKS
from bridge.server.sse import MAX_IGNORED_BYTES
from tests.support.server import RawClient, RunningServer, happening, running_server
from tests.support.sse import Block, EventSource

pytestmark = pytest.mark.usefixtures("quiet_log")


class Stream:
    """One connection to a stream, and what a browser would have made of it so far."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.source = EventSource()
        self.ended = False

    async def blocks(self, count: int) -> list[Block]:
        """All events so far, once there are so many, or the stream has ended."""
        while len(self.source.blocks) < count and not self.ended:
            await self.more()
        return self.source.blocks

    async def more(self) -> None:
        data = await self.client.some()
        self.source.feed(data)
        self.ended = not data

    async def rest(self) -> list[Block]:
        while not self.ended:
            await self.more()
        return self.source.blocks


async def open_stream(server: RunningServer, target: str = "/sse", *headers: str) -> Stream:
    client = await server.connect()
    head = "\r\n".join([f"GET {target} HTTP/1.1", "Host: localhost", *headers, "", ""])
    await client.send(head.encode())
    status, found, _ = await client.answer()
    assert status == 200
    assert found["content-type"] == "text/event-stream; charset=utf-8"
    return Stream(client)


def said(block: Block) -> Any:
    return json.loads(block.data)


def numbers(blocks: list[Block]) -> list[int]:
    return [said(block)["payload"]["n"] for block in blocks if block.type == "message"]


async def test_the_head_keeps_everybody_from_holding_the_stream_back() -> None:
    async with running_server() as server:
        client = await server.connect()
        await client.send(b"GET /sse/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, headers, _ = await client.answer()
        assert status == 200
        assert headers["cache-control"] == "no-store, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert headers["connection"] == "close"
        assert not headers.keys() & {"content-length", "transfer-encoding", "content-encoding"}


async def test_the_same_messages_as_on_a_websocket() -> None:
    async with running_server() as server:
        stream = await open_stream(server, "/sse/match/7/stats?channel=a")
        websocket = await server.websocket("/ws/match/7/stats?channel=a")
        await server.wait_for_clients(2)
        server.hub.deliver([happening(n, match_id=n) for n in range(5, 9)])
        server.hub.deliver([Gap(Position(1, 8), Position(2, 0), "failover")])
        subscribed, event, gap = await stream.blocks(3)
        assert [said(block) for block in (subscribed, event, gap)] == [await websocket.message() for _ in range(3)]
        assert (subscribed.type, event.type, gap.type) == ("subscribed", "message", "gap")
        assert (event.last_event_id, gap.last_event_id) == ("1-7", said(gap)["cursor"])
        assert stream.source.retry_ms in range(1000, 5001)


@pytest.mark.parametrize(
    ("target", "headers", "expected"),
    [
        ("/sse", ("Last-Event-ID: 1-3",), [4, 5]),
        ("/sse?after=1-3", (), [4, 5]),
        ("/sse?after=1-1", ("Last-Event-ID: 1-4",), [5]),
        ("/sse?after=1-4", ("Last-Event-ID:",), [5]),
        ("/sse?after=1-5", (), []),
    ],
)
async def test_resuming(target: str, headers: tuple[str, ...], expected: list[int]) -> None:
    async with running_server() as server:
        server.hub.set_live(Position(1, 0))
        server.hub.deliver([happening(n) for n in range(1, 6)])
        stream = await open_stream(server, target, *headers)
        await server.wait_for_clients(1)
        server.hub.deliver([happening(6)])
        assert numbers(await stream.blocks(len(expected) + 2)) == [*expected, 6]


async def test_what_cannot_be_resumed_from_is_a_gap_and_then_live() -> None:
    async with running_server() as server:
        server.hub.set_live(Position(1, 0))
        stream = await open_stream(server, "/sse", "Last-Event-ID: nonsense\xff")
        await server.wait_for_clients(1)
        server.hub.deliver([happening(1)])
        blocks = await stream.blocks(3)
        assert [(block.type, said(block).get("reason")) for block in blocks][:2] == [
            ("subscribed", None),
            ("gap", "unknown_position"),
        ]
        assert numbers(blocks) == [1]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("HEAD /sse HTTP/1.1\nHost: localhost", 405),
        ("POST /sse HTTP/1.1\nHost: localhost", 405),
        ("GET /sse/a/b HTTP/1.1\nHost: localhost", 404),
        ("GET /sse/ HTTP/1.1\nHost: localhost", 404),
        ("GET /sse?channel=nope HTTP/1.1\nHost: localhost", 400),
        ("GET /sse?what=7 HTTP/1.1\nHost: localhost", 400),
        ("GET /sse HTTP/1.1\nHost: localhost\nOrigin: https://evil.example", 403),
        ("GET /sse HTTP/1.1\nHost: evil.example", 403),
    ],
)
async def test_what_is_refused(head: str, status: int) -> None:
    async with running_server() as server:
        client = await server.connect()
        await client.send(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        assert (await client.answer(head_only=head.startswith("HEAD")))[0] == status


@pytest.mark.parametrize("start", ["GET /sse", "GET /sse?what=7", "OPTIONS /sse/a"])
async def test_pages_of_other_origins_may_read_every_answer(start: str) -> None:
    lines = [
        f"{start} HTTP/1.1",
        "Host: localhost",
        "Origin: http://localhost:3000",
        "Access-Control-Request-Method: GET",
        "Access-Control-Request-Headers: authorization",
    ]
    async with running_server() as server:
        client = await server.connect()
        await client.send("\r\n".join([*lines, "", ""]).encode())
        head = (await client.some()).partition(b"\r\n\r\n")[0]
    headers = [line for line in head.split(b"\r\n") if line.startswith((b"Access-Control-Allow-Origin", b"Vary"))]
    # a browser refuses an answer that says the first one twice
    assert headers == [b"Access-Control-Allow-Origin: http://localhost:3000", b"Vary: Origin"]


async def test_full_is_a_stream_that_ends_at_once() -> None:
    async with running_server(max_clients=1) as server:
        one = await open_stream(server)
        await one.blocks(1)
        other = await server.connect()
        await other.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, headers, body = await other.answer()
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        source = EventSource()
        source.feed(body)
        assert source.retry_ms in range(1000, 5001)
        assert source.blocks == []
        assert await other.rest() == b""


async def test_a_quiet_stream_says_where_it_is_without_an_event() -> None:
    async with running_server() as server:
        stream = await open_stream(server, "/sse/b")
        await stream.blocks(1)
        server.hub.deliver([happening(7, "a")])
        for _ in range(QUIET_TICKS):
            server.hub.tick()
        while stream.source.last_event_id != "1-7":
            await stream.more()
        assert len(stream.source.blocks) == 1


async def test_a_client_that_goes_is_noticed() -> None:
    async with running_server() as server:
        streams = [await open_stream(server) for _ in range(3)]
        await server.wait_for_clients(3)
        await streams[0].client.close()
        await server.wait_for_clients(2)
        await streams[1].client.stream.send_eof()
        await server.wait_for_clients(1)
        server.hub.deliver([happening(1)])
        assert numbers(await streams[2].blocks(2)) == [1]


async def test_what_a_client_goes_on_saying_is_ignored_and_then_too_much() -> None:
    async with running_server() as server:
        stream = await open_stream(server)
        await stream.client.send(b"GET /health HTTP/1.1\r\n\r\n" * 10)
        await stream.blocks(1)
        server.hub.deliver([happening(1)])
        assert numbers(await stream.blocks(2)) == [1]
        await stream.client.send(b"x" * (MAX_IGNORED_BYTES + 1))
        await stream.rest()
        await server.wait_for_clients(0)


async def test_the_end_of_the_server_is_the_end_of_the_stream() -> None:
    async with running_server() as server:
        stream = await open_stream(server)
        await stream.blocks(1)
        server.scope.cancel()
        with trio.CancelScope(shield=True):
            assert len(await stream.rest()) == 1
            assert stream.source.retry_ms in range(1000, 5001)


async def test_a_stream_that_is_read_too_slowly_ends_between_two_blocks_and_goes_on_where_it_was() -> None:
    async with running_server(client_buffer_bytes=65_536) as server:
        server.hub.set_live(Position(1, 0))
        client = await server.connect()
        await client.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await server.wait_for_clients(1)
        for n in range(1, 401):
            server.hub.deliver([happening(n, pad=f'"{"x" * 60_000}"')])
        await client.answer()
        stream = Stream(client)
        heard = numbers(await stream.rest())
        assert heard == list(range(1, len(heard) + 1))
        assert 0 < len(heard) < 400
        again = await open_stream(server, "/sse", f"Last-Event-ID: {stream.source.last_event_id}")
        assert numbers(await again.blocks(2))[0] == len(heard) + 1
