"""Server-sent events of a Starlette application: the bridge's blocks and headers, on every event loop."""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from bridge import EventFeed
from bridge.asgi import allow, event_stream, feed_of, routes, sse_endpoint
from bridge.asgi import sse as streaming
from bridge.asgi import stay as staying
from bridge.asgi.desk import NoPlace, desk_of
from tests.support.asgi import HandFed, hand_fed, stream
from tests.support.loops import LOOPS, Loop, run_on

pytestmark = pytest.mark.parametrize("loop", LOOPS)

Main = Callable[[HandFed, Starlette], Awaitable[None]]


def serve(loop: Loop, main: Main, **settings: Any) -> None:
    async def run() -> None:
        async with hand_fed(**settings) as feed:
            await main(feed, Starlette(routes=routes(feed)))

    run_on(loop, run)


def test_blocks_and_headers(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with stream(app, "/sse/match/7/stats") as client:
            await client.body_holds("event: subscribed\nid: 100-0\ndata: {")
            assert client.body.startswith("retry: ")
            headers = client.headers
            assert client.status == 200
            assert headers["content-type"] == "text/event-stream; charset=utf-8"
            assert headers["cache-control"] == "no-store, no-transform"
            assert headers["x-accel-buffering"] == "no"
            assert headers["vary"] == "Origin"
            assert "content-length" not in headers
            feed.deliver(1, match_id=8)
            feed.deliver(1, match_id=7)
            await client.body_holds('id: 100-2\ndata: {"type":"notification","id":"100-2"')
            assert '"100-1"' not in client.body
            assert "event: notification" not in client.body

    serve(loop, main)


def test_last_event_id_wins_over_after(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        feed.deliver(3)
        async with stream(app, "/sse/a?after=100-0", (b"last-event-id", b"100-2")) as client:
            await client.body_holds("id: 100-3\n")
            assert '"id":"100-2"' not in client.body

    serve(loop, main)


def test_positions_are_comments(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with stream(app) as client:
            await client.body_holds("subscribed")
            for _ in range(3):
                feed.hub.tick()
            await client.body_holds(":\nid: 100-0\n\n")

    serve(loop, main)


def test_where_there_is_no_place_the_stream_ends_at_once(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with stream(app) as client:
            await client.body_holds("subscribed")
            async with stream(app) as second:
                await second.ended()
                assert (second.status, second.whole) == (200, True)
                assert second.body.startswith("retry: ")
                assert "subscribed" not in second.body

    serve(loop, main, max_clients=1)


def test_draining_ends_streams(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with stream(app) as client:
            await client.body_holds("subscribed")
            feed.deliver(1)
            desk_of(feed).drain()
            await client.ended()
            assert client.whole
            assert client.body.endswith("000\n\n")
            assert "id: 100-1\n" in client.body

    serve(loop, main)


def test_an_expired_token_ends_the_stream(loop: Loop) -> None:
    async def main(feed: HandFed, _: Starlette) -> None:
        app = Starlette(routes=routes(feed, authorize=lambda _: allow(expires_at=time.time() + 0.1)))
        async with stream(app) as client:
            await client.ended()
            assert client.whole

    serve(loop, main)


def test_a_peer_that_does_not_read_is_dropped(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staying, "PEER_SECONDS", 0.05)
    monkeypatch.setattr(streaming, "GOODBYE_SECONDS", 0.05)

    async def main(feed: HandFed, app: Starlette) -> None:
        async with stream(app) as client:
            await client.body_holds("subscribed")
            client.blocked = True
            feed.deliver(10)
            await client.ended(5.0)

    serve(loop, main)


def test_a_peer_that_fails_ends_quietly(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with stream(app) as client:
            await client.body_holds("subscribed")
            client.failing = OSError("gone")
            feed.deliver(1)
            await client.ended()
        async with stream(app) as client:
            client.failing = OSError("gone")
            await client.ended()

    serve(loop, main)


def test_cancelling_ends_the_body(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        async with stream(app) as client:
            await client.body_holds("subscribed")
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks, stream(app) as other:
                    tasks.start_soon(_cancel_when, other, scope)
                    await anyio.sleep_forever()
            assert client.returned is False
            assert other.whole

    serve(loop, main)


async def _cancel_when(other: Any, scope: anyio.CancelScope) -> None:
    await other.body_holds("subscribed")
    scope.cancel()


def test_methods(loop: Loop) -> None:
    async def main(feed: HandFed, app: Starlette) -> None:
        for method, status in (("HEAD", 405), ("POST", 405), ("OPTIONS", 405)):
            async with stream(app, "/sse", method=method) as client:
                await client.ended()
                assert client.status == status
        asking = (b"origin", b"http://localhost:3000"), (b"access-control-request-method", b"GET")
        async with stream(app, "/sse", *asking, method="OPTIONS") as client:
            await client.ended()
            assert client.status == 200
            assert client.headers["access-control-allow-origin"] == "http://localhost:3000"
            assert "Last-Event-ID" in client.headers["access-control-allow-headers"]
        async with stream(app, "/sse", (b"origin", b"http://evil.example"), *asking[1:], method="OPTIONS") as client:
            await client.ended()
            assert client.status == 403
            assert "access-control-allow-origin" not in client.headers
        async with stream(app, "/ws/a") as client:
            await client.ended()
            assert client.status == 426

    serve(loop, main)


@pytest.mark.parametrize("kind", ["routes", "endpoint"])
def test_where_there_is_no_feed_methods_and_origins_are_as_ever(loop: Loop, kind: str) -> None:
    def nowhere(_: HTTPConnection) -> EventFeed:
        raise NoPlace("closed")

    async def main() -> None:
        origins = iter(["https://*.x.example"])
        all_methods = ["GET", "HEAD", "POST", "OPTIONS"]
        app = Starlette(
            routes=routes(nowhere, allowed_origins=origins)
            if kind == "routes"
            else [Route("/sse", sse_endpoint(nowhere, allowed_origins=origins), methods=all_methods)]
        )
        listed, other = (b"origin", b"https://a.x.example"), (b"origin", b"https://evil.example")
        asking = (b"access-control-request-method", b"GET")
        for method, headers, status in (
            ("GET", [], 200),
            ("HEAD", [], 405),
            ("POST", [], 405),
            ("OPTIONS", [], 405),
            ("OPTIONS", [asking], 200),
        ):
            for origin in (listed, other):
                forbidden = method == "OPTIONS" and origin is other
                async with stream(app, "/sse?token=secret", origin, *headers, method=method) as client:
                    await client.ended()
                    assert client.status == (403 if forbidden else status)
                    assert client.headers.get("allow") == ("GET" if client.status == 405 else None)
                    assert client.headers["vary"] == "Origin"
                    seen = client.headers.get("access-control-allow-origin")
                    assert seen == (None if origin is other else "https://a.x.example")
                    assert client.body.startswith("retry: ") == (method == "GET")
                    assert b"secret" not in client.scope["query_string"]

    run_on(loop, main)


def test_an_endpoint_of_the_application(loop: Loop) -> None:
    async def main(feed: HandFed, _: Starlette) -> None:
        async def endpoint(request: Request) -> Response:
            return await event_stream(request, feed, where={"match_id": request.path_params["match_id"]})

        app = Starlette(routes=[Route("/mine/{match_id:int}", endpoint)])
        async with stream(app, "/mine/7?tab=1&channel=a") as client:
            await client.body_holds('"channels":["a"],"where":{"match_id":"7"}')
        async with stream(app, "/mine/7?where.match_id=8") as client:
            await client.ended()
            assert client.status == 403

    serve(loop, main)


def test_an_endpoint_of_a_fastapi_application(loop: Loop) -> None:
    async def main(feed: HandFed, _: Starlette) -> None:
        app = FastAPI()
        app.state.feed = feed

        @app.get("/mine/{match_id}")
        async def endpoint(request: Request, match_id: int, feed: Annotated[EventFeed, Depends(feed_of)]) -> Response:
            return await event_stream(request, feed, channels=["a"], where={"match_id": match_id})

        async with stream(app, "/mine/7") as client:
            await client.body_holds('"channels":["a"],"where":{"match_id":"7"}')
            feed.deliver(1, match_id=7)
            await client.body_holds("id: 100-1\n")

    serve(loop, main)
