"""A consumer that uses `bridge.client`, on an event loop in a thread of its own, judged like any other client."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import anyio
import anyio.from_thread

from bridge.client import Client, LinkState, connect
from bridge.stream import Event, Filled, Gap, Notification, Subscribed
from tests.support.loops import LOOPS, Loop
from tests.support.oracle import View
from tests.support.process import wait_until
from tests.support.traffic import CHANNELS, Writer


@dataclass
class Consumer:
    """Takes all that comes, as fast as `pace` lets it."""

    loop: Loop
    events: list[Event] = field(default_factory=list)
    states: list[LinkState] = field(default_factory=list)
    client: Client | None = None
    error: Exception | None = None
    """What ended the stream."""
    began: float = 0.0
    subscribed: float = 0.0
    """When `Subscribed` came."""
    pace: threading.Event = field(default_factory=threading.Event)
    """While it is not set, nothing is taken."""

    def __post_init__(self) -> None:
        self.pace.set()

    async def run(self, url: str, options: dict[str, Any]) -> None:
        self.began = time.time()
        try:
            async with connect(url, *CHANNELS, on_state=self.states.append, **options) as self.client:
                async for event in self.client:
                    if not self.subscribed:
                        self.subscribed = time.time()
                    self.events.append(event)
                    while not self.pace.is_set():  # noqa: ASYNC110, it is set in another thread
                        await anyio.sleep(0.01)
        except Exception as error:
            self.error = error

    @property
    def connections(self) -> int:
        """How many it has had."""
        return sum(state.state == "connected" for state in self.states)

    @property
    def gaps(self) -> list[Gap]:
        """The final ones."""
        return [event for event in self.events if isinstance(event, Gap) and not event.pending]

    @property
    def numbers(self) -> list[int]:
        return [int(event.payload["n"]) for event in self.events if isinstance(event, Notification)]

    def wait_until_subscribed(self) -> Self:
        wait_until(lambda: self.subscribed, lambda: f"{self} never subscribed")
        return self

    def wait_for(self, number: int, seconds: float = 60.0) -> None:
        """Wait until it has this number, whatever else."""
        wait_until(lambda: number in self.numbers[-1000:], lambda: f"{self} never got {number}", seconds)

    def view(self, writer: Writer) -> View:
        """What the oracle judges. The writer must have stopped."""
        return View(
            name=self.loop,
            channels=frozenset(CHANNELS),
            asked=sum(at < self.began for at in writer.confirmed.values()),
            subscribed=sum(at <= self.subscribed for at in writer.committed.values()) if self.subscribed else None,
            messages=[_message(event) for event in self.events],
            complete=True,
        )

    def __str__(self) -> str:
        reasons = [state.reason for state in self.states if state.reason]
        return f"{self.loop} ({len(self.events)} events, error {self.error!r}, lost because of {reasons})"


@contextmanager
def consumer(loop: Loop, url: str, **options: Any) -> Iterator[Consumer]:
    """One that runs while the body does."""
    made = Consumer(loop)
    given = {"use_uvloop": True} if loop == "uvloop" else {}
    backend = "trio" if loop == "trio" else "asyncio"
    with anyio.from_thread.start_blocking_portal(backend, backend_options=given) as portal:
        running = portal.start_task_soon(made.run, url, options)
        try:
            yield made
        finally:
            running.cancel()


@contextmanager
def consumers(url: str, **options: Any) -> Iterator[list[Consumer]]:
    """One on each loop, subscribed."""
    with ExitStack() as stack:
        made = [stack.enter_context(consumer(loop, url, **options)) for loop in LOOPS]
        yield [each.wait_until_subscribed() for each in made]


def _message(event: Event) -> dict[str, Any]:
    """The event as the bridge has said it."""
    match event:
        case Subscribed():
            return {"type": "subscribed", "position": event.cursor}
        case Notification():
            said = {"type": "notification", "id": event.id, "channel": event.channel, "payload": event.payload}
            return said | ({"late": True} if event.late else {})
        case Gap():
            said = {"type": "gap", "after": event.after, "before": event.before, "reason": event.reason}
            return said | ({"pending": True} if event.pending else {})
        case Filled():
            return {"type": "filled", "after": event.after, "before": event.before}
    raise AssertionError(event)
