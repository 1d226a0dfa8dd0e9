"""What a real process writes to its log while clients do what they do: no token, and nothing for each client."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.process import BridgeProcess, bridge, wait_until
from tests.support.server import client_frame, upgrade
from tests.support.stack import Stack
from tests.support.tokens import SECRET, forged, token

GOOD = token({"exp": time.time() + 3600, "channels": ["a"]})
BAD = [token({"exp": 1}), forged({"alg": "none"}, {}), "opaque-secret-4711"]


@pytest.fixture
def settings(stack: Stack) -> dict[str, str]:
    return stack.environment(BRIDGE_CHANNELS="a,b", BRIDGE_JWT_KEY=SECRET, BRIDGE_LOG_LEVEL="debug")


def lines(running: BridgeProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in running.log().splitlines()]


def requests(secret: str) -> Iterator[bytes]:
    """A token in its place, in every wrong one, and in what is no request at all."""
    bearer, protocol = f"Authorization: Bearer {secret}", f"Sec-WebSocket-Protocol: bridge.v1, bearer.{secret}"
    yield upgrade(f"/ws?token={secret}")
    yield upgrade("/ws", bearer)
    yield upgrade("/ws", protocol)
    yield upgrade("/ws", bearer, "Origin: https://evil.example")
    yield upgrade(f"/ws?token={secret}&token={secret}")
    yield upgrade(f"/ws?tokn={secret}")
    yield upgrade(f"/ws?{secret}")
    yield upgrade(f"/ws?channel={secret}")
    yield upgrade(f"/ws?channel=b&token={secret}")
    yield upgrade(f"/ws?where.{secret}=1&token={secret}")
    yield upgrade(f"/ws?after={secret}&token={secret}")
    yield upgrade(f"/ws/{secret}")
    yield upgrade(f"/ws/match/{secret}/stats?token=%zz{secret}")
    yield upgrade("/ws", f"Authorization: Basic {secret}", f"Sec-WebSocket-Protocol: {secret}")
    yield upgrade("/ws", f"Authorization: {secret}\r\n {secret}")
    yield upgrade(f"/ws?token={secret}", f"Sec-WebSocket-Key: {secret}")
    yield upgrade("/ws", bearer, host=secret)
    for target in (f"/sse?token={secret}", f"/sse?token={secret}&x=1", f"/{secret}", f"/status?token={secret}"):
        yield f"GET {target} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {secret}\r\n\r\n".encode()
    yield f"GET /sse HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\nX: {secret * 200}\r\n\r\n".encode()
    yield f"POST /ws?token={secret} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello".encode()
    yield f"GET /ws?token={secret} HTTP/1.1\r\nHost: localhost\r\n{secret}\r\n\r\n".encode()
    yield f"GET /ws?token={secret}".encode()
    yield f"GET /ws?token={secret} {secret} HTTP/1.1\r\n\r\n".encode()
    yield f"{secret}\r\n\r\n".encode()
    yield f"\x16\x03\x01{secret}".encode()
    shaken = upgrade(f"/ws?token={secret}", protocol)
    yield shaken + client_frame(secret.encode())
    yield shaken + client_frame(json.dumps({"type": secret, "after": secret}).encode())
    yield shaken + client_frame(json.dumps({"type": "subscribe", "channels": [secret], "token": secret}).encode())
    yield shaken + client_frame(secret.encode(), opcode=3)
    yield shaken + client_frame(b"\x03\xe8" + secret.encode()[:100], opcode=8)
    yield shaken + secret.encode()


def ask(running: BridgeProcess, data: bytes) -> None:
    """Send this, take what comes, and reset the connection."""
    parts = urlsplit(running.url)
    with socket.create_connection((str(parts.hostname), parts.port or 0), 10) as connection:
        connection.sendall(data)
        connection.settimeout(0.02)
        try:
            while connection.recv(65536):
                pass
        except OSError:
            pass


@pytest.mark.parametrize(("log_format", "secrets"), [("json", [GOOD, *BAD]), ("text", [GOOD])], ids=["json", "text"])
def test_no_token_is_in_the_log(stack: Stack, settings: dict[str, str], log_format: str, secrets: list[str]) -> None:
    with bridge(settings | {"BRIDGE_LOG_FORMAT": log_format}, "serve") as running:
        running.wait_until_ready()
        begun = len(running.log().splitlines())
        for secret in secrets:
            for data in requests(secret):
                ask(running, data)
        answers = b"".join(running.get(path)[1] for path in ("/health", "/status", "/metrics")).decode()
        wait_until(lambda: json.loads(running.get("/health")[1])["clients"] == 0, lambda: "clients stay")
        later = running.log().splitlines()[begun:]
        assert running.end() == 0
        log = running.log()
    for part in filter(None, ".".join([*secrets, SECRET]).split(".")):
        assert part not in log
        assert part not in answers
    assert "was answered with 401" in log
    debug = '"level": "DEBUG"' if log_format == "json" else " DEBUG "
    assert [line for line in later if debug not in line] == []
    if log_format == "json":
        assert all(isinstance(json.loads(line), dict) for line in log.splitlines())


def test_json_through_a_failure_of_redis(stack: Stack, settings: dict[str, str]) -> None:
    del settings["BRIDGE_JWT_KEY"]
    quick = {"BRIDGE_LOG_FORMAT": "json", "BRIDGE_LOG_LEVEL": "info", "BRIDGE_RETRY_SECONDS": "0.2"}
    with bridge(settings | quick, "serve", "--no-listener") as running:
        running.wait_until_ready()  # directly: nobody fills the log
        with bridge(settings | quick, "listen"):
            wait_until(lambda: running.status()["mode"] == "redis", running.log)
            for _ in range(20):
                with running.client():
                    pass
            stack.redis.kill()
            try:
                wait_until(lambda: running.status()["mode"] == "direct", running.log)
            finally:
                stack.redis.start()
            wait_until(lambda: running.status()["mode"] == "redis", running.log)
        assert running.end() == 0
        found = lines(running)
    assert len({line["channel_set"] for line in found}) == 1
    failed = [line for line in found if line["message"].startswith("Redis connection failed: ")]
    assert [line["level"] for line in failed] == ["WARNING", "WARNING"]
    assert all(line["link"] == "redis" and line["reason"] in line["message"] for line in failed)
    modes = [line["mode"] for line in found if "successful" in line["message"]]
    assert modes == ["direct", "redis", "direct", "redis"]
    errors = [line for line in found if line["message"].startswith("Connection error: ")]
    assert errors
    assert {line["error"] for line in errors} <= {"RedisLost", "RedisUnusable", "LogRefused"}
    assert {line["link"] for line in errors} == {"redis"}
    assert isinstance(errors[0]["stack"], str), "the first failure of a row has its stack"
    again = [line for line in found if line["message"].startswith("Reconnecting in ")]
    assert all(line["message"] == f"Reconnecting in {line['seconds']:g} seconds..." for line in again)
    assert len(again) == len(errors)
    pending = [line for line in found if "may come late" in line["message"]]
    assert all(set(line) >= {"after", "before", "reason"} for line in pending)
    assert len(found) < 60, "nothing is logged for each client"
