"""The JavaScript client in a Node of its own, following a bridge, and what it got."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.cli import ROOT
from tests.support.fleet import LISTENER, WORKER, Fleet, Servers, running_fleet
from tests.support.oracle import Message, View, violations
from tests.support.process import wait_until
from tests.support.redis import free_port
from tests.support.traffic import CHANNELS, Writer, all_committed

CLIENT = ROOT / "bridge" / "server" / "page" / "client.js"
FOLLOW = ROOT / "tests" / "javascript" / "follow.mjs"
OWN_WEBSOCKET = "--experimental-websocket"
"""What Node 20 wants to be told, and later versions take."""
PER_SECOND = 200.0
SETTLE_SECONDS = 60.0
STRAY_SECONDS = 0.3
"""How long to go on listening after all has come: for what comes a second time."""


class Follower:
    """What somebody got who hears by the client. `at` are wall-clock seconds."""

    def __init__(self) -> None:
        self.began = time.time()
        self.lines: list[dict[str, Any]] = []

    @property
    def messages(self) -> list[Message]:
        return [line["message"] for line in list(self.lines) if "message" in line]

    @property
    def changes(self) -> list[dict[str, Any]]:
        return [line["change"] for line in list(self.lines) if "change" in line]

    @property
    def states(self) -> list[str]:
        return [change["state"] for change in self.changes]

    @property
    def numbers(self) -> list[int]:
        return [message["payload"]["n"] for message in self.messages if message["type"] == "notification"]

    def of_type(self, kind: str) -> list[Message]:
        return [message for message in self.messages if message["type"] == kind]

    def until(self, condition: Callable[[], object], seconds: float = SETTLE_SECONDS) -> None:
        wait_until(condition, lambda: f"it has got {self.numbers[-3:]} and said {self.changes[-5:]}", seconds)

    def until_listening(self) -> None:
        self.until(lambda: self.of_type("subscribed"))

    def until_has(self, number: int) -> None:
        self.until(lambda: max(self.numbers[-400:], default=0) >= number)

    def view(self, writer: Writer) -> View:
        """What the oracle judges. The writer must have stopped."""
        subscribed = next(line["at"] for line in self.lines if line.get("message", {}).get("type") == "subscribed")
        return View(
            name="the follower",
            channels=frozenset(CHANNELS),
            asked=sum(at < self.began for at in writer.confirmed.values()),
            subscribed=sum(at <= subscribed for at in writer.committed.values()),
            messages=self.messages,
            complete=True,
        )

    def judge(self, writer: Writer) -> None:
        """Stop writing, wait for the rest, and fail unless all came once, in order, and without a gap."""
        writer.stop()
        self.until_has(writer.last)
        time.sleep(STRAY_SECONDS)
        assert violations(all_committed(writer), [self.view(writer)]) == []
        assert self.of_type("gap") == []
        assert len(self.of_type("subscribed")) == 1


class NodeFollower(Follower):
    """One in a process of its own, by `ws`, or without `node_modules` by Node's own WebSocket."""

    def __init__(self, node_modules: Path | None, url: str, options: Mapping[str, object]) -> None:
        super().__init__()
        flags = ["--no-warnings", *([OWN_WEBSOCKET] if node_modules is None else [])]
        self.process = subprocess.Popen(
            ["node", *flags, str(FOLLOW), str(CLIENT), url, str(node_modules or ""), json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self) -> str:
        """Kill it, if it has not ended; what it wrote to standard error."""
        self.process.kill()
        self._reader.join(10)
        said = self.process.stderr.read() if self.process.stderr is not None else ""
        self.process.wait(60)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return said

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))


@contextmanager
def following(node_modules: Path | None, url: str, **options: object) -> Iterator[NodeFollower]:
    """The client, at this URL, with these options; killed at the end. It must not complain."""
    follower = NodeFollower(node_modules, url, options)
    try:
        yield follower
    finally:
        said = follower.end()
    assert said == ""


@contextmanager
def worker_and_writer(servers: Servers, prefix: str, **settings: str) -> Iterator[tuple[Fleet, str, Writer]]:
    """A listener, a worker that is always found at this URL, and somebody who writes."""
    with running_fleet(servers, prefix) as fleet:
        port = free_port()
        fleet.add("listener", LISTENER)
        fleet.add("worker", WORKER, BRIDGE_PORT=str(port), **settings)
        fleet.wait()
        writer = Writer(fleet.postgres.url(), PER_SECOND).start()
        try:
            yield fleet, f"http://127.0.0.1:{port}", writer
        finally:
            writer.stop()


def flow(writer: Writer, more: int = 100) -> int:
    """Let so many more be written; the newest."""
    goal = writer.last + more
    wait_until(lambda: writer.last >= goal, lambda: "nothing is written")
    return writer.last
