"""TLS as clients see it: the same server behind it, whatever the peer does to the encrypted side."""

import json
import logging
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from websockets.sync.client import connect

from bridge.server import tls
from bridge.server.tls import HANDSHAKE_SECONDS
from bridge.server.websocket import FRAMES_BURST
from tests.support.frames import Message
from tests.support.redis import Certificates, make_certificates
from tests.support.server import RunningServer, happening, running_server, upgrade

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def keys(certificates: Certificates) -> dict[str, Any]:
    return {"tls_cert": str(certificates.certificate), "tls_key": str(certificates.key), "max_clients": 1000}


@pytest.fixture
def trust(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.authority)


@pytest.fixture(autouse=True)
def calm(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a peer does is worth more than an INFO line, and never a stack trace."""
    yield
    assert [record for record in caplog.records if record.levelno > logging.INFO or record.exc_info] == []


def number(message: Message) -> int:
    assert isinstance(message, dict), message
    return int(message["payload"]["n"])


async def still_serves(server: RunningServer, trust: ssl.SSLContext) -> None:
    """The server answers, and nobody is left in it."""
    client = await server.connect(trust)
    await client.send(HEALTH)
    assert (await client.answer())[0] == 200
    await client.close()
    await server.wait_for_clients(0)


async def test_other_peoples_clients(keys: dict[str, Any], trust: ssl.SSLContext) -> None:
    async with running_server(**keys) as server:

        def follow() -> list[Any]:
            with connect(server.url.replace("127.0.0.1", "localhost") + "/ws/a", ssl=trust, proxy=None) as client:
                assert json.loads(client.recv(timeout=30))["type"] == "subscribed"
                trio.from_thread.run_sync(server.hub.deliver, [happening(1)])
                event = json.loads(client.recv(timeout=30))
                client.send('{"type":"ping"}')
                return [event["payload"], json.loads(client.recv(timeout=30))["type"]]

        assert await trio.to_thread.run_sync(follow) == [{"n": 1}, "pong"]
        await still_serves(server, trust)


async def test_many_large_events_arrive_complete_and_in_order(keys: dict[str, Any], trust: ssl.SSLContext) -> None:
    async with running_server(**keys) as server:
        client = await server.websocket(trust=trust)
        await client.message()
        count = 300
        server.hub.deliver([happening(n, pad=f'"{"x" * 40_000}"') for n in range(count)])
        assert server.hub.buffers.total_bytes > 10_000_000, "what the pair does not take is held in the one buffer"
        assert [number(await client.message()) for _ in range(count)] == list(range(count))
        await client.send_frame(b"\x03\xe8", opcode=8)
        assert await client.message() == ("close", (1000, ""))
        assert await client.message() == ("end", None)
        await client.close()
        await still_serves(server, trust)


async def test_a_client_that_does_not_read_is_too_slow_and_costs_the_others_nothing(
    keys: dict[str, Any], trust: ssl.SSLContext
) -> None:
    async with running_server(client_buffer_bytes=200_000, **keys) as server:
        stalled = await server.websocket(trust=trust)
        good = await server.websocket("/ws/a", trust=trust)
        assert isinstance(await good.message(), dict)
        count = 400
        for n in range(count):
            server.hub.deliver([happening(n), happening(n, "b", pad=f'"{"x" * 60_000}"')])
            await trio.lowlevel.checkpoint()
        assert [number(await good.message()) for _ in range(count)] == list(range(count))
        assert server.hub.buffers.total_bytes < 300_000
        seen = 0
        while isinstance(message := await stalled.message(), dict):
            seen += 1
        assert message == ("close", (4008, "resume with after"))
        assert 1 < seen < 2 * count
        await stalled.close()
        await good.close()
        await still_serves(server, trust)


async def test_who_floods_and_does_not_read_is_read_no_further(keys: dict[str, Any], trust: ssl.SSLContext) -> None:
    async with running_server(**keys) as server:
        client = await server.websocket(trust=trust)
        sent_bytes, flood = 0, upgrade("/ws")[:0] + bytes((0x89, 0x80 | 100)) + bytes(104)
        with trio.move_on_after(1.0):
            while True:
                await client.stream.send_all(flood * 1000)
                sent_bytes += 1000 * len(flood)
        assert sent_bytes < 20_000_000
        assert server.hub.buffers.total_bytes < 200_000
        await trio.aclose_forcefully(client.stream)
        await still_serves(server, trust)


@pytest.mark.parametrize("how", ["close_notify", "fin", "reset", "half a record"])
@pytest.mark.parametrize("when", ["at once", "in a head", "as a client"])
async def test_peers_that_go(keys: dict[str, Any], trust: ssl.SSLContext, when: str, how: str) -> None:
    async with running_server(**keys) as server:
        client = await server.connect(trust)
        sent = {"at once": b"", "in a head": b"GET /wor", "as a client": upgrade("/ws")}[when]
        await client.send(sent)
        if when == "as a client":
            assert (await client.answer())[0] == 101
            await server.wait_for_clients(1)
        if how == "close_notify":
            await client.close()
        else:
            assert isinstance(client.stream, trio.SSLStream)
            if how == "reset":
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif how == "half a record":
                await client.stream.transport_stream.send_all(b"\x17\x03\x03\x40\x00half")
            await trio.aclose_forcefully(client.stream)
        await still_serves(server, trust)


@pytest.mark.parametrize("busy", [b"\x89\x80\0\0\0\0" * int(FRAMES_BURST + 200), b"\x01\x80\0\0\0\0"])
async def test_peers_that_go_while_a_task_serves_them(keys: dict[str, Any], trust: ssl.SSLContext, busy: bytes) -> None:
    """It waits for the time that so many frames take, or for the rest of a message, on a socket that is closed then."""
    async with running_server(**keys) as server:
        for _ in range(3):
            client = await server.websocket(trust=trust)
            await client.message()
            await client.send(busy)
            await trio.testing.wait_all_tasks_blocked(0.05)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(client.stream)
            await server.wait_for_clients(0)
        await still_serves(server, trust)


async def test_an_answer_is_read_after_the_peer_has_ended_its_side(keys: dict[str, Any], trust: ssl.SSLContext) -> None:
    """Half closed: it said all that it had to say, and listens."""
    async with running_server(**keys) as server:

        def ask() -> bytes:
            with socket.create_connection((server.host, server.port), timeout=30) as plain:
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                session = trust.wrap_bio(incoming, outgoing, server_hostname="localhost")

                def pump(step: Any) -> Any:
                    while True:
                        try:
                            return step()
                        except ssl.SSLWantReadError:
                            plain.sendall(outgoing.read())
                            data = plain.recv(65536)
                            incoming.write(data) if data else incoming.write_eof()

                pump(session.do_handshake)
                session.write(HEALTH)
                with pytest.raises(ssl.SSLWantReadError):
                    session.unwrap()
                plain.sendall(outgoing.read())
                return bytes(pump(lambda: session.read(65536)))

        assert (await trio.to_thread.run_sync(ask)).startswith(b"HTTP/1.1 200")


async def test_what_is_not_tls_gets_nothing(keys: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "bridge")
    async with running_server(**keys) as server:
        for sent in (HEALTH, b"\0" * 500, b"\x16\x03\x01\x00\x05hello", b""):
            client = await server.connect()
            await client.send(sent)
            client.socket.shutdown(socket.SHUT_WR)
            assert not (await client.rest()).startswith(b"HTTP")
            await client.close()
        with trio.fail_after(30):
            while len(caplog.records) < 4:  # noqa: ASYNC110, a log tells nobody
                await trio.sleep(0.01)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert "HTTP" in caplog.records[0].getMessage()


async def test_old_versions_are_refused(keys: dict[str, Any], trust: ssl.SSLContext) -> None:
    async with running_server(**keys) as server:
        trust.minimum_version = trust.maximum_version = ssl.TLSVersion.TLSv1_2
        await still_serves(server, trust)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            trust.minimum_version = trust.maximum_version = ssl.TLSVersion.TLSv1_1
        client = await server.connect(trust)
        with pytest.raises(trio.BrokenResourceError):
            await client.send(HEALTH)


async def test_idle_handshakes_end(keys: dict[str, Any], autojump_clock: trio.testing.MockClock) -> None:
    async with running_server(**keys) as server:
        client = await server.connect()
        client.wait_seconds = 10 * HANDSHAKE_SECONDS
        assert await client.rest() == b""
        assert HANDSHAKE_SECONDS <= trio.current_time() < 2 * HANDSHAKE_SECONDS


async def test_a_peer_that_stopped_reading_is_reset_in_the_end(
    keys: dict[str, Any], trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "FLUSH_SECONDS", 0.3)
    async with running_server(**keys, client_buffer_bytes=65_536) as server:
        client = await server.websocket(trust=trust)
        await client.message()
        victim = next(iter(server.hub.clients))
        with trio.fail_after(30):
            while not victim.held_bytes:
                server.hub.deliver([happening(n, pad=f'"{"x" * 6_000}"') for n in range(4)])
                await trio.lowlevel.checkpoint()
        victim.abort()
        assert isinstance(client.stream, trio.SSLStream)
        await trio.sleep(0.5)
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(30):
            await read_all(client.stream.transport_stream)
        await trio.aclose_forcefully(client.stream)


async def test_ending_says_going_away(keys: dict[str, Any], trust: ssl.SSLContext) -> None:
    async with running_server(live=False, **keys) as server:
        clients = [await server.websocket(trust=trust) for _ in range(10)]
        await server.wait_for_clients(10)
        server.scope.cancel()
        with trio.CancelScope(shield=True):
            for client in clients:
                closed = await client.message()
                assert isinstance(closed, tuple)
                assert closed[1][0] == 1001
                await client.close()


async def test_new_files_are_for_new_connections_and_broken_ones_for_none(
    certificates: Certificates, trust: ssl.SSLContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(source: Certificates) -> None:
        cert.write_bytes(source.certificate.read_bytes())
        key.write_bytes(source.key.read_bytes())

    install(certificates)
    (tmp_path / "new").mkdir()
    renewed = make_certificates(tmp_path / "new")
    trust_new = ssl.create_default_context(cafile=renewed.authority)
    async with running_server(tls_cert=str(cert), tls_key=str(key), max_clients=1000) as server:
        assert server.tls is not None
        client = await server.websocket(trust=trust)
        await client.message()
        install(renewed)
        await still_serves_beside(server, trust)
        server.tls.reload()
        await still_serves_beside(server, trust_new)
        cert.write_bytes(certificates.certificate.read_bytes())
        server.tls.reload()
        await still_serves_beside(server, trust_new)
        server.hub.deliver([happening(1)])
        assert number(await client.message()) == 1
        await client.close()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "does not belong to the certificate" in errors[0]
    caplog.clear()


async def read_all(stream: trio.SocketStream) -> None:
    while await stream.receive_some(65536):
        pass


async def still_serves_beside(server: RunningServer, trust: ssl.SSLContext) -> None:
    """The same, while other clients are connected."""
    client = await server.connect(trust)
    await client.send(HEALTH)
    assert (await client.answer())[0] == 200
    await client.close()
