"""Clients of a simulated worker: what their sockets get, or their tasks read, is what the oracle sees."""

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Literal

import anyio
import anyio.lowlevel
import msgspec

from bridge import stream
from bridge.hub import Client
from bridge.inprocess import Subscription
from tests.support.oracle import Message, View
from tests.support.told import message_of

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

STAY_SECONDS = 3.0
"""A traveller stays so long with one process, at most."""
AWAY_SECONDS = 0.3
"""It looks for another one so often."""
MOST_LOST = 4
SLOW_BYTES = 2000
"""What may wait for a slow reader: some twenty events."""
SLOW_SHARE = 0.2
"""After so many of the events it has to do something else,"""
SLOW_SECONDS = 1.0
"""for so long, at most."""
IMPATIENT_SECONDS = 0.1
"""An impatient one waits for an event about so long, at most, before it tries again."""
MOST_STEPS = 10
CLOSED = stream.ModeChange("none", "closed")

Manner = Literal["plain", "slow", "impatient"]

Reader = Client | Subscription
"""A client behind a socket, or one in the same process."""
See = Callable[[Reader | None, Message], None]
"""Gets each message, and who reads it (None: who is just connecting)."""

_message = msgspec.json.Decoder(dict)


class ClientSocket:
    """Takes everything at once, and gives each message to `see`."""

    def __init__(self, see: See) -> None:
        self.client: Reader | None = None
        self._see = see

    def send(self, data: bytes) -> int:
        for message in _text_messages(data):
            self._see(self.client, message)
        return len(data)

    def sendmsg(self, views: Sequence[memoryview]) -> int:
        return sum(self.send(bytes(view)) for view in views)

    def setsockopt(self, *_: object) -> None: ...

    def shutdown(self, _: int) -> None: ...


async def read(subscription: Subscription, see: See, world: "World", manner: Manner) -> None:
    """Give each event to `see`, until the subscription is closed."""
    choices = Random(len(world.views))
    while True:
        if manner == "impatient":
            event = await _next_unless_interrupted(subscription, world, choices)
        else:
            event = await anext(subscription, CLOSED)
        if event is CLOSED:
            return
        message = None if event is None else message_of(event)
        if message is not None:
            see(subscription, message)
        if manner == "slow" and not world.hurries and choices.random() < SLOW_SHARE:
            await anyio.sleep(choices.random() * SLOW_SECONDS)


async def _next_unless_interrupted(subscription: Subscription, world: "World", choices: Random) -> stream.Event | None:
    event: stream.Event | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_interrupt, tasks.cancel_scope, world, choices)
        event = await anext(subscription, CLOSED)
        tasks.cancel_scope.cancel()
    return event


async def _interrupt(scope: anyio.CancelScope, world: "World", choices: Random) -> None:
    """Cancel at some time, and then a few steps after something has arrived: perhaps just when that is taken."""
    await anyio.sleep(choices.random() * IMPATIENT_SECONDS)
    await anyio.sleep_until(world.agenda.next_at)
    for _ in range(choices.randrange(MOST_STEPS)):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


class Traveller:
    """A client that goes from process to process, loses what was under way, and goes on by its cursor alone.

    The oracle sees one stream: what all its connections brought.
    """

    def __init__(self, world: "World", number: int, channel_set: int, channels: frozenset[str]) -> None:
        self.settled = False
        """Whether it stays where it is from now on."""
        self._world = world
        self._name = f"traveller{number}"
        self._choices = Random(world.seed + number)
        self._channel_set = channel_set
        self._channels = channels
        self._process: Process | None = None
        self._client: Reader | None = None
        self.view: View | None = None
        self._cursors: list[str | None] = []
        """After each message of the view."""

    @property
    def connected(self) -> bool:
        return self._process is not None and self._client is not None and self._process.has(self._client)

    async def travel(self) -> None:
        """Never returns."""
        choices = self._choices
        while True:
            if self.connected and not self.settled:
                await anyio.sleep(choices.random() * STAY_SECONDS)
                if not self.settled:
                    self._leave(choices.randrange(MOST_LOST))
            if not self.connected:
                self._go_somewhere()
            await anyio.sleep(AWAY_SECONDS)

    def _leave(self, lost: int) -> None:
        if self._process is not None and self._client is not None:
            self._process.disconnect(self._client)
        self._client = None
        view = self.view
        if view is not None and not self.settled:
            keep = max(1, len(view.messages) - lost)
            del view.messages[keep:]
            del self._cursors[keep:]

    def _go_somewhere(self) -> None:
        there = [
            one
            for one in self._world.processes
            if one.serves and one.reachable and one.channel_set == self._channel_set
        ]
        if not there:
            return
        self._process = self._choices.choice(there)
        after = self._cursors[-1] if self._cursors else None
        if after is None:
            self.view = self._world.new_view(self._name, self._channels)
            self._cursors = []
        self._client = self._process.connect(self._see, self._channels, after)

    def _see(self, client: Reader | None, message: Message) -> None:
        view = self.view
        if view is None or (client is not None and client is not self._client):
            return
        if message["type"] == "subscribed":
            if self._cursors:
                return
            view.subscribed = len(self._world.committed)
        view.messages.append(message)
        cursor = message.get("cursor") or message.get("id") or message.get("position")
        self._cursors.append(cursor or (self._cursors[-1] if self._cursors else None))


def _text_messages(data: bytes) -> list[Message]:
    """The messages in a row of whole unmasked frames."""
    messages, at = [], 0
    while at < len(data):
        kind, size, at = data[at], data[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[at : at + width], "big"), at + width
        if kind == 0x81:
            messages.append(_message.decode(data[at : at + size]))
        at += size
    return messages
