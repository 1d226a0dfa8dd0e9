"""The bound of all buffers together, where readers in this process hold most of it."""

import trio

from bridge.core.position import Position
from bridge.core.topics import Subscription
from bridge.core.wire import OVERLOADED, TOO_SLOW
from bridge.hub import Inbox
from bridge.hub.client import State
from tests.support.peers import happening, make_hub

STALLED = 40


async def test_readers_that_were_too_slow_give_up_what_they_hold_and_nobody_else_has_to() -> None:
    hub = make_hub(client_bytes=16_000, total_bytes=32 * 16_000)
    hub.set_live(Position(1, 0))
    async with trio.open_nursery() as nursery:

        def reader(channel: str) -> Inbox:
            inbox = Inbox(nursery.start_soon, hub.buffers)
            hub.subscribe(inbox, None, Subscription(frozenset(channel)))
            return inbox

        stalled = [reader("a") for _ in range(STALLED)]
        healthy = reader("b")
        assert await healthy.take() is not None  # `subscribed`
        for n, one in enumerate(stalled):  # each holds bytes of its own, as readers of different channels do
            while one.state is State.OPEN:
                one.put(b"%d" % n + b"x" * 4000)
        assert hub.buffers.total_bytes > hub.buffers.all_bytes
        for n in range(1, 21):
            hub.deliver([happening(n, channel="b")])
            assert healthy.state is State.OPEN
            assert await healthy.take() is not None
        assert hub.buffers.total_bytes <= hub.buffers.all_bytes
        assert {one.close_code for one in stalled} == {TOO_SLOW}
        assert healthy.close_code != OVERLOADED
        nursery.cancel_scope.cancel()
