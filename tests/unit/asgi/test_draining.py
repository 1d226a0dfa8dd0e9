"""The end of a server: signals are taken note of, and still do what they did."""

import signal
import threading
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from bridge.asgi import draining, lifespan, routes
from tests.support.asgi import hand_fed, socket, stream
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.terminated import heard as heard
from tests.support.terminated import sent_away, terminate

pytestmark = pytest.mark.parametrize("loop", LOOPS)


def test_a_signal_sends_clients_away_and_goes_on_to_the_server(loop: Loop, heard: list[int]) -> None:
    async def main() -> None:
        async with hand_fed() as feed:
            app = Starlette(routes=routes(feed))
            handler = signal.getsignal(signal.SIGTERM)
            with draining(feed):
                async with socket(app) as client, stream(app) as events:
                    await client.heard(1)
                    await events.body_holds("subscribed")
                    await sent_away(client, events, heard)
            assert signal.getsignal(signal.SIGTERM) is handler

    run_on(loop, main)


def test_notes_may_be_taken_off_in_any_order(loop: Loop, heard: list[int]) -> None:
    async def main() -> None:
        async with hand_fed() as feed, hand_fed() as other:
            first, second = draining(feed), draining(other)
            first.__enter__()
            second.__enter__()
            first.__exit__(None, None, None)
            second.__exit__(None, None, None)

    run_on(loop, main)
    terminate()  # the loop is closed
    assert heard == [signal.SIGTERM]


def test_what_is_ignored_stays_ignored(loop: Loop) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)

    async def main() -> None:
        async with hand_fed() as feed:
            with draining(feed):
                assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN

    try:
        run_on(loop, main)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_signals_are_left_alone(loop: Loop, heard: list[int]) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    async def main() -> None:
        async with hand_fed() as feed:
            with draining(feed):
                seen.append(signal.getsignal(signal.SIGTERM))
                async with socket(Starlette(routes=routes(feed))) as client:
                    await client.heard(1)

    thread = threading.Thread(target=run_on, args=(loop, main))
    thread.start()
    thread.join(20)
    assert seen == [handler]


def test_the_lifespan_of_an_application_that_has_no_other_one(loop: Loop) -> None:
    async def main() -> None:
        begin = lifespan("postgresql://postgres@127.0.0.1:1/db", channels=["a"], max_clients=7)
        async with begin(Starlette()) as state:
            assert state["feed"].channels == {"a"}
            assert state["feed"].settings.max_clients == 7

    run_on(loop, main)


class Plain(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def test_streams_end_with_their_clients_behind_middleware_too(loop: Loop) -> None:
    async def main() -> None:
        async with hand_fed() as feed:
            app = Starlette(routes=routes(feed), middleware=[Middleware(Plain)])
            async with stream(app) as client:
                await client.body_holds("subscribed")
                feed.deliver(1)
                await client.body_holds('"n": 1')
            with anyio.fail_after(30):
                async with stream(app) as client:
                    await client.body_holds("subscribed")
                    client.blocked = True
                    feed.deliver(10)

    run_on(loop, main)
