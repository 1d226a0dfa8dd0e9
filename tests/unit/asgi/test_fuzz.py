"""Whatever a client says, in whatever order: each message is answered or refused, and the end leaves nothing behind."""

import json
from typing import Any

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from bridge.asgi import routes
from tests.support.asgi import HandFed, hand_fed, socket
from tests.support.loops import LOOPS, Loop, run_on

names = st.sampled_from(["a", "b", "nope", ""])
subs = st.none() | st.sampled_from(["x", "y", "z" * 65])
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
cursors = st.none() | st.sampled_from(["100-0", "100-1", "99-7", "", "garbage"])
said = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("subscribe")},
        optional={
            "channels": st.lists(names, max_size=3),
            "where": st.dictionaries(st.text(max_size=3), scalars, max_size=3),
            "after": cursors,
            "sub": subs,
        },
    ),
    st.fixed_dictionaries({"type": st.just("unsubscribe")}, optional={"sub": subs}),
    st.just({"type": "ping"}),
    st.dictionaries(st.text(max_size=5), scalars, max_size=3),
    scalars,
)
messages = st.one_of(
    said.map(lambda value: {"text": json.dumps(value)}),
    st.text(max_size=20).map(lambda text: {"text": text}),
    st.binary(max_size=20).map(lambda data: {"bytes": data, "text": None}),
    st.just({"text": "[" * 60_000}),
    st.just({"text": "ü" * 40_000}),
    st.just({}),
)
steps = st.lists(messages | st.integers(1, 3), max_size=25)


@given(loop=st.sampled_from(LOOPS), steps=steps)
@settings(max_examples=60)
def test_nothing_that_a_client_says_breaks_its_connection_by_accident(loop: Loop, steps: list[Any]) -> None:
    async def main() -> None:
        async with hand_fed() as feed, socket(Starlette(routes=routes(feed))) as client:
            await client.heard(1)
            for step in steps:
                if isinstance(step, int):
                    feed.deliver(step)
                    await anyio.lowlevel.checkpoint()
                else:
                    client.say({"type": "websocket.receive", **step})
            await settle(feed, client)
            assert client.close_code in (None, 1008, 1009)
            assert {"subscribed"} <= set(client.types) <= {"subscribed", "notification", "gap", "error", "pong"}

    run_on(loop, main)


async def settle(feed: HandFed, client: Any) -> None:
    """Everything that was said has been done: a ping after it is answered, or the connection has ended."""
    pongs = client.types.count("pong")
    client.tell({"type": "ping"})
    await client.until(lambda: client.returned or client.types.count("pong") > pongs)
