"""Nobody who resumes, with a filter that wants nothing, holds up the others: a task's turn is bounded."""

import json
from typing import Any

import pytest
import trio

from bridge.core.events import Event
from bridge.core.topics import Subscription
from bridge.hub.resume import ROUND_EVENTS
from tests.support.server import happening, running_server


class Turns(trio.abc.Instrument):
    """How often something was done in one turn of a task, at most."""

    def __init__(self) -> None:
        self.count = self.most = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        self.count = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        self.most = max(self.most, self.count)


@pytest.mark.parametrize("by_message", [False, True])
async def test_a_replay_that_brings_nothing_lets_the_others_have_their_turn(
    by_message: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, matches = Turns(), Subscription.matches

    def counted(self: Subscription, event: Event, *more: Any) -> bool:
        turns.count += 1
        return matches(self, event, *more)

    async with running_server() as server:
        events = 5 * ROUND_EVENTS
        server.hub.deliver([happening(n) for n in range(1, events + 1)])
        target = "/ws?where.n=0" + ("" if by_message else "&after=1-0")
        monkeypatch.setattr(Subscription, "matches", counted)
        trio.lowlevel.add_instrument(turns)
        client = await server.websocket(target)
        assert (await client.message())["type"] == "subscribed"  # type: ignore[call-overload]
        if by_message:
            asked = {"type": "subscribe", "sub": "late", "where": {"n": 0}, "after": "1-0"}
            await client.send_frame(json.dumps(asked).encode())
            assert (await client.message())["sub"] == "late"  # type: ignore[call-overload]
            last = await client.message()
            assert isinstance(last, dict)
            assert last["type"] == "position"
        else:
            await client.send_frame(b'{"type":"ping"}')
            with trio.fail_after(30):
                while not server.hub.members.get(server.hub.clients.__iter__().__next__()).heard:  # noqa: ASYNC110
                    await trio.sleep(0.01)
        trio.lowlevel.remove_instrument(turns)
        assert 0 < turns.most <= 2 * ROUND_EVENTS
