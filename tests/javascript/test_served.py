"""`/client.js` and `/client.d.ts`, as everybody may read them."""

from typing import Any

import pytest

from tests.support.cli import ROOT
from tests.support.server import running_server

pytestmark = pytest.mark.usefixtures("quiet_log")

PAGE = ROOT / "bridge" / "server" / "page"
FILES = [("client.js", "text/javascript; charset=utf-8"), ("client.d.ts", "text/plain; charset=utf-8")]


@pytest.mark.parametrize("settings", [{}, {"jwt_key": "k" * 32}], ids=["none", "jwt"])
@pytest.mark.parametrize(("name", "content_type"), FILES)
async def test_it_is_read_without_a_token_and_by_every_page_that_is_welcome(
    name: str, content_type: str, settings: dict[str, Any]
) -> None:
    welcome = "https://app.example"
    async with running_server(allowed_origins=welcome, **settings) as server:
        for origin in ("", f"\nOrigin: {welcome}"):
            status, headers, body = await server.ask(f"GET /{name}?v=1 HTTP/1.1\nHost: localhost{origin}")
            assert (status, body) == (200, (PAGE / name).read_bytes())
            assert headers["content-type"] == content_type
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-cache"
            assert headers["access-control-allow-origin"] == "*"


async def test_who_has_it_is_told_so() -> None:
    async with running_server() as server:
        head = "GET /client.js HTTP/1.1\nHost: localhost"
        _, headers, body = await server.ask(head)
        tag = headers["etag"]
        for known in (tag, f'"other", {tag}', f"W/{tag}"):
            status, again, nothing = await server.ask(f"{head}\nIf-None-Match: {known}")
            assert (status, nothing, again["etag"], again["cache-control"]) == (304, b"", tag, "no-cache")
            assert again["access-control-allow-origin"] == "*"
            assert "content-length" not in again
        for other in ('"other"', (await server.ask(head.replace(".js", ".d.ts")))[1]["etag"]):
            assert (await server.ask(f"{head}\nIf-None-Match: {other}"))[::2] == (200, body)
        client = await server.connect()
        for _ in range(2):  # the connection goes on after an answer without a body
            await client.send(f"{head}\nIf-None-Match: {tag}\n\n".replace("\n", "\r\n").encode())
            assert (await client.answer(head_only=True))[0] == 304


@pytest.mark.parametrize(("name", "content_type"), FILES)
async def test_only_for_reading_only_from_here_and_only_where_events_are_served(name: str, content_type: str) -> None:
    async with running_server() as server:
        for method in ("POST", "OPTIONS", "DELETE"):
            status, headers, _ = await server.ask(f"{method} /{name} HTTP/1.1\nHost: localhost")
            assert (status, headers["allow"]) == (405, "GET, HEAD")
        client = await server.connect()
        await client.send(f"HEAD /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status, headers, _ = await client.answer(head_only=True)
        assert (status, headers["content-type"]) == (200, content_type)
        assert int(headers["content-length"]) == len((PAGE / name).read_bytes())
        assert (await server.ask(f"GET /{name} HTTP/1.1\nHost: rebound.example"))[0] == 403
        assert (await server.ask(f"GET /{name} HTTP/1.1\nHost: localhost\nOrigin: https://evil.example"))[0] == 403
        assert (await server.ask(f"GET /{name}/x HTTP/1.1\nHost: localhost"))[0] == 404
    async with running_server(with_hub=False) as server:
        assert (await server.ask(f"GET /{name} HTTP/1.1\nHost: localhost"))[0] == 404
