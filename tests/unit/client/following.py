"""A client of a scripted bridge, and what it said of its connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from bridge.client import LinkState
from bridge.client.client import Client
from bridge.client.follow import Follower, running
from bridge.client.reading import Unbroken
from bridge.core.backoff import Backoff
from bridge.stream import Event, Notification
from tests.support.scripted_bridge import ScriptedBridge

RETRY_SECONDS = 5.0


@dataclass
class Following:
    client: Client
    follower: Follower[Event]
    states: list[LinkState] = field(default_factory=list)

    @property
    def waits(self) -> list[LinkState]:
        return [state for state in self.states if state.state == "waiting"]

    async def number(self) -> int:
        """The next notification's number; what comes before it is passed over."""
        while not isinstance(event := await self.client.__anext__(), Notification):
            pass
        return int(event.payload["n"])

    async def numbers(self, count: int) -> list[int]:
        return [await self.number() for _ in range(count)]


@asynccontextmanager
async def following(bridge: ScriptedBridge, **options: Any) -> AsyncIterator[Following]:
    """Over connections in memory."""
    states: list[LinkState] = []
    given: dict[str, Any] = {
        "backoff": Backoff(RETRY_SECONDS),
        "buffer_bytes": 1 << 20,
        "message_bytes": 1 << 20,
        "on_state": states.append,
        "open_stream": bridge.open_stream,
    }
    follower: Follower[Event] = Follower(bridge.url, Unbroken(None).read, **(given | options))
    async with running(follower) as buffer:
        yield Following(Client(buffer), follower, states)
