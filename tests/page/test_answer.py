"""The page as it is sent: whole, with a policy that fits it, and only where there are events to show."""

import re
from base64 import b64encode
from hashlib import sha256

import pytest

from bridge.server.page import SCRIPTS
from tests.support.cli import ROOT
from tests.support.server import running_server

pytestmark = pytest.mark.usefixtures("quiet_log")

SOURCES = ROOT / "bridge" / "server" / "page"


async def ask(host: str = "localhost:8000", method: str = "GET") -> tuple[int, dict[str, str], str]:
    async with running_server(allowed_origins="https://bridge.example") as server:
        status, headers, body = await server.ask(f"{method} / HTTP/1.1\nHost: {host}")
        return status, headers, body.decode()


def policy(headers: dict[str, str]) -> dict[str, str]:
    directives = (part.partition(" ") for part in headers["content-security-policy"].split("; "))
    return {name: value for name, _, value in directives}


async def test_the_policy_names_exactly_the_one_script_and_the_one_style() -> None:
    status, headers, html = await ask()
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    allowed = policy(headers)
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert allowed[f"{tag}-src"] == f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
        assert html.count(f"<{tag}") == html.count(f"</{tag}>") == 1
    assert "page.css */" not in html
    assert "page.js */" not in html


async def test_the_policy_allows_nothing_else() -> None:
    _, headers, _ = await ask()
    allowed = policy(headers)
    del allowed["script-src"], allowed["style-src"]
    assert allowed == {
        "default-src": "'none'",
        "connect-src": "'self' ws://localhost:8000 wss://localhost:8000",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "connect"),
    [
        ("bridge.example", "'self' ws://bridge.example wss://bridge.example"),
        ("[::1]:8000", "'self'"),
        ("127.0.0.1", "'self' ws://127.0.0.1 wss://127.0.0.1"),
    ],
)
async def test_it_may_talk_to_the_host_it_came_from(host: str, connect: str) -> None:
    _, headers, _ = await ask(host)
    assert policy(headers)["connect-src"] == connect


async def test_nothing_is_loaded_from_elsewhere_and_no_text_becomes_markup() -> None:
    _, _, html = await ask()
    allowed = {"http://www.w3.org/2000/svg"}  # a name, which nobody fetches
    assert set(re.findall(r"""(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^"'\s)]*""", html)) <= allowed
    assert not re.search(r"\b(src|srcset|action|@import|integrity)\s*[=(]", html)
    assert re.findall(r'href="([^"]*)"', html) == ["data:,", "#listen"]
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "localStorage"):
        assert way not in html
    assert not re.search(r'\s(on[a-z]+|style)="', html)


async def test_every_part_is_in_it() -> None:
    _, _, html = await ask()
    assert sorted(path.stem for path in SOURCES.glob("*.js")) == sorted((*SCRIPTS, "client"))
    assert all((SOURCES / f"{name}.js").read_text() in html for name in SCRIPTS)


async def test_the_client_in_it_is_the_one_for_everybody_without_its_exports() -> None:
    _, _, html = await ask()
    client = (SOURCES / "client.js").read_text()
    assert len(re.findall(r"\bexport\b", client)) == 2
    assert not re.search(r"^\s*import\b", client, re.MULTILINE)
    inside = client.replace("export ", "")
    assert f"const {{ BridgeError, connect }} = (() => {{\n{inside}\nreturn {{ BridgeError, connect }};\n}})();" in html


async def test_only_for_reading_and_only_where_events_are_served() -> None:
    assert (await ask(method="POST"))[0] == 405
    assert (await ask("evil.example"))[0] == 403
    async with running_server(with_hub=False) as server:
        assert (await server.ask("GET / HTTP/1.1\nHost: localhost"))[0] == 404
    async with running_server() as server:
        client = await server.connect()
        await client.send(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.answer(head_only=True))[0] == 200
    async with running_server(jwt_key="k" * 32) as server:
        assert (await server.ask("GET / HTTP/1.1\nHost: any.example"))[0] == 200
