"""Whatever fans out: the bridge, a bare loop, a peer. A benchmark sees all of them through these few names."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.lib.bridge import Servers, bridge
from benchmarks.lib.compiled import compiled
from benchmarks.lib.lines import LineProcess
from benchmarks.lib.processes import tree
from benchmarks.lib.publisher import Publisher, payload
from benchmarks.lib.receiver import BRIDGE, ClientForm
from bridge.core.events import Notification, event
from bridge.core.position import Position
from bridge.core.wire import text_frame


@dataclass
class Running:
    """A system that takes clients."""

    port: int
    form: ClientForm
    pids: Callable[[], list[int]]
    """Its processes; not those of PostgreSQL, Redis and whoever publishes."""
    burst: Callable[[int], None]
    """Publish so many messages as fast as its source takes them."""
    one: Callable[[int], None]
    """Publish one message, with this number."""
    before_connect: Callable[[int], None] = field(default=lambda _: None)
    """To be called with the number of clients that will connect, and `after_connect` when they have."""
    after_connect: Callable[[], None] = field(default=lambda: None)
    after_disconnect: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True)
class System:
    """What is compared, and how to start it."""

    name: str
    kind: Literal["bridge", "bare", "peer"]
    start: Callable[[Servers], AbstractContextManager[Running]]
    most_messages: int = 1 << 40
    """Of a burst: more it does not bear."""
    promises: str = ""
    """What it guarantees a client."""
    source: str = ""
    """Where its messages come from."""
    missing: Callable[[], str | None] = field(default=lambda: None)
    """What to do before it can be measured; None where it can."""
    versions: Callable[[], dict[str, str]] = field(default=dict)


def bridge_system(mode: Literal["direct", "redis"], workers: int | None = None) -> System:
    """`python -m bridge serve` in this mode."""

    @contextlib.contextmanager
    def start(servers: Servers) -> Iterator[Running]:
        with (
            bridge(*servers, mode=mode, workers=workers) as running,
            Publisher(servers.database_url) as publisher,
        ):
            yield Running(
                running.port, BRIDGE, running.pids, publisher.burst, lambda number: publisher.send(payload(number))
            )

    through = "through Redis" if mode == "redis" else "direct"
    name = f"bridge, {through}" + (f", {workers} workers" if workers else "")
    return System(name, "bridge", start, promises="nothing lost silently, nothing twice", source="PostgreSQL NOTIFY")


def sample_frame() -> bytes:
    """What the bridge sends for one notification."""
    position = Position(749_166_000_000_000, 100_000)
    return text_frame(event(position, Notification("match_change", payload(1).encode())).data)


def local_system(language: Literal["C", "Python", "hub"], together: int) -> System:
    """A process that sends what it makes itself: the same bytes as the bridge, `together` messages in a call."""

    @contextlib.contextmanager
    def start(_: Servers) -> Iterator[Running]:
        frame = sample_frame().hex()
        commands: dict[str, Callable[[], list[str]]] = {
            "C": lambda: [str(compiled("bare")), frame],
            "Python": lambda: [sys.executable, "-m", "benchmarks.lib.bare_python", frame],
            "hub": lambda: [sys.executable, "-m", "benchmarks.lib.hub_alone"],
        }
        with LineProcess(commands[language](), f"bare {language}") as process:
            (port,) = process.answer("listening")
            yield Running(
                int(port),
                BRIDGE if language == "hub" else ClientForm(),
                lambda: tree(process.pid),
                lambda count: drop(process.ask(f"send {count} {together}", "sent")),
                lambda _: drop(process.ask("send 1 1", "sent")),
                lambda count: process.tell(f"accept {count}"),
                lambda: drop(process.answer("accepted")),
                lambda: drop(process.ask("close", "closed")),
            )

    what = "the hub alone" if language == "hub" else f"bare send loop in {language}"
    return System(f"{what}, joined by {together}", "bridge" if language == "hub" else "bare", start, source="itself")


def drop(_: object) -> None:
    """For a callback whose answer nobody wants."""
