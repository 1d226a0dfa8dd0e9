"""The command line as its own process: exit codes, one-line refusals, notify, tail."""

import itertools
import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

from bridge import __version__
from tests.support.cli import SECONDS, command, environment, run
from tests.support.postgres import PostgresServer


def refused(home: Path, *arguments: str, **settings: str) -> str:
    """The one line of a refusal with exit code 2."""
    done = run(home, arguments, **settings)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


def test_version_and_help(tmp_path: Path) -> None:
    done = run(tmp_path, ["--version"])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"notify-bridge {__version__}\n", "")
    done = run(tmp_path, ["serve", "--help"])
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("--port", "BRIDGE_PORT", "--no-listener", "--use-redis-notifier"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "serve, listen, notify, tail"),
        (["frobnicate"], "frobnicate"),
        (["serve", "--prot", "1"], "--prot"),
        (["serve", "extra"], "extra"),
        (["serve", "--port"], "--port"),
        (["serve", "--port", "abc"], "--port: 'abc'"),
        (["listen", "--channels", "bridge_probe"], "--channels: 'bridge_probe'"),
        (["serve", "--workers", "two"], "--workers: 'two'"),
        (["serve", "--workers", "0"], "--workers: '0' is not allowed; give a whole number from 1 to 64"),
        (["serve", "--workers", "65"], "--workers: '65'"),
        (["serve", "--workers", "40"], "BRIDGE_BUFFERS_TOTAL_BYTES is too small for --workers=40"),
        (["serve", "--host", "0.0.0.0"], "--host=0.0.0.0"),
        (["serve", "--use-redis-notifier=maybe"], "--use-redis-notifier: 'maybe'"),
        (["serve", "--auth", "jwt"], "--auth=jwt needs a key"),
        (["doctor"], "DATABASE_URL and DB_HOST are not set, and no embedded bridge"),
        (["doctor", "--url", "localhost:8000"], "--url: 'localhost:8000'"),
        (["tail", "--where", "match_id"], "--where: 'match_id'"),
        (["tail", "--url", "localhost:8000"], "--url: 'localhost:8000'"),
        (["notify"], "CHANNEL"),
        (["notify", "match_change"], "PAYLOAD"),
        (["notify", "match_change", "x"], "DATABASE_URL"),
        (["notify", "x" * 64, "x"], "63 bytes"),
    ],
    ids=lambda value: "_".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_arguments_are_refused_in_one_line(tmp_path: Path, arguments: list[str], named: str) -> None:
    assert named in refused(tmp_path, *arguments)


def test_tail_needs_a_url_where_the_port_says_nothing(tmp_path: Path) -> None:
    assert refused(tmp_path, "tail", BRIDGE_PORT="0").startswith("Error: --url is needed: BRIDGE_PORT (--port) is 0")


def test_a_bad_variable_is_refused_by_its_name(tmp_path: Path) -> None:
    assert refused(tmp_path, "serve", BRIDGE_PORT="abc").startswith("Error: BRIDGE_PORT: 'abc' is not allowed")
    (tmp_path / ".env").write_text("BRIDGE_HISTORY_ENTRIES=none\n")
    assert "BRIDGE_HISTORY_ENTRIES: 'none'" in refused(tmp_path, "listen")


@contextmanager
def listening(server: PostgresServer, channel: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f'LISTEN "{channel}"'.encode())
        yield connection


def heard(connection: psycopg.Connection, count: int) -> list[str]:
    found = connection.notifies(timeout=SECONDS, stop_after=count)
    return [notification.payload for notification in itertools.islice(found, count)]


def test_notify_sends_the_payload_as_it_is(tmp_path: Path, postgres: PostgresServer) -> None:
    with listening(postgres, "match_change") as connection:
        for payload in ('{"match_id": 7}', "it's \\ ü", ""):
            done = run(tmp_path, ["notify", "match_change", payload], DATABASE_URL=postgres.url())
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            assert heard(connection, 1) == [payload]


def test_notify_warns_of_a_channel_that_nobody_hears(tmp_path: Path, postgres: PostgresServer) -> None:
    with listening(postgres, "Another") as connection:
        done = run(tmp_path, ["notify", "--database-url", postgres.url(), "Another", "x"])
        assert done.returncode == 0
        assert "Another is not among BRIDGE_CHANNELS" in done.stderr
        assert heard(connection, 1) == ["x"]


def test_notify_sends_each_line_as_it_comes(tmp_path: Path, postgres: PostgresServer) -> None:
    arguments = command("notify", "match_change", "-", "--database-url", postgres.url())
    with (
        listening(postgres, "match_change") as connection,
        subprocess.Popen(arguments, cwd=tmp_path, env=environment(tmp_path), stdin=subprocess.PIPE) as process,
    ):
        assert process.stdin is not None
        for line, payload in ((b"1\n", "1"), (b"\n", ""), (b"two\r\n", "two")):
            process.stdin.write(line)
            process.stdin.flush()
            assert heard(connection, 1) == [payload]
        process.stdin.write(b"the last, without its line break")
        process.stdin.close()
        assert heard(connection, 1) == ["the last, without its line break"]
        assert process.wait(SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_notify_ends_while_it_waits_for_a_line(
    tmp_path: Path, postgres: PostgresServer, number: signal.Signals
) -> None:
    arguments = command("notify", "match_change", "-", "--database-url", postgres.url())
    with (
        listening(postgres, "match_change") as connection,
        subprocess.Popen(
            arguments, cwd=tmp_path, env=environment(tmp_path), stdin=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"1\n")
        process.stdin.flush()
        assert heard(connection, 1) == ["1"]
        process.send_signal(number)
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == b""


def test_what_postgresql_refuses_is_one_line_and_code_1(tmp_path: Path, postgres: PostgresServer) -> None:
    for arguments, given, code in ((["x" * 8000], None, 2), (["-"], "x" * 8000, 1)):
        done = run(tmp_path, ["notify", "match_change", *arguments], given, DATABASE_URL=postgres.url())
        assert done.returncode == code
        (line,) = done.stderr.splitlines()
        assert "7,999" in line
    done = run(tmp_path, ["notify", "match_change", "x"], DATABASE_URL="postgresql://u:hunter2@127.0.0.1:1/x")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "127.0.0.1" in line
    assert "hunter2" not in line


EVENT = '{"type":"notification","id":"5-1","channel":"match_change","payload":{"match_id":7,  "x":"\\u001b"}}'
SUBSCRIBED = '{"type":"subscribed","channels":["match_change"],"where":{},"sub":null,"position":null}'


class FakeBridge:
    """A server that greets each WebSocket with the same messages, and closes it when `close` is set."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.paths: list[str] = []
        self.close = trio.Event()
        self.refuse: int | None = None
        self.messages = [SUBSCRIBED, EVENT]

    async def handle(self, request: WebSocketRequest) -> None:
        self.paths.append(request.path)
        if self.refuse is not None:
            await request.reject(
                self.refuse, body=b'{"error":"unknown_channel","message":"No channel nonsense\\nhere"}'
            )
            return
        connection = await request.accept()
        with suppress(ConnectionClosed):  # who has heard enough may go
            for message in self.messages:
                await connection.send_message(message)
        await self.close.wait()
        self.close = trio.Event()
        await connection.aclose(1001, "retry=1")


@asynccontextmanager
async def fake_bridge() -> AsyncIterator[FakeBridge]:
    bridge = FakeBridge()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, bridge.handle, "127.0.0.1", 0, None)
        bridge.port = server.port
        yield bridge
        nursery.cancel_scope.cancel()


class Lines:
    """The lines of a pipe."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def next(self) -> str:
        while b"\n" not in self._buffer:
            chunk = await self.stream.receive_some()
            assert chunk, f"ended after {self._buffer!r}"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    async def rest(self) -> list[str]:
        chunks = [chunk async for chunk in self.stream]
        return (self._buffer + b"".join(chunks)).decode().splitlines()


class Tail:
    """A running `tail`, read line by line."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdout = Lines(process.stdout)
        self.stderr = Lines(process.stderr)

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await self.process.wait()


@asynccontextmanager
async def tailing(home: Path, *arguments: str, **settings: str) -> AsyncIterator[Tail]:
    process = await trio.lowlevel.open_process(
        command("tail", *arguments),
        cwd=home,
        env=environment(home, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        with trio.fail_after(SECONDS):
            yield Tail(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_tail_passes_json_on_verbatim_and_connects_again(tmp_path: Path) -> None:
    async with (
        fake_bridge() as bridge,
        tailing(tmp_path, "--json", "--url", f"http://127.0.0.1:{bridge.port}") as tail,
    ):
        for _ in range(2):
            assert (await tail.stderr.next()).startswith("Connected to ws://127.0.0.1:")
            assert [await tail.stdout.next(), await tail.stdout.next()] == [SUBSCRIBED, EVENT]
            bridge.close.set()
            lost = await tail.stderr.next()
            assert re.search(r"closed with 1001 retry=1\. Trying again in 1\.0 s$", lost)
        assert bridge.paths == ["/ws", "/ws?after=5-1"]
        assert await tail.end(signal.SIGINT) == 0


async def test_tail_asks_for_what_it_is_told(tmp_path: Path) -> None:
    async with (
        fake_bridge() as bridge,
        tailing(tmp_path, "a b", "c", "--where", "match_id=7", "--where", "x==&", BRIDGE_PORT=str(bridge.port)) as tail,
    ):
        await tail.stdout.next()
        assert bridge.paths == ["/ws?channel=a+b&channel=c&where.match_id=7&where.x=%3D%26"]
        assert await tail.end(signal.SIGTERM) == 0


async def test_tail_goes_on_after_the_last_message_that_says_where_it_is(tmp_path: Path) -> None:
    async with fake_bridge() as bridge:
        url = f"http://127.0.0.1:{bridge.port}/ws/a?token=very-secret&after=1-1"
        bridge.messages = ['{"type":"subscribed","position":"7-1"}', EVENT, '{"type":"error","code":"forbidden"}']
        async with tailing(tmp_path, "--json", "--url", url, "--after", "7-0~7-1_8-0") as tail:
            said = []
            for cursor in ("5-1~5-0_6-0", "6-9"):
                said.append(await tail.stderr.next())
                assert [await tail.stdout.next() for _ in bridge.messages] == bridge.messages
                bridge.messages = [f'{{"type":"position","cursor":"{cursor}"}}', "null"]
                bridge.close.set()
                said.append(await tail.stderr.next())
            said.append(await tail.stderr.next())
        assert not any("secret" in line for line in said)
        afters = ["7-0~7-1_8-0", "5-1", "5-1~5-0_6-0"]
        assert bridge.paths == [f"/ws/a?token=very-secret&after={after}" for after in afters]


async def test_tail_keeps_the_path_and_prints_lines_for_people(tmp_path: Path) -> None:
    async with fake_bridge() as bridge:
        url = f"ws://127.0.0.1:{bridge.port}/ws/match/7/stats?channel=x"
        async with tailing(tmp_path, "y", "--url", url) as tail:
            await tail.stdout.next()
            line = await tail.stdout.next()
            assert re.fullmatch(
                r"\d\d:\d\d:\d\d\.\d{3} match_change 5-1 " + re.escape('{"match_id":7,  "x":"\\u001b"}'), line
            )
            assert bridge.paths == ["/ws/match/7/stats?channel=x&channel=y"]


async def test_tail_ends_where_the_bridge_refuses_it(tmp_path: Path) -> None:
    async with fake_bridge() as bridge:
        bridge.refuse = 400
        async with tailing(tmp_path, "nonsense", "--url", f"http://127.0.0.1:{bridge.port}") as tail:
            refusal = await tail.stderr.next()
            assert refusal == "Error: The bridge refused with HTTP 400: No channel nonsense here"
            assert await tail.process.wait() == 2


async def test_tail_tries_again_where_the_bridge_is_busy(tmp_path: Path) -> None:
    async with fake_bridge() as bridge:
        bridge.refuse = 503
        async with tailing(tmp_path, "--url", f"http://127.0.0.1:{bridge.port}") as tail:
            assert "HTTP 503" in await tail.stderr.next()
            bridge.refuse = None
            while not (await tail.stderr.next()).startswith("Connected"):
                pass
            assert "subscribed" in await tail.stdout.next()


async def test_tail_says_why_it_cannot_connect(tmp_path: Path) -> None:
    async with tailing(tmp_path, "--url", "http://127.0.0.1:1") as tail:
        lost = await tail.stderr.next()
        assert "127.0.0.1:1" in lost
        assert "refused" in lost
        assert await tail.end(signal.SIGINT) == 0


async def test_tail_ends_quietly_when_nobody_reads_any_more(tmp_path: Path) -> None:
    async with (
        fake_bridge() as bridge,
        tailing(tmp_path, "--json", "--url", f"http://127.0.0.1:{bridge.port}") as tail,
    ):
        assert (await tail.stderr.next()).startswith("Connected")
        assert json.loads(await tail.stdout.next())["type"] == "subscribed"
        await tail.stdout.next()
        await tail.stdout.stream.aclose()
        bridge.close.set()
        rest = await tail.stderr.rest()
        assert await tail.process.wait() == 0
        assert not [line for line in rest if not line.startswith(("Lost", "Connected"))]
