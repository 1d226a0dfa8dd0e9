"""The client in Node, by `ws`, at real bridges that are killed, drained, full, too slow for it, and want new tokens or
none: every event comes once. At a peer that falls silent, the process ends when the stream does."""

import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Servers
from tests.support.fleet import servers as servers
from tests.support.javascript import OWN_WEBSOCKET, flow, following, worker_and_writer
from tests.support.process import bridge as running_bridge
from tests.support.process import wait_until
from tests.support.tokens import SECRET, token


def has_own() -> bool:
    """Whether this Node has a WebSocket: Debian 12's has none."""
    if (node := shutil.which("node")) is None:
        return False
    return subprocess.run([node, OWN_WEBSOCKET, "--eval", ""], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("kind", ["loop", "callbacks", *(["own"] if has_own() else [])])
def test_a_bridge_that_is_killed_and_drained_and_comes_back(servers: Servers, node_modules: Path, kind: str) -> None:
    with (
        worker_and_writer(servers, kind) as (fleet, url, writer),
        following(None if kind == "own" else node_modules, url, loop=kind == "loop") as follower,
    ):
        follower.until_listening()
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            follower.until_has(flow(writer))
            fleet.processes["worker"].end(number)
            flow(writer)
            fleet.whole_again()
        follower.until_has(flow(writer))
        follower.judge(writer)
        reasons = [change["why"] for change in follower.changes if change["state"] == "waiting"]
        assert any(why.startswith("closed with 1001 retry=") for why in reasons)
        assert any(why.startswith("closed with 1006") for why in reasons)
        assert "the bridge cannot be reached" in reasons


def test_a_program_that_was_stopped_and_lost_its_place(servers: Servers, node_modules: Path) -> None:
    with (
        worker_and_writer(servers, "slow", BRIDGE_CLIENT_BUFFER_BYTES="65536") as (fleet, url, writer),
        following(node_modules, url, loop=True) as follower,
    ):
        follower.until_listening()
        follower.until_has(flow(writer))
        os.kill(follower.process.pid, signal.SIGSTOP)
        try:
            noise = 'format(\'{"n": -%s, "pad": "%s"}\', i, repeat(\'x\', 7000))'
            fill = f"SELECT pg_notify('gameclock_change', {noise}) FROM generate_series(1, 2000) AS i"
            wait_until(
                lambda: fleet.postgres.execute(fill) and fleet.processes["worker"].status()["slow_disconnects"],
                lambda: "nobody is too slow",
            )
        finally:
            os.kill(follower.process.pid, signal.SIGCONT)
        follower.until_has(flow(writer))
        writer.stop()
        follower.until_has(writer.last)
        assert any("closed with 4008" in change.get("why", "") for change in follower.changes)
        numbers = [number for number in follower.numbers if number > 0]
        assert numbers == [number for number in writer.committed if number >= numbers[0]]
        assert follower.of_type("gap") == []


def test_a_loop_that_is_slower_than_the_events(servers: Servers, node_modules: Path) -> None:
    options = {"loop": True, "delayMilliseconds": 8, "bufferCharacters": 4000}
    with (
        worker_and_writer(servers, "loop") as (_, url, writer),
        following(node_modules, url, **options) as follower,
    ):
        follower.until_listening()
        follower.until(lambda: follower.states.count("paused") >= 3)
        follower.judge(writer)
        assert "waiting" not in follower.states


def test_tokens_that_expire(servers: Servers, node_modules: Path) -> None:
    with (
        worker_and_writer(servers, "token", BRIDGE_JWT_KEY=SECRET) as (_, url, writer),
        following(node_modules, url, loop=True, tokens={"key": SECRET, "seconds": 4}) as follower,
    ):
        follower.until_listening()
        follower.until(lambda: follower.states.count("listening") >= 3)
        follower.judge(writer)
        assert {change.get("why") for change in follower.changes} == {None, "closed with 4001 the token has expired"}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a bridge that wants tokens and has room for one client."""
    settings = {"BRIDGE_JWT_KEY": SECRET, "BRIDGE_MAX_CLIENTS": "1"}
    settings["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("home"))
    with running_bridge(settings, "serve", "--port", "0") as bridge:
        bridge.wait_until_ready()
        yield bridge.url


@pytest.mark.parametrize(
    ("path", "options", "status", "why"),
    [
        ("", {}, 401, "a token is needed"),
        ("", {"token": "nonsense"}, 401, "the token is no signed JWT"),
        ("", {"tokens": {"key": "another key of 32 bytes or more..", "seconds": 60}}, 401, "signature"),
        ("", {"tokens": {"key": SECRET, "seconds": 60}, "channels": ["nothing"]}, 400, "unknown channel 'nothing'"),
        ("", {"token": token({"channels": ["match_change"]}), "channels": ["clock_change", "match_change"]}, 400, ""),
        ("", {"token": token({"channels": ["match_change"]}), "channels": "playclock_change"}, 403, "playclock_change"),
        ("/ws/a/b/c", {}, 404, "nothing at this path"),
    ],
)
def test_refusals_say_why_and_are_final(
    strict: str, node_modules: Path, path: str, options: dict[str, object], status: int, why: str
) -> None:
    with following(node_modules, strict + path, loop=True, **options) as follower:
        follower.until(lambda: "closed" in follower.states)
        error = follower.changes[-1]["error"]
        assert (error["status"], error["code"]) == (status, None)
        assert error["message"].startswith(f"refused with {status}: ")
        assert why in error["message"]
        follower.until(lambda: "thrown" in follower.lines[-1])
        assert follower.process.wait(60) == 0


def test_a_full_bridge_says_when_to_come_back(strict: str, node_modules: Path) -> None:
    tokens = {"key": SECRET, "seconds": 600}
    with following(node_modules, strict, tokens=tokens) as first:
        first.until_listening()
        with following(node_modules, strict, tokens=tokens) as second:
            second.until(lambda: "waiting" in second.states)
            told = second.changes[second.states.index("waiting")]
            assert told["why"] == "the connection was not accepted"
            assert 1 <= told["waitSeconds"] <= 5.5
            assert told["waitSeconds"] > 1 or told["waitSeconds"] % 1 < 0.5
            first.process.kill()
            before = time.monotonic()
            second.until_listening()
            assert time.monotonic() - before < 50


def test_a_token_for_a_bridge_without_authentication(node_modules: Path, tmp_path: Path) -> None:
    with running_bridge({"XDG_RUNTIME_DIR": str(tmp_path)}, "serve", "--port", "0") as bridge:
        bridge.wait_until_ready()
        with following(node_modules, bridge.url, token="aa.bb.cc") as follower:
            follower.until(lambda: "waiting" in follower.states)
            hint = "the connection was not accepted: a bridge without authentication takes no token; leave it out there"
            assert follower.changes[follower.states.index("waiting")]["why"] == hint


def test_a_process_ends_though_its_peer_has_fallen_silent(node_modules: Path) -> None:
    """It accepts, says `subscribed`, and never answers the close."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with following(node_modules, url, closeAtOnce=True) as follower:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(30)
                welcome(peer)
                opcode_and_length = peer.recv(65536)[:2]
                assert opcode_and_length == bytes([0x88, 0x82])
                before = time.monotonic()
                assert follower.process.wait(60) == 0
                assert time.monotonic() - before < 25, "as long as `ws` waits by itself"
            follower.until(lambda: follower.states[-1:] == ["closed"])


def welcome(peer: socket.socket) -> None:
    """Answer the handshake, and say `subscribed`."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += peer.recv(65536)
    key = next(line.split()[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    message = b'{"type":"subscribed","channels":[],"where":{},"sub":null,"position":"1-1"}'
    peer.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: bridge.v1\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        b"\x81" + bytes([len(message)]) + message
    )
