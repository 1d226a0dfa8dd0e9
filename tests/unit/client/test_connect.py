"""`connect` as applications use it, over real sockets, on every event loop."""

import asyncio
import inspect
import logging
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from anyio.streams.tls import TLSListener
from wsproto.events import CloseConnection

from bridge.client import LinkState, connect
from bridge.errors import BridgeError, SettingsError
from bridge.stream import Event, Notification, Subscribed
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.redis import make_certificates
from tests.support.scripted_bridge import Peer, ScriptedBridge, notification, on_socket, subscribed

on_all_loops = pytest.mark.parametrize("loop", LOOPS)

LONG_SECONDS = 30.0


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(LONG_SECONDS):
        while not condition():  # noqa: ASYNC110, it is on its way
            await anyio.sleep(0.01)


async def says_three(peer: Peer) -> None:
    await peer.accept(subscribed(), notification(1), notification(2), notification(3))
    await peer.hear_close()


async def says_nothing(peer: Peer) -> None:
    await peer.accept(subscribed())
    await peer.hear_close()


@on_all_loops
def test_events_come_in_order_and_leaving_says_goodbye(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.client.session.CLOSE_SECONDS", LONG_SECONDS)

    async def main() -> None:
        async with on_socket(says_three) as bridge:
            states: list[LinkState] = []
            where = {"match_id": 7, "live": True}
            async with connect(
                bridge.url, "a", "b c", where=where, after="1-0", token="t0p", on_state=states.append
            ) as client:
                events = [await client.__anext__() for _ in range(4)]
                assert client.cursor == "1-3"
                left = time.monotonic()
            assert time.monotonic() - left < LONG_SECONDS / 2
            assert isinstance(events[0], Subscribed)
            assert [event.payload["n"] for event in events if isinstance(event, Notification)] == [1, 2, 3]
            (peer,) = bridge.peers
            assert peer.target == "/ws?channel=a&channel=b+c&where.match_id=7&where.live=true&after=1-0"
            assert peer.headers["authorization"] == "Bearer t0p"
            assert peer.headers["host"] == bridge.url.removeprefix("http://")
            shown = f"ws{bridge.url.removeprefix('http')}/ws?channel=a&channel=b+c&where.match_id=7&where.live=true"
            assert states == [LinkState("connecting", shown), LinkState("connected", shown)]
            assert [event async for event in client] == []

    run_on(loop, main)


def test_a_cursor_that_is_empty_is_none() -> None:
    async def main() -> None:
        async with on_socket(says_nothing) as bridge, connect(bridge.url, after="") as client:
            assert client.cursor is None
            await client.__anext__()
            assert bridge.peers[0].target == "/ws"
            assert client.cursor == "1-0"

    run_on("trio", main)


@on_all_loops
def test_errors_of_the_body_are_raised_as_they_are(loop: Loop) -> None:
    async def main() -> None:
        async with on_socket(says_nothing, says_nothing) as bridge:
            for error in (ZeroDivisionError("mine"), KeyboardInterrupt()):

                async def fail(error: BaseException) -> None:
                    async with connect(bridge.url) as client:
                        await client.__anext__()
                        raise error

                with pytest.raises(type(error)) as raised:
                    await fail(error)
                assert raised.value is error

    run_on(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_token_that_awaits_what_is_cancelled_ends_the_stream_with_an_error(loop: Loop) -> None:
    async def wait_in_vain() -> str:
        task = asyncio.ensure_future(asyncio.sleep(60, ""))
        task.cancel()
        return await task

    async def main() -> None:
        async with connect("http://127.0.0.1:9", token=wait_in_vain) as client:
            with pytest.raises(BridgeError, match="awaited a task that was cancelled"):
                await client.__anext__()

    run_on(loop, main)


@on_all_loops
@pytest.mark.parametrize("mine", [anyio.EndOfStream(), anyio.ClosedResourceError(), StopAsyncIteration()])
def test_nothing_that_a_token_raises_passes_for_the_end_of_the_iteration(loop: Loop, mine: Exception) -> None:
    async def token() -> str:
        raise mine

    async def main() -> None:
        async with connect("http://127.0.0.1:9", token=token) as client:
            with pytest.raises(BridgeError if isinstance(mine, StopAsyncIteration) else type(mine)) as raised:
                async for _event in client:
                    pass
            assert raised.value is mine or str(raised.value) == "token or on_state: it has raised StopAsyncIteration"

    run_on(loop, main)


@on_all_loops
def test_a_generator_around_a_client_can_be_closed(loop: Loop) -> None:
    async def main() -> None:
        async with on_socket(says_nothing) as bridge:

            async def events() -> AsyncGenerator[Event, None]:
                async with connect(bridge.url) as client:
                    async for event in client:
                        yield event

            generator = events()
            assert isinstance(await anext(generator), Subscribed)
            await generator.aclose()

    run_on(loop, main)


@on_all_loops
def test_leaving_while_the_bridge_does_not_answer_takes_a_bounded_time(loop: Loop) -> None:
    async def deaf(peer: Peer) -> None:
        await peer.accept(subscribed())
        await peer.stay()

    async def floods(peer: Peer) -> None:
        await peer.accept(subscribed())
        number = 0
        while True:
            number += 1
            await peer.say(notification(number))

    async def main() -> None:
        async with on_socket(deaf, floods) as bridge:
            for _ in range(2):
                async with connect(bridge.url, buffer_bytes=1000) as client:
                    await client.__anext__()
                    left = time.monotonic()
                assert 0.9 < time.monotonic() - left < LONG_SECONDS

    run_on(loop, main)


@on_all_loops
def test_cancelling_ends_everything(loop: Loop) -> None:
    goodbyes: list[CloseConnection] = []

    async def listens(peer: Peer) -> None:
        await peer.accept(subscribed())
        goodbyes.append(await peer.hear_close())

    async def main() -> None:
        async with on_socket(listens) as bridge:
            with anyio.CancelScope() as scope:
                async with connect(bridge.url) as client:
                    async for _event in client:
                        scope.cancel()
            assert scope.cancelled_caught
            await until(lambda: goodbyes)
        assert goodbyes == [CloseConnection(code=1000, reason="")]

    run_on(loop, main)


@on_all_loops
def test_cancelling_while_it_connects_or_waits(loop: Loop) -> None:
    async def silent(peer: Peer) -> None:
        await peer.stay()

    async def main() -> None:
        async with on_socket(silent) as bridge:
            for url in (bridge.url, "http://127.0.0.1:1"):
                began = time.monotonic()
                with anyio.move_on_after(0.2) as scope:
                    async with connect(url, on_state=lambda _link: None) as client:
                        await client.__anext__()
                assert scope.cancelled_caught
                assert time.monotonic() - began < LONG_SECONDS

    run_on(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_asyncios_own_timeouts_lose_no_event(loop: Loop) -> None:
    async def slowly(peer: Peer) -> None:
        await peer.accept(subscribed())
        for number in range(1, 41):
            await anyio.sleep(0.01)
            await peer.say(notification(number))
        await peer.hear_close()

    async def main() -> None:
        got: list[int] = []
        async with on_socket(slowly) as bridge, connect(bridge.url) as client:
            while len(got) < 40:
                try:
                    event = await asyncio.wait_for(client.__anext__(), 0.007)
                except TimeoutError:
                    continue
                if isinstance(event, Notification):
                    got.append(event.payload["n"])
        assert got == list(range(1, 41))

    run_on(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_asyncios_own_cancellation_ends_everything(loop: Loop) -> None:
    goodbyes: list[CloseConnection] = []

    async def listens(peer: Peer) -> None:
        await peer.accept(subscribed())
        goodbyes.append(await peer.hear_close())

    async def follow(url: str, heard: Callable[[], None]) -> None:
        async with connect(url) as client:
            async for _event in client:
                heard()

    async def main() -> None:
        async with on_socket(listens, listens) as bridge:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    await follow(bridge.url, lambda: limit.reschedule(0))
            heard = asyncio.Event()
            task = asyncio.create_task(follow(bridge.url, heard.set))
            await heard.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not [left for left in asyncio.all_tasks() if left.get_name().startswith("bridge.client")]
            with anyio.fail_after(30):
                while len(goodbyes) < 2:  # noqa: ASYNC110, it is on its way
                    await anyio.sleep(0.01)

    run_on(loop, main)
    assert [goodbye.code for goodbye in goodbyes] == [1000, 1000]


@on_all_loops
def test_one_task_reads(loop: Loop) -> None:
    async def main() -> None:
        async with on_socket(says_nothing) as bridge, connect(bridge.url) as client:
            await client.__anext__()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.__anext__)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(anyio.BusyResourceError, match="open one client for each task"):
                    async for _event in client:
                        pass
                tasks.cancel_scope.cancel()

    run_on(loop, main)


@on_all_loops
def test_the_iteration_ends_when_the_context_is_left(loop: Loop) -> None:
    async def main() -> None:
        async def read() -> None:
            assert [event async for event in client] == []
            ended.set()

        ended = anyio.Event()
        async with on_socket(says_nothing) as bridge, anyio.create_task_group() as tasks, connect(bridge.url) as client:
            await client.__anext__()
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
        assert ended.is_set()

    run_on(loop, main)


@on_all_loops
def test_a_slow_consumer_is_read_for_no_further_than_there_is_room(loop: Loop) -> None:
    sent = 0

    async def floods(peer: Peer) -> None:
        nonlocal sent
        await peer.accept(subscribed())
        while True:
            await peer.say(*(notification(number) for number in range(sent + 1, sent + 101)))
            sent += 100

    async def main() -> None:
        async with on_socket(floods) as bridge, connect(bridge.url, buffer_bytes=100_000) as client:
            await client.__anext__()
            before = -1
            while before != sent:
                before = sent
                await anyio.sleep(0.3)
            assert sent < 500_000  # the kernel's buffers, in notifications of 60 bytes
            numbers: list[int] = []
            while len(numbers) < 10_000:
                event = await client.__anext__()
                assert isinstance(event, Notification)
                numbers.append(event.payload["n"])
            assert numbers == list(range(1, 10_001))

    run_on(loop, main)


@on_all_loops
def test_without_a_callback_the_log_says_it(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    async def leaves(peer: Peer) -> None:
        await peer.accept(subscribed())
        await peer.close(1000)

    async def main(url: str) -> None:
        async with connect(url + "/ws?token=s3cret", "a", retry_seconds=0.02) as client:
            await client.__anext__()
            await until(lambda: "Lost " in caplog.text)

    async def with_bridge() -> ScriptedBridge:
        async with on_socket(leaves) as bridge:
            await main(bridge.url)
            return bridge

    caplog.set_level(logging.INFO, "bridge.client")
    bridge = run_on(loop, with_bridge)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "bridge.client"]
    url = f"ws{bridge.url.removeprefix('http')}/ws?channel=a"
    assert lines[0] == ("INFO", f"Connected to {url}")
    assert lines[1][0] == "WARNING"
    assert lines[1][1].startswith(f"Lost {url}: closed with 1000 NORMAL_CLOSURE. Trying again in 0.0")
    assert not any("s3cret" in line for _, line in lines)
    assert bridge.peers[0].target == "/ws?token=s3cret&channel=a"


async def keeps_the_socket(peer: Peer) -> None:
    await peer.accept(subscribed())
    await peer.hear_close()
    await peer.stay()


@on_all_loops
def test_tls(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.client.session.CLOSE_SECONDS", LONG_SECONDS)
    files = make_certificates(tmp_path)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(files.certificate, files.key)
    trusting = ssl.create_default_context(cafile=str(files.authority))

    async def main() -> None:
        states: list[LinkState] = []
        plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
        listener = TLSListener(plain, serving, standard_compatible=False, handshake_timeout=5)
        async with listener, anyio.create_task_group() as tasks:
            bridge = ScriptedBridge(tasks, [says_three, keeps_the_socket])
            tasks.start_soon(listener.serve, bridge.serve)
            url = f"https://127.0.0.1:{plain.extra(anyio.abc.SocketAttribute.local_port)}"
            async with connect(url, on_state=states.append):
                await until(lambda: len(states) > 1)
            assert "certificate verify failed" in states[1].reason
            async with connect(url, ssl_context=trusting) as client:
                events = [await client.__anext__() for _ in range(4)]
            assert isinstance(events[-1], Notification)
            assert bridge.peers[-1].target == "/ws"
            async with connect(url, ssl_context=trusting) as client:
                await client.__anext__()
                left = time.monotonic()
            assert time.monotonic() - left < LONG_SECONDS / 2
            tasks.cancel_scope.cancel()

    run_on(loop, main)


@on_all_loops
def test_a_host_that_is_not_ascii_is_asked_for_as_dns_has_it(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    real, hosts, shown = anyio.connect_tcp, list[str](), list[str]()

    async def connect_tcp(host: str, port: int, **options: Any) -> Any:
        hosts.append(host)
        return await real("127.0.0.1", port, **options)

    async def main() -> None:
        async with on_socket(says_nothing) as bridge:
            port = bridge.url.rpartition(":")[2]
            url = f"http://bücher.example:{port}"
            async with connect(url, on_state=lambda link: shown.append(link.url)) as client:
                assert isinstance(await client.__anext__(), Subscribed)
            assert hosts == ["xn--bcher-kva.example"]
            assert bridge.peers[0].headers["host"] == f"bücher.example:{port}"  # as the peer decodes it
            assert shown[0] == f"ws://xn--bcher-kva.example:{port}/ws"

    monkeypatch.setattr("anyio.connect_tcp", connect_tcp)
    run_on(loop, main)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"url": "localhost:8000"}, "url: 'localhost:8000' is not allowed"),
        ({"where": {"a": [1]}}, "where: 'a' is compared with"),
        ({"token": "a b"}, "token: it cannot be sent"),
        ({"url": "http://h/ws?token=x", "token": "y"}, "token: the URL holds one already"),
        ({"retry_seconds": 0}, "retry_seconds: 0 is not allowed"),
        ({"buffer_bytes": -1}, "buffer_bytes: -1 is not allowed"),
        ({"message_bytes": 0}, "message_bytes: 0 is not allowed"),
        ({"url": None}, "url: text is expected, not NoneType"),
        ({"url": 5}, "url: text is expected, not int"),
        ({"url": b"http://h"}, "url: text is expected, not bytes"),
        ({"channels": [5]}, "channels: a name is text, not int; give one argument for each"),
        ({"channels": [["a", "b"]]}, "channels: a name is text, not list; give one argument for each"),
        ({"where": ["a"]}, r"where: give fields and their values, as \{'match_id': 7\}, not list"),
        ({"where": ()}, "where: give fields and their values"),
        ({"after": 5}, "after: a cursor is text, not int"),
        ({"token": 5}, "token: a string is expected, not int"),
        ({"retry_seconds": "5"}, "retry_seconds: '5' is not allowed; give a number above 0"),
        ({"retry_seconds": None}, "retry_seconds: None is not allowed; give a number above 0"),
        ({"retry_seconds": float("nan")}, "retry_seconds: nan is not allowed"),
        ({"buffer_bytes": "x"}, "buffer_bytes: 'x' is not allowed; give a number above 0"),
        ({"message_bytes": [1]}, r"message_bytes: \[1\] is not allowed; give a number above 0"),
        ({"ssl_context": True}, "ssl_context: an ssl.SSLContext is expected, not bool"),
        ({"on_state": 5}, "on_state: a function is expected, not int"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], named: str) -> None:
    async def main() -> None:
        given = {"url": "http://127.0.0.1:1"} | arguments
        with pytest.raises(SettingsError, match=f"^{named}[^\n]*$"):
            async with connect(given.pop("url"), *given.pop("channels", ()), **given):
                pass

    run_on("trio", main)


def test_it_needs_little(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = "import sys, bridge.client; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    heavy = {"psycopg", "redis", "hiredis", "trio", "trio_websocket", "prometheus_client", "pydantic", "rich", "typer"}
    assert heavy & set(loaded.split()) == set()
    assert "bridge.hub" not in loaded


def test_everything_public_is_described() -> None:
    parameters = set(inspect.signature(connect).parameters)
    assert connect.__doc__ is not None
    assert all(f":param {name}:" in connect.__doc__ for name in parameters)
