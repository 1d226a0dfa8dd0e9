"""Who may come in: origins, tokens, channels; and that no token is left where a server writes its log from."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from bridge.asgi import BadToken, Forbidden, Grant, allow, routes, serve_websocket, websocket_endpoint
from bridge.asgi.door import hide_token
from bridge.errors import SettingsError
from tests.support.asgi import HandFed, hand_fed, socket, stream, websocket_scope
from tests.support.loops import run_on
from tests.support.tokens import SECRET, token

JWT = {"jwt_key": SECRET}


def serve(main: Callable[[HandFed], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        async with hand_fed(**settings) as feed:
            await main(feed)

    run_on("asyncio", run)


async def status_of(app: Starlette, url: str, *headers: tuple[bytes, bytes], **more: Any) -> int:
    """101 for a handshake that was made; else its status over both protocols, which must agree."""
    async with socket(app, url, *headers, **more) as client:
        await client.begun()
        status = 101 if client.accepted else client.status
    assert status is not None
    async with stream(app, url.replace("/ws", "/sse", 1), *headers) as other:
        await other.until(lambda: other.status is not None)
        if not more:
            assert other.status == (200 if status == 101 else status)
    return status


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/ws", 101),
        ("/ws/a", 101),
        ("/ws/nope", 400),
        ("/ws?channel=nope", 400),
        ("/ws?unknown=1", 400),
        ("/ws?where.a=1&where.a=2", 400),
        ("/ws/match/7/stats?where.match_id=8", 400),
        ("/ws?after=%ff", 400),
        ("/ws?channel=\xe4", 400),
        ("/ws?token=x", 400),
        ("/ws?token=&after=", 101),
        ("/ws?after=garbage", 101),
    ],
)
def test_urls(url: str, status: int) -> None:
    async def main(feed: HandFed) -> None:
        assert await status_of(Starlette(routes=routes(feed)), url) == status

    serve(main)


def test_paths_have_a_prefix_where_the_application_wants_one() -> None:
    async def main(feed: HandFed) -> None:
        app = Starlette(routes=routes(feed, path="/live"))
        async with socket(app, "/live/ws/a") as client:
            assert (await client.heard(1))[0]["channels"] == ["a"]
        async with stream(app, "/sse/a") as other:
            await other.ended()
            assert other.status == 404

    serve(main)


@pytest.mark.parametrize(
    ("settings", "host", "origin", "status"),
    [
        ({}, "localhost:8000", "http://localhost:3000", 101),
        ({}, "localhost:8000", "https://evil.example", 403),
        ({}, "evil.example", "http://evil.example", 403),
        ({}, "localhost:8000", "null", 403),
        ({"allowed_origins": "https://*.example.com"}, "localhost:8000", "https://app.example.com", 101),
        ({"allowed_origins": "https://*.example.com"}, "localhost:8000", "https://example.org", 403),
    ],
)
def test_other_origins_are_refused(settings: dict[str, Any], host: str, origin: str, status: int) -> None:
    async def main(feed: HandFed) -> None:
        headers = (b"host", host.encode()), (b"origin", origin.encode())
        assert await status_of(Starlette(routes=routes(feed)), "/ws", *headers) == status

    serve(main, **settings)


@pytest.mark.parametrize(
    ("origin", "listed", "status"),
    [
        ("https://app.example", None, 101),
        ("https://evil.example", None, 403),
        ("https://evil.example", [], 403),
        ("http://localhost", None, 403),
        ("https://other.example", ["https://other.example"], 101),
        ("https://other.example", "https://other.example", 101),
    ],
)
def test_with_authentication_of_its_own_pages_of_the_same_origin_are_let_in(
    origin: str, listed: Any, status: int
) -> None:
    """A page of another origin would come with the user's cookies."""

    async def main(feed: HandFed) -> None:
        headers = (b"host", b"app.example"), (b"origin", origin.encode()), (b"cookie", b"session=1")
        app = Starlette(routes=routes(feed, authorize=lambda _: allow(), allowed_origins=listed))
        assert await status_of(app, "/ws", *headers) == status

        async def endpoint(websocket: WebSocket) -> None:
            await serve_websocket(websocket, feed, allowed_origins=listed)

        async with socket(Starlette(routes=[WebSocketRoute("/mine", endpoint)]), "/mine", *headers) as client:
            await client.begun()
            assert client.accepted == (status == 101)

    serve(main)


def test_an_origin_that_cannot_be_meant_is_an_error_at_once() -> None:
    async def main(feed: HandFed) -> None:
        with pytest.raises(SettingsError, match=r"allowed_origins: 'app\.example' is not allowed: "):
            routes(feed, allowed_origins=["app.example"])

    serve(main)


def test_tokens_by_the_settings() -> None:
    async def main(feed: HandFed) -> None:
        app = Starlette(routes=routes(feed))
        good = token({"channels": ["a"], "where": {"match_id": 7}})
        assert await status_of(app, "/ws") == 401
        assert await status_of(app, "/ws?token=garbage") == 401
        assert await status_of(app, f"/ws?token={token({'exp': 1})}") == 401
        assert await status_of(app, "/ws", (b"authorization", f"Bearer {good}".encode())) == 101
        assert await status_of(app, f"/ws/b?token={good}") == 403
        assert await status_of(app, f"/ws?where.match_id=8&token={good}") == 403
        async with socket(app, "/ws", subprotocols=["bridge.v1", f"bearer.{good}"]) as client:
            subscribed = (await client.heard(1))[0]
            assert (subscribed["channels"], subscribed["where"]) == (["a"], {"match_id": "7"})
            assert client.sent[0]["subprotocol"] == "bridge.v1"
            client.tell({"type": "subscribe", "channels": ["b"]})
            assert (await client.heard(2))[1]["code"] == "forbidden"

    serve(main, **JWT)


def test_a_token_among_the_subprotocols_is_found_where_the_server_takes_them_out_of_the_headers() -> None:
    async def main(feed: HandFed) -> None:
        app = Starlette(routes=routes(feed))
        offered = ["bridge.v1", f"bearer.{token({})}"]
        async with socket(app, "/ws", subprotocols=offered, among_headers=False) as client:
            await client.heard(1)
            assert client.sent[0]["subprotocol"] == "bridge.v1"

    serve(main, **JWT)


def raises(error: Exception) -> Callable[[HTTPConnection], Grant]:
    def authorize(_: HTTPConnection) -> Grant:
        raise error

    return authorize


async def from_header(connection: HTTPConnection) -> Grant:
    if "x-user" not in connection.headers:
        raise BadToken("who are you?")
    return allow(channels=["a*"])


@pytest.mark.parametrize(
    ("authorize", "status"),
    [
        (lambda _: allow(), 101),
        (lambda _: allow(channels=[]), 403),
        (lambda _: allow(where={"team": []}), 403),
        (lambda _: allow(expires_at=time.time() - 1), 401),
        (raises(BadToken("no")), 401),
        (raises(Forbidden("no")), 403),
        (raises(HTTPException(418, "no")), 418),
        (from_header, 401),
    ],
)
def test_authorization_by_the_application(authorize: Any, status: int) -> None:
    async def main(feed: HandFed) -> None:
        assert await status_of(Starlette(routes=routes(feed, authorize=authorize)), "/ws") == status

    serve(main)


def test_an_asynchronous_authorization_is_waited_for() -> None:
    async def main(feed: HandFed) -> None:
        app = Starlette(routes=routes(feed, authorize=from_header))
        assert await status_of(app, "/ws", (b"x-user", b"me")) == 101
        assert await status_of(app, "/ws/b", (b"x-user", b"me")) == 403

    serve(main)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"channels": "match_change"}, "channels: give a list of names, not str"),
        ({"channels": b"x"}, "channels: give a list of names, not bytes"),
        ({"channels": [1]}, "channels: a name is text, not int"),
        ({"channels": 1}, "channels: give a list of names, not int"),
        ({"where": [("a", 1)]}, "where: give fields and their values"),
        ({"where": {"m": b"7"}}, "where: 'm' is compared with text"),
        ({"where": {"m": {"a": 1}}}, "where: 'm' is compared with text"),
        ({"where": {"m": object()}}, "where: 'm' is compared with text"),
        ({"where": {1: 1}}, "where: a field is text, not int"),
        ({"where": {str(n): 1 for n in range(17)}}, "where compares too much"),
        ({"expires_at": "soon"}, "expires_at: give a number, seconds since 1970"),
        ({"expires_at": float("nan")}, "expires_at: give a number, seconds since 1970"),
    ],
)
def test_what_cannot_be_allowed_is_refused_by_its_name(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=r"^[^\n]*$") as refused:
        allow(**arguments)
    assert str(refused.value).startswith(said)


def test_what_allow_reads() -> None:
    found = allow(channels=(name for name in ("a*", "b")), where={"n": [2, 1, 1], "m": None, "no": []}, expires_at=5)
    assert found == Grant(("a*", "b"), (("m", ("null",)), ("n", ("1", "2")), ("no", ())), 5)


def test_path_parameters_are_conditions() -> None:
    async def main(feed: HandFed) -> None:
        app = Starlette(routes=[WebSocketRoute("/team/{team_id:int}/{channel}", websocket_endpoint(feed))])
        async with socket(app, "/team/3/a") as client:
            subscribed = (await client.heard(1))[0]
            assert (subscribed["channels"], subscribed["where"]) == (["a"], {"team_id": "3"})
        async with socket(app, "/team/3/a&where.x=1") as client:
            await client.ended()
            assert client.status == 400

    serve(main)


@pytest.mark.parametrize("source", ["state", "app", "function"])
def test_where_a_feed_is_found(source: str) -> None:
    async def main(feed: HandFed) -> None:
        app = Starlette(routes=routes(lambda _: feed) if source == "function" else routes())
        if source == "app":
            app.state.feed = feed
        exchange = socket(app)
        async with exchange as client:
            if source == "state":
                client.scope["state"]["feed"] = feed
            await client.heard(1)

    serve(main)


async def test_without_a_feed_the_error_says_what_to_do() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with stream(Starlette(routes=routes())) as client:
            await client.ended()
    assert caught.group_contains(RuntimeError, match="open one in the lifespan")


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (b"token=secret", b"token=***"),
        (b"channel=a&token=secret&after=1", b"channel=a&token=***&after=1"),
        (b"%74oken=secret", b"token=***"),
        (b"token=secret&token=secret", b"token=***&token=***"),
        (b"channel=a", b"channel=a"),
        (b"", b""),
    ],
)
def test_a_token_is_taken_out_of_the_scope(query: bytes, left: bytes) -> None:
    scope = websocket_scope("/ws") | {"query_string": query}
    hide_token(HTTPConnection(scope))
    assert scope["query_string"] == left


@pytest.mark.parametrize("settings", [{}, JWT, {"allowed_origins": "https://x.example"}])
def test_whatever_becomes_of_a_request_its_token_is_not_in_the_scope(settings: dict[str, Any]) -> None:
    async def main(feed: HandFed) -> None:
        for url in ("/ws", "/ws/nope", "/ws/a"):
            for secret in (token({}), "garbage"):
                async with socket(Starlette(routes=routes(feed)), f"{url}?token={secret}") as client:
                    await client.begun()
                    assert secret not in str(client.scope["query_string"])
                    assert secret not in str(client.sent)

    serve(main, **settings)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/ws", "GET", 426),
        ("/ws", "HEAD", 405),
        ("/ws/a", "POST", 405),
        ("/sse", "HEAD", 405),
        ("/sse", "POST", 405),
        ("/sse/a", "PROPFIND", 405),
        ("/sse", "OPTIONS", 405),
    ],
)
def test_a_token_is_not_left_in_the_scope_where_only_the_method_was_looked_at(
    path: str, method: str, status: int
) -> None:
    async def main(feed: HandFed) -> None:
        async with stream(Starlette(routes=routes(feed)), f"{path}?token=secret&after=1", method=method) as client:
            await client.ended()
            assert (client.status, client.scope["query_string"]) == (status, b"token=***&after=1")
            if status == 405:
                assert client.headers["allow"] == "GET"

    serve(main)


def test_the_routes_may_be_included_by_a_router_of_fastapi() -> None:
    async def main(feed: HandFed) -> None:
        app = FastAPI()
        app.include_router(APIRouter(routes=routes(feed)), prefix="/live")
        async with socket(app, "/live/ws/a") as client:
            await client.heard(1)
        async with stream(app, "/live/sse/a") as other:
            await other.body_holds("subscribed")
        async with stream(app, "/live/sse/a?token=secret", method="POST") as other:
            await other.ended()
            assert (other.status, other.scope["query_string"]) == (405, b"token=***")

    serve(main)


@given(query=st.binary(max_size=60) | st.text("channelwhrt.=&%+0aä", max_size=40).map(str.encode))
def test_no_query_is_an_error_of_the_server(query: bytes) -> None:
    async def main(feed: HandFed) -> None:
        app = Starlette(routes=routes(feed))
        async with socket(app) as client:
            client.scope["query_string"] = query
            await client.begun()
            assert client.accepted or client.status in (400, 403)

    serve(main)


def test_settings_are_read_where_the_feed_is(tmp_path: Path) -> None:
    async def main(feed: HandFed) -> None:
        with pytest.raises(SettingsError, match="BRIDGE_JWT_KEY_FILE"):
            routes(feed)

    serve(main, jwt_key_file=str(tmp_path / "none.pem"))
