"""Clients that resume by cursor whatever happens to them, and the judgement of what they were told.

The promise: from `subscribed` on, every committed event once, in order but for those marked `late`; where one is
missing, one final `gap` says so, at that place.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import websockets.exceptions
import websockets.sync.client

from conformance.lib.tools import Psql, Writer, writing
from conformance.lib.wait import wait_for

RETRY_SECONDS = 0.1
SETTLE_SECONDS = 60.0
STRAY_SECONDS = 0.5
"""How long to go on listening when all have all: for what comes a second time."""


def cursor_of(message: dict[str, Any]) -> str | None:
    """What to resume with after this message: its cursor, or its id; None where it says nothing of that."""
    cursor = message.get("cursor") or message.get("position")
    return cursor or (message["id"] if message["type"] == "notification" else None)


class Story(list[dict[str, Any]]):
    """What a client was told, but positions and what is subscribed to."""

    @property
    def numbers(self) -> list[int]:
        return [message["payload"]["n"] for message in self if message["type"] == "notification"]

    @property
    def gaps(self) -> list[dict[str, Any]]:
        """The final ones."""
        return [message for message in self if message["type"] == "gap" and not message.get("pending")]

    @property
    def unfinished(self) -> int:
        """Pending gaps that have neither been filled nor become final."""
        opened = sum(1 for message in self if message["type"] == "gap" and message.get("pending"))
        ends = {(m["after"], m["before"]) for m in self if m["type"] == "filled"}
        ends |= {(m["after"], m["before"]) for m in self.gaps}
        starts = {(m["after"], m["before"]) for m in self if m["type"] == "gap" and m.get("pending")}
        return len(starts - ends) if opened else 0


class Traveller:
    """A client that goes to the next server whenever its connection ends, and goes on after its cursor."""

    def __init__(self, urls: Sequence[str], path: str, token: str | None) -> None:
        self.story = Story()
        """Over all its connections."""
        self.heard: set[int] = set()
        """The numbers of its story."""
        self.closes: list[tuple[int | None, str]] = []
        self.connections = 0
        self._urls = [url.replace("http", "ws", 1) + path for url in urls]
        self._token = token
        self._cursor: str | None = None
        self._ending = threading.Event()
        self._subscribed = threading.Event()
        self._thread = threading.Thread(target=self._travel, daemon=True)
        self._thread.start()

    def ready(self) -> None:
        assert self._subscribed.wait(60), "never subscribed"

    def move(self) -> None:
        """Leave the server for the next one."""
        self._connection.close()

    def end(self) -> None:
        self._ending.set()
        self._thread.join(20)

    def _travel(self) -> None:
        number = 0
        while not self._ending.is_set():
            after = f"&after={quote(self._cursor)}" if self._cursor else ""
            try:
                with websockets.sync.client.connect(
                    self._urls[number % len(self._urls)] + after,
                    additional_headers={"Authorization": f"Bearer {self._token}"} if self._token else None,
                    max_size=None,
                    max_queue=None,
                    proxy=None,
                    open_timeout=30,
                    ping_interval=None,
                    close_timeout=1,
                ) as self._connection:
                    self.connections += 1
                    self._listen(self._connection)
            except (OSError, websockets.exceptions.InvalidHandshake, websockets.exceptions.InvalidMessage, EOFError):
                time.sleep(RETRY_SECONDS)
            number += 1

    def _listen(self, connection: websockets.sync.client.ClientConnection) -> None:
        while not self._ending.is_set():
            try:
                message = json.loads(connection.recv(0.2))
            except TimeoutError:
                continue
            except websockets.exceptions.ConnectionClosed as error:
                self.closes.append((error.rcvd.code, error.rcvd.reason) if error.rcvd else (None, ""))
                return
            self._cursor = cursor_of(message) or self._cursor
            if message["type"] == "subscribed":
                self._subscribed.set()
            elif message["type"] != "position":
                self.story.append(message)
                if message["type"] == "notification":
                    self.heard.add(message["payload"]["n"])


@dataclass
class Journey:
    """A writer and the travellers that must get all it commits."""

    writer: Writer
    travellers: dict[str, Traveller] = field(default_factory=dict)

    def flow(self, more: int = 30, seconds: float = 60.0) -> None:
        """Go on until so many more were written, and every traveller has got as far."""
        self.writer.reaches(more)
        self._everybody_gets(self.writer.last, seconds)

    def pause(self) -> None:
        """Stop writing, until everybody has all."""
        self._everybody_gets(self.writer.stop(), 60.0)

    def write_again(self, psql: Psql) -> None:
        """Go on writing after a pause."""
        self.writer = self.writer.successor(psql)

    def settle(self, final_gaps: int = 0) -> None:
        """Stop writing, wait for what is on its way, and judge. So many final gaps are right for each traveller."""
        last = self.writer.stop()
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline and any(self._problems(last)):
            time.sleep(0.1)
        time.sleep(STRAY_SECONDS)
        problems = list(self._problems(last))
        assert not problems, "\n".join([*problems, *self._told()])
        for name, traveller in self.travellers.items():
            assert len(traveller.story.gaps) == final_gaps, f"{name} was told of {traveller.story.gaps}"

    def _everybody_gets(self, goal: int, seconds: float) -> None:
        wait_for(
            lambda: all(goal in traveller.heard for traveller in self.travellers.values()),
            f"everybody gets {goal}; they had {[t.story.numbers[-1:] for t in self.travellers.values()]}",
            seconds,
        )

    def _told(self) -> list[str]:
        """What was said of gaps, and the numbers around."""
        lines = []
        for name, traveller in self.travellers.items():
            newest = 0
            for message in traveller.story:
                if message["type"] == "notification":
                    newest = message["payload"]["n"]
                else:
                    lines.append(f"{name}, after {newest}: {message}")
        return lines

    def _problems(self, last: int) -> list[str]:
        return [
            f"{name}: {problem}"
            for name, traveller in self.travellers.items()
            for problem in problems(traveller.story, last)
        ]


@contextmanager
def journeying(
    travellers: dict[str, Traveller], psql: Psql, channels: Sequence[str], run: str, per_second: float = 100.0
) -> Iterator[Journey]:
    """A writer beside these travellers, everything flowing; they end with the block."""
    try:
        for traveller in travellers.values():
            traveller.ready()
        with writing(psql, channels, run, per_second) as writer:
            journey = Journey(writer, travellers)
            journey.flow()
            try:
                yield journey
            finally:
                journey.writer.stop()
    finally:
        for traveller in travellers.values():
            traveller.end()


def problems(story: Story, last: int) -> list[str]:
    """What is wrong with the story of somebody who should know 1 to `last`."""
    numbers = story.numbers
    found = [f"{number} came {count} times" for number, count in Counter(numbers).items() if count > 1]
    found += [f"{number} was rolled back" for number in numbers if number < 0]
    found += [f"{number} is missing, and no gap says so" for number in sorted(_unexplained(story, last))[:5]]
    newest = 0
    for message in story:
        if message["type"] != "notification" or message.get("late"):
            continue
        number = message["payload"]["n"]
        if number < newest:
            found.append(f"{number} came after {newest} and is not marked late")
        newest = max(newest, number)
    if story.unfinished:
        found.append("a pending gap has not ended")
    return found


def _unexplained(story: Story, last: int) -> set[int]:
    """The missing numbers that lie in no final gap: after what had come in order before it, before what came next.

    A gap that was pending before it became final lies where it was told of first.
    """
    missing = set(range(1, last + 1)) - set(story.numbers)
    final = {(gap["after"], gap["before"]) for gap in story.gaps}
    for place, message in enumerate(story):
        if message["type"] == "gap" and (message["after"], message["before"]) in final:
            before = max(_in_order(story[:place]), default=0)
            after = min(_in_order(story[place + 1 :]), default=last + 1)
            missing -= set(range(before + 1, after))
    return missing


def _in_order(story: Sequence[dict[str, Any]]) -> list[int]:
    return [m["payload"]["n"] for m in story if m["type"] == "notification" and not m.get("late")]
