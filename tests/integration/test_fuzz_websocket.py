"""Any bytes after a handshake end at most their own connection: nobody else's, no task, and no word in the log."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.core.messages import MAX_BAD, MAX_SUBSCRIPTIONS
from bridge.hub.client import Client
from tests.support.logs import only_debug_lines
from tests.support.server import RawClient, RunningServer, client_frame, happening, running_server

fuzzed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.none() | st.sampled_from(["", "x", "y", "\r\n", "\u2028"]) | st.text(max_size=70)
CHANNELS = st.lists(st.sampled_from(["a", "b", "match_change", "nope", "a\r\nid: 1"]), max_size=3)
CURSORS = st.none() | st.sampled_from(["1-1", "9-9", "1-1~1-0_1-1", "", "\0"]) | st.text(max_size=20)
WHERE = st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.integers(), max_size=3)
SENSE = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("subscribe")},
        optional={"channels": CHANNELS, "where": WHERE, "after": CURSORS, "sub": NAMES},
    ),
    st.fixed_dictionaries({"type": st.just("unsubscribe")}, optional={"sub": NAMES}),
    st.just({"type": "ping"}),
)
NONSENSE = st.dictionaries(
    st.sampled_from(["type", "channels", "where", "after", "sub", "x"]),
    st.sampled_from(["subscribe", "unsubscribe", "ping"]) | JSON,
    max_size=4,
)


def frame(first: int, masked: bool, claimed: int | None, payload: bytes) -> bytes:
    """A frame that may say anything of itself."""
    plain = bytearray(client_frame(payload))
    plain[0] = first
    if claimed is not None:
        plain[1] = claimed
    if not masked:
        plain[1] &= 0x7F
    return bytes(plain)


WELL_FORMED = st.builds(
    client_frame, (SENSE | NONSENSE).map(lambda said: json.dumps(said).encode()) | st.binary(max_size=130)
)
ODD = st.builds(
    frame, st.integers(0, 255), st.booleans() | st.just(True), st.none() | st.integers(0, 255), st.binary(max_size=200)
)
CODES = st.integers(0, 65535).map(lambda code: code.to_bytes(2, "big"))
CLOSES = st.builds(lambda code, reason: client_frame(code + reason, 8), CODES, st.binary(max_size=123))
CONTROLS = st.builds(client_frame, st.binary(max_size=126), st.sampled_from([9, 10]))
BYTES = st.lists(WELL_FORMED | ODD | CLOSES | CONTROLS | st.binary(max_size=40), max_size=12)


@asynccontextmanager
async def bystander() -> AsyncIterator[tuple[RunningServer, RawClient]]:
    """A server and one client that must notice nothing of what happens within."""
    async with running_server() as server:
        client = await server.websocket("/ws/a")
        assert (await said(client))["type"] == "subscribed"
        tasks = living()
        yield server, client
        await server.wait_for_clients(1)
        with trio.fail_after(30):
            while living() > tasks:  # noqa: ASYNC110, tasks tell nobody when they end
                await trio.sleep(0.001)
        server.hub.deliver([happening(n) for n in range(1, 4)])
        assert [(await said(client))["payload"]["n"] for _ in range(3)] == [1, 2, 3]
        await client.send_frame(b'{"type":"ping"}')
        assert (await said(client))["type"] == "pong"
        assert server.hub.buffers.total_bytes == 0


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def said(client: RawClient) -> Any:
    message = await client.message()
    assert isinstance(message, dict), message
    return message


async def all_said(client: RawClient) -> list[Any]:
    """Everything until the end of the connection; the judge is wsproto, and the messages are JSON."""
    messages: list[Any] = []
    while (message := await client.message()) != ("end", None):
        messages.append(message)
    return messages


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


@fuzzed
@given(BYTES, st.lists(st.integers(1, 20), max_size=5))
def test_any_bytes_after_a_handshake(parts: list[bytes], sizes: list[int]) -> None:
    async def attack() -> None:
        async with bystander() as (server, _):
            attacker = await server.websocket()
            for piece in pieces(b"".join(parts), sizes):
                with suppress(trio.BrokenResourceError):
                    await attacker.stream.send_all(piece)
                await trio.lowlevel.checkpoint()
            with suppress(trio.BrokenResourceError):
                await attacker.stream.send_eof()
            messages = await all_said(attacker)
            closes = [message for message in messages if isinstance(message, tuple) and message[0] == "close"]
            assert len(closes) <= 1
            assert not closes or messages[-1] == closes[0]
            await attacker.close()

    with only_debug_lines():
        trio.run(attack)


@fuzzed
@given(st.lists(SENSE | NONSENSE, max_size=30))
def test_any_messages(messages: list[dict[str, Any]]) -> None:
    async def talk() -> None:
        async with bystander() as (server, _):
            client = await server.websocket("/ws/b")
            for message in messages:
                await client.send_frame(json.dumps(message).encode())
            await client.send_frame(b'{"type":"ping","last":true}')
            answers = []
            while isinstance(answer := await client.message(), dict):
                answers.append(answer)
                if answer["type"] == "pong" and len([a for a in answers if a["type"] == "pong"]) > pings(messages):
                    break
            bad = [answer for answer in answers if answer.get("code") == "bad_message"]
            assert isinstance(answer, dict) or (answer[1][0] == 1008 and len(bad) >= MAX_BAD)
            assert all(len(server.hub.subscription_names(one)) <= MAX_SUBSCRIPTIONS for one in everyone(server))
            await client.close()

    with only_debug_lines():
        trio.run(talk)


def pings(messages: list[dict[str, Any]]) -> int:
    return sum(message.get("type") == "ping" and is_json(message) for message in messages)


def is_json(message: dict[str, Any]) -> bool:
    """Python writes infinity and NaN as no JSON has them."""
    try:
        json.dumps(message, allow_nan=False)
    except ValueError:
        return False
    return True


def everyone(server: RunningServer) -> list[Client]:
    return list(server.hub.clients)


@fuzzed
@given(st.sampled_from(["/ws", "/sse"]), st.text(max_size=20), st.binary(max_size=20), st.booleans())
def test_no_text_of_a_request_becomes_a_header(path: str, text: str, header: bytes, in_path: bool) -> None:
    async def ask() -> None:
        async with bystander() as (server, _):
            encoded = "%21" + "".join(f"%{byte:02x}" for byte in text.encode(errors="surrogatepass"))
            target = f"{path}/{encoded}" if in_path else f"{path}?channel={encoded}"
            value = bytes(byte for byte in header if byte >= 32 and byte != 127)
            client = await server.connect()
            upgrading = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            await client.send(
                b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b%bLast-Event-ID: %b\r\nSec-WebSocket-Protocol: %b\r\n\r\n"
                % (target.encode(), upgrading, key, value, value)
            )
            status, headers, body = await client.answer()
            assert status in (400, 404)
            assert headers.keys() <= KNOWN_HEADERS
            assert body.count(b"\n") == 1
            await client.close()

    with only_debug_lines():
        trio.run(ask)


KNOWN_HEADERS = {
    "date",
    "content-type",
    "content-length",
    "x-content-type-options",
    "cache-control",
    "connection",
    "vary",
}
