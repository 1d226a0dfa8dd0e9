"""Subscribing and unsubscribing on an open WebSocket, and what becomes of clients that say too much."""

import gc
import json
import time
import weakref
from typing import Any

import pytest
import trio

from bridge.core.grants import EVERYTHING, Grant
from bridge.core.messages import MAX_REFUSED, MAX_SUBSCRIPTIONS, MESSAGES_BURST
from bridge.core.position import Position
from bridge.core.target import Target
from bridge.hub.hub import PING_TICKS
from bridge.server.auth import Authenticator
from bridge.server.http import Request
from bridge.server.takeover import MAX_FRAGMENTS
from bridge.server.websocket import FRAMES_BURST, FRAMES_PER_SECOND
from tests.support.server import RawClient, RunningServer, client_frame, happening, running_server

pytestmark = pytest.mark.usefixtures("quiet_log")


async def say(client: RawClient, type: str, **fields: Any) -> None:  # noqa: A002
    await client.send_frame(json.dumps({"type": type, **fields}).encode())


async def heard(client: RawClient) -> Any:
    """The next message; an event as its number."""
    message = await client.message()
    if isinstance(message, dict) and message["type"] == "notification":
        return message["payload"]["n"]
    return message


async def subscribed(client: RawClient, sub: str | None) -> list[str]:
    """The channels of the answer to a subscription."""
    message = await heard(client)
    assert (message["type"], message["sub"]) == ("subscribed", sub)
    return list(message["channels"])


async def refused(client: RawClient, code: str) -> str:
    message = await heard(client)
    assert (message["type"], message["code"]) == ("error", code)
    return str(message["message"])


def grant_all(monkeypatch: pytest.MonkeyPatch, grant: Grant) -> None:
    def allow(self: Authenticator, request: Request, target: Target) -> Grant:
        return grant

    monkeypatch.setattr(Authenticator, "grant", allow)


async def test_subscriptions_come_and_go_and_an_event_comes_once() -> None:
    async with running_server() as server:
        client = await server.websocket("/ws/a")
        assert await subscribed(client, None) == ["a"]
        await say(client, "subscribe", sub="both", channels=["a", "b"])
        assert await subscribed(client, "both") == ["a", "b"]
        await say(client, "subscribe", sub="sevens", where={"n": 7, "x": "é"})
        assert await subscribed(client, "sevens") == ["a", "b", "match_change"]
        server.hub.deliver([happening(1), happening(2, "b"), happening(7, "match_change", x='"é"')])
        assert [await heard(client) for _ in range(3)] == [1, 2, 7]
        await say(client, "unsubscribe", sub="both")
        await say(client, "ping")
        assert await heard(client) == {"type": "pong", "cursor": "1-7"}
        server.hub.deliver([happening(8, "b"), happening(9)])
        assert await heard(client) == 9
        await say(client, "unsubscribe")
        await say(client, "subscribe", sub="sevens", channels=["b"])
        assert await subscribed(client, "sevens") == ["b"]
        server.hub.deliver([happening(10), happening(11, "match_change", x='"é"'), happening(12, "b")])
        assert await heard(client) == 12


async def test_a_client_without_subscriptions_stays() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await subscribed(client, None)
        await say(client, "unsubscribe", sub=None)
        await say(client, "ping")
        assert (await heard(client))["type"] == "pong"
        server.hub.deliver([happening(1)])
        await say(client, "subscribe", channels=["a"])
        assert await subscribed(client, None) == ["a"]
        server.hub.deliver([happening(2)])
        assert await heard(client) == 2


async def test_a_subscription_goes_on_after_a_cursor() -> None:
    async with running_server() as server:
        server.hub.set_live(Position(1, 0))
        client = await server.websocket("/ws/a")
        await subscribed(client, None)
        await say(client, "unsubscribe")
        await say(client, "ping")
        assert (await heard(client))["type"] == "pong"
        server.hub.deliver([happening(n) for n in range(1, 6)])
        await say(client, "subscribe", channels=["a"], after="1-3")
        assert await subscribed(client, None) == ["a"]
        assert [await heard(client) for _ in range(2)] == [4, 5]


async def test_what_is_not_done_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    grant_all(monkeypatch, Grant(("a", "b"), (("n", ("1", "2")),), None))
    async with running_server() as server:
        client = await server.websocket("/ws/a")
        assert await subscribed(client, None) == ["a"]
        await say(client, "subscribe", sub="x", channels=["a", "nope"])
        assert "'nope'; there are a, b, match_change" in await refused(client, "unknown_channel")
        await say(client, "subscribe", sub="x", channels=["match_change"])
        assert "'match_change'" in await refused(client, "forbidden")
        await say(client, "subscribe", sub="x", where={"n": 3})
        assert "'n' is '3'" in await refused(client, "forbidden")
        await say(client, "unsubscribe", sub="x")
        assert "no subscription named 'x'" in await refused(client, "bad_message")
        await say(client, "unsubscribe")
        await say(client, "unsubscribe")
        assert "no subscription of the URL" in await refused(client, "bad_message")
        await say(client, "subscribe", sub="x")
        assert await subscribed(client, "x") == ["a", "b"]
        server.hub.deliver([happening(3), happening(1, "match_change"), happening(2, "b")])
        assert await heard(client) == 2


async def test_there_are_only_so_many_subscriptions() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await subscribed(client, None)
        for n in range(MAX_SUBSCRIPTIONS):
            await say(client, "subscribe", sub=str(n))
        for n in range(MAX_SUBSCRIPTIONS - 1):
            await subscribed(client, str(n))
        assert "64 subscriptions" in await refused(client, "too_many_subscriptions")
        await say(client, "subscribe", sub="0", channels=["b"])
        assert await subscribed(client, "0") == ["b"]
        await say(client, "unsubscribe", sub="1")
        await say(client, "subscribe", sub="new")
        await subscribed(client, "new")


async def test_who_does_not_stop_when_told_is_closed() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await subscribed(client, None)
        burst = int(MESSAGES_BURST)
        await client.send(client_frame(b'{"type":"ping"}') * (2 * burst + MAX_REFUSED))
        kinds = []
        while isinstance(message := await client.message(), dict):
            kinds.append(message.get("code", message["type"]))
        assert message == ("close", (1008, "too many messages"))
        assert burst <= kinds.count("pong") < 2 * burst
        assert kinds.count("rate_limited") == MAX_REFUSED


async def test_a_message_without_end_is_ended() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await subscribed(client, None)
        await client.send(b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * (MAX_FRAGMENTS + 1))
        assert await heard(client) == ("close", (1008, "a message in too many fragments"))


async def test_a_flood_of_frames_is_read_at_the_rate_that_is_allowed(autojump_clock: trio.testing.MockClock) -> None:
    async with running_server() as server:
        client = await server.websocket()
        await subscribed(client, None)
        began, seconds = trio.current_time(), 3
        count = int(FRAMES_BURST + seconds * FRAMES_PER_SECOND)
        await client.send(client_frame(b"", 9) * count)
        for _ in range(count):
            assert await heard(client) == ("pong", b"")
        assert trio.current_time() - began >= seconds


async def test_characters_are_counted_in_bytes() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await subscribed(client, None)
        await client.send_frame(b'{"type":"ping","x":"%b"}' % ("é" * 40_000).encode())
        closed = await heard(client)
        assert (closed[0], closed[1][0]) == ("close", 1009)


@pytest.mark.parametrize("target", ["/ws", "/sse"])
async def test_an_expired_token_ends_the_connection(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    async with running_server() as server:
        grant_all(monkeypatch, Grant(None, (), time.time() - 1))
        expiring = await server.connect()
        head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        if target == "/ws":
            await expiring.close()
            expiring = await server.websocket()
            await subscribed(expiring, None)
        else:
            await expiring.send(head)
            assert (await expiring.answer())[0] == 200
        grant_all(monkeypatch, EVERYTHING)
        lasting = await server.websocket()
        await subscribed(lasting, None)
        if target == "/ws":
            assert await heard(expiring) == ("close", (4001, "the token has expired"))
        else:
            assert (await expiring.rest()).endswith(b"\n\n")
        server.hub.deliver([happening(1)])
        assert await heard(lasting) == 1


async def pinged(server: RunningServer, client: RawClient) -> None:
    client.answers_pings = False
    for _ in range(PING_TICKS):
        server.hub.tick()
    while await heard(client) != ("ping", b""):
        pass


async def ponged(server: RunningServer, client: RawClient) -> None:
    """The answer to a ping, which the server has read."""
    await client.send_frame(b"", 10)
    with trio.fail_after(30):
        while not all(one.heard for one in server.hub.clients):  # noqa: ASYNC110, nobody tells
            await trio.sleep(0.001)


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_who_only_listens_costs_no_task_and_who_says_little_neither() -> None:
    async with running_server() as server:
        before = living()
        client = await server.websocket()
        await subscribed(client, None)
        for n in range(3):
            await pinged(server, client)
            await ponged(server, client)
            server.hub.deliver([happening(n)])
            assert await heard(client) == n
            assert living() == before
        await client.send_frame(b"unasked", 10)
        await client.send_frame(b"x" * 125, 9)
        await say(client, "ping", x="x" * 200)
        assert await heard(client) == ("pong", b"x" * 125)
        assert (await heard(client))["type"] == "pong"
        assert living() == before
        await client.send(b"\x01\x80\0\0\0\0" + b"\x80\x80\0\0\0\0")
        await refused(client, "bad_message")
        assert living() > before


async def test_a_pong_may_come_in_pieces() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await subscribed(client, None)
        await pinged(server, client)
        for byte in client_frame(b"", 10) + client_frame(b'{"type":"ping"}'):
            await client.send(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert (await heard(client))["type"] == "pong"


async def test_the_answer_to_a_close_ends_the_connection_at_once() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await subscribed(client, None)
        for one in list(server.hub.clients):
            one.end(1001, "retry=1")
        assert await heard(client) == ("close", (1001, "retry=1"))
        await client.send_frame(b"\x03\xe9", 8)
        assert await heard(client) == ("end", None)


async def test_pongs_that_nobody_asked_for_are_read_at_the_rate_that_is_allowed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running_server() as server:
        client = await server.websocket()
        await subscribed(client, None)
        began, seconds = trio.current_time(), 3
        for _ in range(int(FRAMES_BURST + seconds * FRAMES_PER_SECOND) // 100):
            await client.send(client_frame(b"", 10) * 100)
            await trio.sleep(0.001)  # each is read for itself
        for _ in range(2):  # the second is read when the time for all before it has passed
            await say(client, "ping")
            assert (await heard(client))["type"] == "pong"
        assert trio.current_time() - began >= seconds


async def test_a_client_that_the_library_reads_is_alive_while_it_answers() -> None:
    async with running_server() as server:
        client = await server.websocket()
        await subscribed(client, None)
        await client.send(b"\x01\x80\0\0\0\0" + b"\x80\x80\0\0\0\0")
        await refused(client, "bad_message")
        for _ in range(3):
            await pinged(server, client)
            await ponged(server, client)
        assert server.hub.client_count == 1


async def test_nothing_is_kept_of_a_client_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    grant_all(monkeypatch, Grant(None, (), time.time() + 3600))
    async with running_server() as server:
        client = await server.websocket()
        await subscribed(client, None)
        await say(client, "subscribe", sub="x")
        await subscribed(client, "x")
        (gone,) = [weakref.ref(one) for one in server.hub.clients]
        await client.close()
        with trio.fail_after(30):
            while gone() is not None:
                await trio.sleep(0.01)
                server.hub.tick()  # the ended are looked through now and then
                gc.collect()
