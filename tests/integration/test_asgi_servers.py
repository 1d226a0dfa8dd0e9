"""How servers that other people wrote begin and end with the FastAPI example, on every event loop that they have."""

import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress

import pytest

from bridge.asgi.stay import CLOSE_SECONDS
from tests.support.application import Application, Blocks, hypercorn, uvicorn
from tests.support.fleet import LISTENER, Fleet, Servers, running_fleet
from tests.support.fleet import servers as servers
from tests.support.process import wait_until
from tests.support.traffic import Client

APP = "examples.fastapi_app:app"
SERVERS = ["uvicorn", "hypercorn-asyncio", "hypercorn-uvloop", "hypercorn-trio"]
FLOOD_BYTES = 24_000_000
"""More than the kernel and the servers take for a peer that reads nothing."""


@pytest.fixture(scope="module")
def fleet(servers: Servers) -> Iterator[Fleet]:
    """The listener, and settings that lead to its log."""
    with running_fleet(servers, "asgi") as fleet:
        fleet.add("listener", LISTENER)
        fleet.wait()
        yield fleet


def running(server: str, settings: dict[str, str]) -> AbstractContextManager[Application]:
    """The example under one of `SERVERS`."""
    name, _, loop = server.partition("-")
    if name == "uvicorn":
        return uvicorn(settings, APP)
    # Since Python 3.12 its worker processes wait for connections before they tell an application of the end.
    here = ("--workers", "0") if loop == "asyncio" and sys.version_info >= (3, 12) else ()
    return hypercorn(settings, APP, "-k", loop, "--graceful-timeout", "1", *here)


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn-trio"])
def test_a_client_that_does_not_read_is_sent_away_and_the_others_hear_everything(server: str, fleet: Fleet) -> None:
    settings = fleet.settings | {"BRIDGE_CLIENT_BUFFER_BYTES": "1048576"}
    with running(server, settings) as app:
        app.wait_for("redis")
        stalled, client = handshake(app), Client(app.url, "/ws/match_change").wait_until_subscribed()
        try:
            size, last, began = 7_000, 0, time.monotonic()
            while last * size < FLOOD_BYTES:
                last += 50
                fleet.postgres.execute(
                    "SELECT pg_notify('match_change', format('{\"n\":%%s,\"x\":\"%%s\"}', i, repeat('x', %s::int))) "
                    "FROM generate_series(%s::int, %s::int) AS i",
                    size,
                    last - 49,
                    last,
                )
                wait_until(lambda: client.has(last), lambda: f"{last} is missing")  # noqa: B023
            assert [a.number for a in client.of_type("notification")] == list(range(1, last + 1))
            assert client.ended is None
            told = b"\x0f\xa8resume with after" in rest(stalled)[-200:]  # 4008
            assert told or time.monotonic() - began > CLOSE_SECONDS  # where it was not read in time, it is dropped
        finally:
            client.close()
            stalled.close()


def handshake(app: Application) -> socket.socket:
    """A WebSocket whose client reads nothing."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    raw.settimeout(30)
    raw.connect(("127.0.0.1", app.port))
    raw.sendall(
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{app.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return raw


def rest(raw: socket.socket) -> bytes:
    """All that comes until a close frame, or the end."""
    data = b""
    with suppress(ConnectionResetError):
        while b"\x0f\xa8resume" not in data[-200:] and (more := raw.recv(1 << 20)):
            data += more
    return data


@pytest.mark.parametrize("server", SERVERS)
def test_the_end_of_a_server_sends_clients_away(server: str, fleet: Fleet) -> None:
    with running(server, fleet.settings) as app:
        app.wait_for("redis")
        client, stream = Client(app.url).wait_until_subscribed(), Blocks(app)
        refused = _refused(app, "/ws/nope")
        try:
            stream.until("event: subscribed\n")
            fleet.postgres.execute("SELECT pg_notify('match_change', '{\"n\":1}')")
            stream.until('"payload":{"n":1}')
            wait_until(lambda: client.has(1), lambda: "nothing came")
            began = time.monotonic()
            assert app.end() in (0, -signal.SIGTERM)
            assert time.monotonic() - began < 50
            assert "\nretry: " in stream.rest()
            wait_until(lambda: client.ended is not None, lambda: "the connection has not ended")
            assert client.close_code in ((1001, 1012) if server == "uvicorn" else (1001,))  # 1012: uvicorn was faster
            assert "bridge/asgi" not in app.log()  # no stack trace of ours
        finally:
            client.close()
            stream.close()
        assert refused.startswith("HTTP/1.1 400 ")


def _refused(app: Application, path: str) -> str:
    with pytest.raises(AssertionError) as error:
        Client(app.url, path)
    return str(error.value).removeprefix("b'").removeprefix('b"')
