"""Tokens at the door of a running server: who comes in, what they hear, when they have to go, and what is logged."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from bridge.server.key_source import LOOK_SECONDS
from tests.support.cli import run
from tests.support.server import RawClient, RunningServer, happening, running_server, upgrade
from tests.support.tokens import SECRET, forged, token

P256 = ec.generate_private_key(ec.SECP256R1())
OTHER_P256 = ec.generate_private_key(ec.SECP256R1())


async def message(client: RawClient) -> dict[str, Any]:
    said = await client.message()
    assert isinstance(said, dict), said
    return said


async def refusal(server: RunningServer, target: str, *headers: str) -> tuple[int, dict[str, str], str]:
    client = await server.connect()
    await client.send(upgrade(target, *headers))
    status, answered, body = await client.answer()
    await client.close()
    return status, answered, body.decode()


async def test_a_client_hears_what_its_token_allows() -> None:
    good = token({"channels": ["a", "match_*"], "where": {"m": [7, 8]}})
    async with running_server(jwt_key=SECRET) as server:
        client = await server.websocket("/ws?where.m=7", "Sec-WebSocket-Protocol: bridge.v1, bearer." + good)
        subscribed = await message(client)
        assert (subscribed["channels"], subscribed["where"]) == (["a", "match_change"], {"m": "7"})
        server.hub.deliver([happening(1, "a", m=8), happening(2, "b", m=7), happening(3, "a"), happening(4, "a", m=7)])
        assert (await message(client))["payload"] == {"n": 4, "m": 7}
        wide = await server.websocket(f"/ws?token={good}")
        assert (await message(wide))["where"] == {"m": ["7", "8"]}
        server.hub.deliver([happening(5, "a", m=9), happening(6, "a", m=8)])
        assert (await message(wide))["payload"] == {"n": 6, "m": 8}


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/ws?channel=b", 403),
        ("/ws?channel=a&channel=b", 403),
        ("/ws?channel=a&where.m=9", 403),
        ("/ws/match/7/stats", 101),
        ("/ws?channel=nope", 400),
    ],
)
async def test_what_contradicts_a_token_is_refused(target: str, status: int) -> None:
    good = token({"channels": "a", "where": {"m": 7}})
    async with running_server(jwt_key=SECRET) as server:
        client = await server.connect()
        await client.send(upgrade(target, f"Authorization: Bearer {good}"))
        assert (await client.answer())[0] == status


async def test_a_message_is_bound_by_the_token_as_the_url_is() -> None:
    async with running_server(jwt_key=SECRET) as server:
        client = await server.websocket("/ws", f"Authorization: Bearer {token({'channels': ['a'], 'where': {'m': 7}})}")
        await message(client)
        for asked in ({"channels": ["b"]}, {"channels": ["a"], "where": {"m": 8}}):
            await client.send_frame(json.dumps({"type": "subscribe", "sub": "s", **asked}).encode())
            assert (await message(client))["code"] == "forbidden"
        await client.send_frame(b'{"type":"subscribe","sub":"s","where":{"n":1}}')
        assert (await message(client))["where"] == {"m": "7", "n": "1"}


async def test_refusals_challenge_and_say_why() -> None:
    async with running_server(jwt_key=SECRET) as server:
        for bad, reason in (
            ("", "a token is needed"),
            (token({"exp": 1}), "the token has expired"),
            (token({}, SECRET + "x"), "the token's signature does not fit"),
            (forged({"alg": "none"}, {}), "the token's algorithm is not accepted here"),
        ):
            status, headers, body = await refusal(server, f"/ws?token={bad}")
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert body.startswith(reason)
            assert body.count("\n") == 1
            assert (await server.ask(f"GET /sse?token={bad} HTTP/1.1\nHost: localhost"))[0] == 401
        assert (await refusal(server, f"/ws?token={token({})}", f"Authorization: Bearer {token({'x': 1})}"))[0] == 400


async def test_without_authentication_a_clients_token_is_refused() -> None:
    async with running_server() as server:
        assert (await refusal(server, "/ws?token=x"))[0] == 400
        assert (await refusal(server, "/ws", "Sec-WebSocket-Protocol: bridge.v1, bearer.x"))[0] == 400
        assert (await refusal(server, "/ws", "Authorization: Bearer x"))[0] == 101


async def test_an_expired_token_closes_its_connection_and_does_not_come_in_again() -> None:
    expires_at = time.time() + 4  # so that both have come by then, also on a busy machine
    short = token({"exp": expires_at})
    async with running_server(jwt_key=SECRET) as server:
        client = await server.websocket(f"/ws?token={short}")
        lasting = await server.websocket(f"/ws?token={token({})}")
        await message(client)
        await message(lasting)
        assert await client.message() == ("close", (4001, "the token has expired"))
        assert expires_at <= time.time() < expires_at + 20
        assert (await refusal(server, f"/ws?token={short}"))[0] == 401
        server.hub.deliver([happening(1)])
        assert (await message(lasting))["type"] == "notification"


def jwks(**keys: ec.EllipticCurvePrivateKey) -> str:
    return json.dumps(
        {"keys": [{**ECAlgorithm.to_jwk(k.public_key(), as_dict=True), "kid": kid} for kid, k in keys.items()]}
    )


async def test_a_new_key_is_believed_soon_and_an_old_one_no_more(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(one=P256))
    old, new = (f"/ws?token={token({}, key, 'ES256')}" for key in (P256, OTHER_P256))
    async with running_server(jwks_file=str(path)) as server:
        await message(await server.websocket(old))
        assert (await refusal(server, new))[0] == 401
        (tmp_path / "new").write_text(jwks(two=OTHER_P256))
        (tmp_path / "new").replace(path)
        with trio.fail_after(LOOK_SECONDS + 30):
            while (await refusal(server, new))[0] != 101:  # noqa: ASYNC110, the file is looked at when somebody comes
                await trio.sleep(0.05)
        assert (await refusal(server, old))[0] == 401


async def test_nothing_that_a_client_does_with_a_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hidden = "hunter2"
    async with running_server(jwt_key=SECRET) as server:
        for bad in (token({hidden: hidden}), token({"channels": 7, hidden: 1}), hidden, f"{hidden}.x.y"):
            for target, *headers in (
                (f"/ws?token={bad}",),
                (f"/ws?token={bad}&nope={hidden}",),
                ("/ws", f"Authorization: Bearer {bad}"),
                ("/ws", f"Sec-WebSocket-Protocol: bridge.v1, bearer.{bad}"),
            ):
                _, answered, body = await refusal(server, target, *headers)
                assert bad not in str(answered) + body
            client = await server.connect()
            await client.send(f"GET /ws?token={bad}\r\nAuthorization: Bearer {bad}\r\n\r\n".encode())
            assert bad.encode() not in await client.rest()
    assert hidden not in caplog.text
    assert "eyJ" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"BRIDGE_AUTH": "jwt"}, "BRIDGE_AUTH=jwt needs a key"),
        ({"BRIDGE_JWT_KEY": "short"}, "BRIDGE_JWT_KEY: the value is not allowed"),
        ({"BRIDGE_JWT_KEY_FILE": "/nowhere"}, "BRIDGE_JWT_KEY_FILE: '/nowhere' cannot be used: No such file"),
        ({"BRIDGE_JWKS_FILE": "/dev/null"}, "BRIDGE_JWKS_FILE: '/dev/null' cannot be used: it is no regular file"),
        ({"BRIDGE_JWT_KEY": SECRET, "BRIDGE_JWKS_FILE": "/x"}, "BRIDGE_JWKS_FILE cannot be used together with"),
        ({"BRIDGE_HOST": "0.0.0.0"}, "BRIDGE_HOST=0.0.0.0 can be reached by others"),
        ({"BRIDGE_ALLOWED_ORIGINS": "example.com"}, "BRIDGE_ALLOWED_ORIGINS: 'example.com' is not allowed"),
        ({"BRIDGE_TRUSTED_PROXIES": "proxy"}, "BRIDGE_TRUSTED_PROXIES: 'proxy' is not allowed"),
    ],
)
def test_bad_settings_end_the_process_with_one_line(tmp_path: Path, settings: dict[str, str], part: str) -> None:
    ended = run(tmp_path, ["serve"], **settings)
    assert ended.returncode == 2
    assert part in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert SECRET not in ended.stderr
