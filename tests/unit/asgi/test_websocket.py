"""WebSockets of a Starlette application: the bridge's protocol, and an end for everything, on every event loop."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from bridge.asgi import Grant, allow, routes, serve_websocket
from bridge.asgi import stay as staying
from bridge.asgi import websocket as conversing
from bridge.asgi.desk import desk_of
from bridge.core.messages import MAX_MESSAGE_BYTES
from tests.support.asgi import HandFed, hand_fed, socket
from tests.support.loops import LOOPS, Loop, run_on

pytestmark = pytest.mark.parametrize("loop", LOOPS)

Main = Callable[[HandFed, Starlette], Awaitable[None]]


def serve(loop: Loop, main: Main, *, live: bool = True, **settings: Any) -> None:
    """Run this with a feed and an application that has all its endpoints."""

    async def run() -> None:
        async with hand_fed(live=live, **settings) as feed:
            await main(feed, Starlette(routes=routes(feed)))

    run_on(loop, run)


def test_a_client_hears_what_it_asked_for(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app, "/ws/match/7/stats") as one, socket(app, "/ws?channel=b&where.x=1") as other:
            subscribed = (await one.heard(1))[0]
            assert subscribed["type"] == "subscribed"
            assert (subscribed["channels"], subscribed["where"]) == (["a", "b"], {"match_id": "7"})
            assert (await other.heard(1))[0]["channels"] == ["b"]
            feed.deliver(2, match_id=7)
            feed.deliver(3, "b", match_id=8, x=1)
            await one.heard(3)
            await other.heard(4)
            assert (one.numbers, other.numbers) == ([1, 2], [3, 4, 5])
            assert one.messages[1]["id"] == f"{100}-1"

    serve(loop, main)


def test_a_client_goes_on_after_its_cursor(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app, "/ws/a") as client:
            await client.heard(1)
            feed.deliver(3)
            cursor = (await client.heard(4))[2]["id"]
        feed.deliver(2)
        async with socket(app, f"/ws/a?after={cursor}") as client:
            await client.heard(4)
            assert client.numbers == [3, 4, 5]

    serve(loop, main)


def test_a_client_that_comes_before_any_source_waits(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as client:
            await client.until(lambda: client.accepted)
            client.tell({"type": "ping"})
            assert (await client.heard(1))[0] == {"type": "pong", "cursor": None}
            feed.go_live()
            assert (await client.heard(2))[1]["type"] == "subscribed"

    serve(loop, main, live=False)


def test_a_conversation(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app, "/ws/a", subprotocols=["bridge.v1"]) as client:
            await client.heard(1)
            assert client.sent[0]["subprotocol"] == "bridge.v1"
            client.tell({"type": "subscribe", "channels": ["b"], "where": {"k": 1}, "sub": "more"})
            assert (await client.heard(2))[1]["sub"] == "more"
            feed.deliver(1, "b", k=1)
            feed.deliver(1, "b", k=2)
            client.tell({"type": "unsubscribe", "sub": "more"}, {"type": "ping"})
            assert (await client.heard(4))[-1]["type"] == "pong"
            assert client.numbers == [1]
            client.tell({"type": "subscribe", "channels": ["nope"]}, {"type": "nonsense"})
            assert [message["code"] for message in (await client.heard(6))[-2:]] == ["unknown_channel", "bad_message"]
            client.say({"type": "websocket.receive", "bytes": b"\x00"})
            assert (await client.heard(7))[-1]["code"] == "bad_message"
            assert client.close_code is None

    serve(loop, main)


def test_who_keeps_making_mistakes_is_closed(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as client:
            client.say(*[{"type": "websocket.receive", "text": "garbage"}] * 20)
            await client.ended()
            assert client.close_code == 1008
            assert client.types.count("error") == 10

    serve(loop, main)


def test_what_was_said_before_a_close_is_taken(loop: Loop) -> None:
    """A server may hold the connection open for as long as there is something that the application has not taken."""

    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as client:
            client.say(*[{"type": "websocket.receive", "text": "garbage"}] * 200)
            await client.ended()
            assert (client.close_code, client.unheard) == (1008, 0)

    serve(loop, main)


def test_a_peer_that_does_not_answer_a_close_is_not_waited_for(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversing, "GOODBYE_SECONDS", 0.05)

    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as client:
            await client.heard(1)
            client.answers_close = False
            desk_of(feed).drain()
            await client.ended(5.0)
            assert client.close_code == 1001

    serve(loop, main)


@pytest.mark.parametrize("text", ["x" * (MAX_MESSAGE_BYTES + 1), "ä" * (MAX_MESSAGE_BYTES // 2 + 1)])
def test_a_long_message_is_too_large(loop: Loop, text: str) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as client:
            client.say({"type": "websocket.receive", "text": text})
            await client.ended()
            assert client.close_code == 1009

    serve(loop, main)


def test_a_peer_that_does_not_read_is_closed_and_holds_nothing(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staying, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(conversing, "GOODBYE_SECONDS", 0.05)

    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as slow, socket(app) as quick:
            await slow.heard(1)
            await quick.heard(1)
            slow.blocked = True
            for number in range(1, 101):
                feed.deliver(1, filler="x" * 1000)
                await quick.heard(1 + number)
            await slow.ended(5.0)
            assert slow.close_code is None  # it took nothing, not even that
            assert desk_of(feed).client_count == 1

    serve(loop, main, client_buffer_bytes=65_536)


def test_a_slow_peer_gets_what_it_was_given_and_then_the_code(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as slow:
            await slow.heard(1)
            slow.blocked = True
            for _ in range(300):
                feed.deliver(1, filler="x" * 1000)
                await anyio.lowlevel.checkpoint()
            assert desk_of(feed).client_count == 1
            slow.blocked = False
            slow.poke()
            await slow.ended()
            assert (slow.close_code, slow.close_reason) == (4008, "resume with after")
            assert slow.numbers == list(range(1, len(slow.numbers) + 1))
            assert 50 < len(slow.numbers) < 300

    serve(loop, main, client_buffer_bytes=65_536)


def test_a_peer_that_takes_nothing_for_long_is_too_slow_however_little_waits(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staying, "PEER_SECONDS", 0.05)
    monkeypatch.setattr(conversing, "GOODBYE_SECONDS", 0.05)

    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as slow:
            await slow.heard(1)
            slow.blocked = True
            feed.deliver(1)
            await slow.ended(5.0)

    serve(loop, main)


def test_a_quiet_peer_is_not_slow(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staying, "PEER_SECONDS", 0.5)

    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as client:
            await client.heard(1)
            await anyio.sleep(1.5)
            feed.deliver(1)
            await client.heard(2)
            assert client.close_code is None

    serve(loop, main)


def test_where_sending_cannot_be_cancelled_nothing_is_held_for_long(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staying, "CLOSE_SECONDS", 0.05)

    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as slow, socket(app) as quick:
            await slow.heard(1)
            await quick.heard(1)
            slow.blocked = slow.stubborn = True
            for number in range(1, 101):
                feed.deliver(1, filler="x" * 1000)
                await quick.heard(1 + number)
            with anyio.fail_after(30):
                while feed.hub.buffers.total_bytes:  # noqa: ASYNC110 (there is no event for this)
                    await anyio.sleep(0.01)
            returned, clients = slow.returned, desk_of(feed).client_count
        assert (returned, clients) == (False, 1)  # its connection is still there, and takes nobody's place

    serve(loop, main, client_buffer_bytes=65_536)


def test_a_token_that_expires_ends_the_connection(loop: Loop) -> None:
    async def main(feed: HandFed, _: Starlette) -> None:
        app = Starlette(routes=routes(feed, authorize=lambda _: allow(expires_at=time.time() + 0.1)))
        async with socket(app) as client:
            await client.ended()
            assert client.close_code == 4001

    serve(loop, main)


def test_nothing_is_heard_with_a_grant_that_has_expired_before(loop: Loop) -> None:
    async def main(feed: HandFed, _: Starlette) -> None:
        async def endpoint(websocket: WebSocket) -> None:
            await websocket.accept()
            await serve_websocket(websocket, feed, expires_at=time.time() - 1)

        async with socket(Starlette(routes=[WebSocketRoute("/mine", endpoint)]), "/mine?after=100-0") as client:
            await client.ended()
            assert (client.messages, client.close_code) == ([], 4001)

    serve(loop, main)


def test_nothing_is_heard_where_the_token_expires_during_the_handshake(loop: Loop) -> None:
    async def main(feed: HandFed, _: Starlette) -> None:
        granted: list[Grant] = []

        def authorize(_: HTTPConnection) -> Grant:
            granted.append(allow(expires_at=time.time() + 0.1))
            return granted[0]

        feed.deliver(3)
        async with socket(Starlette(routes=routes(feed, authorize=authorize)), "/ws?after=100-0") as client:
            client.tell({"type": "subscribe", "sub": "early", "after": "100-0"})
            client.blocked = True
            while not granted or time.time() <= (granted[0].expires_at or 0):  # noqa: ASYNC110 (a clock says nothing)
                await anyio.sleep(0.01)
            client.blocked = False
            client.poke()
            await client.ended()
            assert (client.accepted, client.messages, client.close_code) == (True, [], 4001)

    serve(loop, main)


def test_cancelling_says_goodbye(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with anyio.create_task_group() as tasks, socket(app) as bystander:

            async def one() -> None:
                async with socket(app) as client:
                    await client.heard(1)
                    try:
                        tasks.cancel_scope.cancel()
                        await anyio.sleep_forever()
                    finally:
                        with anyio.CancelScope(shield=True):
                            await client.ended()
                            assert client.close_code == 1001
                            assert client.close_reason.startswith("retry=")

            await bystander.heard(1)
            tasks.start_soon(one)
            await anyio.sleep_forever()

    serve(loop, main)


def test_draining_sends_everybody_away_and_lets_nobody_in(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as client:
            await client.heard(1)
            feed.deliver(2)
            desk_of(feed).drain()
            await client.ended()
            assert client.numbers == [1, 2]
            assert client.close_code == 1001
        async with socket(app) as late, socket(app, answers=False) as simple:
            await late.ended()
            await simple.ended()
            assert late.status == 503
            assert simple.close_code == 1001

    serve(loop, main)


def test_the_end_of_the_feed_ends_its_clients(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as client:
            await client.heard(1)
            feed.stop()
            await client.ended()
            assert client.close_code == 1001
        async with socket(app) as late:
            await late.ended()
            assert late.status == 503

    serve(loop, main)


def test_places_are_bounded_and_given_back(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app), socket(app) as second:
            await second.heard(1)
            async with socket(app) as third, socket(app, answers=False) as fourth:
                await third.ended()
                await fourth.ended()
                assert third.status == 503
                assert any(b"retry-after" in dict(message.get("headers", [])) for message in third.sent)
                assert (fourth.accepted, fourth.close_code) == (True, 4013)
                assert fourth.close_reason.startswith("retry=")
        async with socket(app) as again:
            await again.heard(1)

    serve(loop, main, max_clients=2)


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("Unexpected ASGI message, after 'websocket.close'")])
def test_a_peer_that_fails_ends_quietly(loop: Loop, error: Exception) -> None:
    """Where a peer breaks the protocol, some servers close the connection themselves, and then raise RuntimeError."""

    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as client:
            await client.heard(1)
            client.failing = error
            feed.deliver(1)
            await client.ended()
        async with socket(app) as client:
            client.failing = OSError("gone")
            await client.ended()
            assert not client.accepted

    serve(loop, main)


def test_a_close_that_the_server_has_made_already_ends_quietly(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversing, "GOODBYE_SECONDS", 0.05)

    async def main(feed: HandFed, app: Starlette) -> None:
        async with socket(app) as client:
            await client.heard(1)
            client.failing = RuntimeError("Unexpected ASGI message 'websocket.close', after 'websocket.close'")
            desk_of(feed).drain()
            await client.ended()

    serve(loop, main)


def test_an_endpoint_of_the_application_decides_what_is_heard(loop: Loop) -> None:
    async def main(feed: HandFed, _: Starlette) -> None:
        async def endpoint(websocket: WebSocket) -> None:
            await websocket.accept()
            await serve_websocket(websocket, feed, channels=["a"], where={"match_id": [7, 8]})

        app = Starlette(routes=[WebSocketRoute("/mine/{anything}", endpoint)])
        async with socket(app, "/mine/x?tab=1&where.match_id=8") as client:
            assert (await client.heard(1))[0]["where"] == {"match_id": "8"}
            client.tell({"type": "subscribe", "where": {"match_id": 9}})
            client.tell({"type": "subscribe", "channels": ["b"]})
            client.tell({"type": "subscribe", "sub": "all"})
            said = await client.heard(4)
            assert [message.get("code") for message in said[1:3]] == ["forbidden", "forbidden"]
            assert said[3]["where"] == {"match_id": ["7", "8"]}
            assert said[3]["channels"] == ["a"]
        async with socket(app, "/mine/x?where.match_id=9") as client:
            await client.ended()
            assert client.close_code == 1008  # it was accepted already

    serve(loop, main)
