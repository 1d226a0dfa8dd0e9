"""`tail` against a bridge that keeps losing it: every event is shown once."""

import json
import random
from functools import partial

import trio

from bridge.cli.tail import follow, websocket_url
from bridge.core.backoff import Backoff
from bridge.core.position import Position
from tests.support.server import happening, running_server


async def test_every_event_is_shown_once_however_the_connection_ends() -> None:
    rng, count = random.Random(7), 300
    sent: list[int] = []
    shown: list[int] = []

    def show(message: str) -> None:
        read = json.loads(message)
        if read["type"] == "notification":
            shown.append(read["payload"]["n"])

    async with running_server() as server, trio.open_nursery() as nursery:
        server.hub.set_live(Position(1, 0))
        url = websocket_url(f"http://{server.host}:{server.port}", ["a"], ["odd=1"])
        nursery.start_soon(partial(follow, url, show, Backoff(0.05)))
        await server.wait_for_clients(1)
        with trio.fail_after(30):
            for n in range(1, count + 1):
                channel = rng.choice(["a", "a", "b"])
                if channel == "a" and n % 2:
                    sent.append(n)
                server.hub.deliver([happening(n, channel, odd=n % 2)])
                for client in list(server.hub.clients):
                    if rng.random() < 0.05:
                        client.abort()
                    elif rng.random() < 0.05:
                        client.end(1001, "retry=0", drop=rng.random() < 0.5)
                await trio.sleep(rng.choice([0, 0, 0, 0.005]))
            while len(shown) < len(sent):  # noqa: ASYNC110, what is shown tells nobody
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert shown == sent
