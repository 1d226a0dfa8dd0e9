"""How servers that other people wrote begin and end with the FastAPI example, on every event loop that they have."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.application import Application, Blocks, hypercorn, uvicorn
from tests.support.fleet import LISTENER, Fleet, Servers, running_fleet
from tests.support.fleet import servers as servers
from tests.support.process import wait_until
from tests.support.traffic import Client

APP = "examples.fastapi_app:app"


@pytest.fixture(scope="module")
def fleet(servers: Servers) -> Iterator[Fleet]:
    """The listener, and settings that lead to its log."""
    with running_fleet(servers, "asgi") as fleet:
        fleet.add("listener", LISTENER)
        fleet.wait()
        yield fleet


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn-asyncio", "hypercorn-uvloop", "hypercorn-trio"])
def test_the_end_of_a_server_sends_clients_away(server: str, fleet: Fleet) -> None:
    name, _, loop = server.partition("-")
    running = (
        uvicorn(fleet.settings, APP)
        if name == "uvicorn"
        else hypercorn(fleet.settings, APP, "-k", loop, "--graceful-timeout", "1")
    )
    with running as app:
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
            assert time.monotonic() - began < 8
            assert "\nretry: " in stream.rest()
            wait_until(lambda: client.ended is not None, lambda: "the connection has not ended")
            assert client.close_code in ((1001, 1012) if name == "uvicorn" else (1001,))  # 1012: uvicorn was faster
            assert "bridge/asgi" not in app.log()  # no stack trace of ours
        finally:
            client.close()
            stream.close()
        assert refused.startswith("HTTP/1.1 400 ")


def _refused(app: Application, path: str) -> str:
    with pytest.raises(AssertionError) as error:
        Client(app.url, path)
    return str(error.value).removeprefix("b'").removeprefix('b"')
