"""Wherever connections are cut: the consumer gets the exact sequence, and its cursor says exactly what it has."""

import json
import math
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qs

import anyio
import anyio.abc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from wsproto import WSConnection
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import AcceptConnection, CloseConnection, Event, Request, TextMessage

from bridge import stream
from bridge.client.client import Client
from bridge.client.follow import Follower, running
from bridge.client.reading import Unbroken
from bridge.core.backoff import Backoff
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.scripted_bridge import subscribed

URL = "ws://bridge.test/ws"
HINTED = (1001, 4013)


@dataclass(frozen=True)
class Cut:
    """How one connection ends, and how its bytes come."""

    after_bytes: int
    """Sent before the end; the handshake's answer counts."""
    ending: str
    """`refused`, `reset`, `eof`, or the code of a close frame."""
    visible: int
    """How many entries of the log there are by then."""
    read_bytes: int
    """At most so many arrive at a time."""


@dataclass
class Log:
    """A bridge with this log. Entry n is sent with the cursor n; the kinds differ."""

    kinds: Sequence[str]
    cuts: list[Cut]
    asked: list[int] = field(default_factory=list)

    def message(self, number: int) -> str:
        """The entry before which the log holds `number` others."""
        kind, cursor = self.kinds[number], f"1-{number + 1}"
        base: dict[str, Any] = {"type": kind, "cursor": cursor}
        if kind == "notification":
            base |= {"id": cursor, "channel": "a", "payload": number}
        elif kind == "late":
            base |= {"type": "notification", "id": f"0-{number}", "channel": "a", "payload": number, "late": True}
        elif kind == "gap":
            base |= {"after": cursor, "before": None, "reason": "failover"}
        elif kind == "filled":
            base |= {"after": cursor, "before": None}
        return json.dumps(base)

    def expected(self) -> list[stream.Word]:
        """What a consumer gets of all entries."""
        words = [stream.decode(self.message(number)) for number in range(len(self.kinds))]
        return [word for word in words if not isinstance(word, stream.Standing)]

    async def open_stream(self, _url: SplitResult, _context: ssl.SSLContext | None) -> anyio.abc.ByteStream:
        cut = self.cuts.pop(0) if self.cuts else Cut(1 << 40, "eof", len(self.kinds), 1 << 16)
        if cut.ending == "refused":
            raise ConnectionRefusedError(111, "Connection refused")
        return Cable(self, cut)


class Cable(anyio.abc.ByteStream):
    """A connection to the log, cut where it is to be cut."""

    def __init__(self, log: Log, cut: Cut) -> None:
        self._log = log
        self._cut = cut
        self._protocol = WSConnection(ConnectionType.SERVER)
        self._waiting = b""
        self._left_bytes = cut.after_bytes
        self._news = anyio.Event()

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self._protocol.receive_data(item)
        answers: list[Event] = []
        for event in self._protocol.events():
            if isinstance(event, Request):
                after = parse_qs(event.target.partition("?")[2]).get("after", ["1-0"])[0]
                start = int(after.removeprefix("1-"))
                self._log.asked.append(start)
                texts = [subscribed(after), *map(self._log.message, range(start, self._cut.visible))]
                answers += [AcceptConnection(), *(TextMessage(data=text) for text in texts)]
            elif isinstance(event, CloseConnection) and self._protocol.state is ConnectionState.REMOTE_CLOSING:
                answers.append(event.response())
        self._waiting += b"".join(bytes(self._protocol.send(answer)) for answer in answers)
        self._news.set()

    async def receive(self, max_bytes: int = 65536) -> bytes:  # noqa: ARG002, as the base has it
        await anyio.lowlevel.checkpoint()
        while not self._waiting and self._left_bytes:
            if self._cut.after_bytes < 1 << 40:
                self._left_bytes = 0  # nothing more to say: the end comes now
                break
            self._news = anyio.Event()
            await self._news.wait()
        if not self._left_bytes:
            return self._end()
        data = self._waiting[: min(self._left_bytes, self._cut.read_bytes)]
        self._waiting = self._waiting[len(data) :]
        self._left_bytes -= len(data)
        return data

    def _end(self) -> bytes:
        if self._cut.ending == "reset":
            raise anyio.BrokenResourceError
        if self._cut.ending == "eof" or self._waiting:
            raise anyio.EndOfStream
        self._waiting = b""
        code, self._cut = int(self._cut.ending), Cut(0, "eof", 0, 1)
        reason = "retry=1" if code in HINTED else "x"
        return bytes(self._protocol.send(CloseConnection(code=code, reason=reason)))

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


@dataclass(frozen=True)
class Plan:
    kinds: list[str]
    cuts: list[Cut]
    leaves: list[int]
    """The consumer leaves after so many events, and begins anew with the cursor that it had."""
    pauses: list[int]
    """It rests before these events, by their number."""
    buffer_bytes: int


KINDS = st.sampled_from(["notification"] * 4 + ["late", "gap", "filled", "position"])
ENDINGS = st.sampled_from(["refused", "reset", "eof", "1000", "1001", "1006", "4008", "4013"]).map(
    lambda ending: "eof" if ending == "1006" else ending
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    kinds = draw(st.lists(KINDS, min_size=1, max_size=30))
    count = draw(st.integers(0, 8))
    visible = sorted(draw(st.lists(st.integers(0, len(kinds)), min_size=count, max_size=count)))
    cuts = [Cut(draw(st.integers(1, 1500)), draw(ENDINGS), up_to, draw(st.integers(1, 2000))) for up_to in visible]
    leaves = draw(st.lists(st.integers(1, 10), max_size=3))
    pauses = draw(st.lists(st.integers(0, 30), max_size=4))
    return Plan(kinds, cuts, leaves, pauses, draw(st.sampled_from([1, 1000, 1 << 20])))


async def consume(plan: Plan, pause_seconds: float, longest_seconds: float) -> tuple[Log, list[stream.Event], int]:
    """All that the consumer gets until it has everything, and how many times it began."""
    log = Log(plan.kinds, list(plan.cuts))
    wanted, got = len(log.expected()), list[stream.Event]()
    cursor: str | None = None
    leaves = [*plan.leaves, math.inf]
    for begun, stay in enumerate(leaves, 1):  # noqa: B007
        url = URL if cursor is None else f"{URL}?after={cursor}"
        follower: Follower[stream.Event] = Follower(
            url,
            Unbroken(cursor).read,
            backoff=Backoff(longest_seconds),
            after=cursor,
            buffer_bytes=plan.buffer_bytes,
            message_bytes=1000,
            spread_seconds=0.0,
            open_stream=log.open_stream,
            on_state=lambda _link: None,
        )
        async with running(follower) as buffer:
            client, taken = Client(buffer), 0
            while len(got) < wanted and taken < stay:
                if len(got) in plan.pauses:
                    await anyio.sleep(pause_seconds)
                event = await client.__anext__()
                if isinstance(event, stream.Subscribed):
                    assert taken == 0
                else:
                    got.append(event)
                    assert client.cursor is not None
                    reached = int(client.cursor.removeprefix("1-"))
                    assert sum(kind != "position" for kind in plan.kinds[:reached]) == len(got)
                taken += 1
            cursor = client.cursor
        if len(got) == wanted:
            break
    return log, got, begun


@settings(max_examples=300)
@given(plans())
def test_the_exact_sequence_wherever_connections_are_cut(plan: Plan) -> None:
    options = {"clock": MockClock(autojump_threshold=0)}
    log, got, _ = anyio.run(consume, plan, 3.0, 5.0, backend="trio", backend_options=options)
    assert got == log.expected()
    assert log.asked[:1] in ([], [0])


@pytest.mark.parametrize("loop", LOOPS)
def test_the_exact_sequence_on_every_loop(loop: Loop) -> None:
    @settings(max_examples=25)
    @given(plans())
    def check(plan: Plan) -> None:
        if any(cut.ending in map(str, HINTED) for cut in plan.cuts):  # they are believed, and that takes a second
            plan = Plan(plan.kinds, [], plan.leaves, plan.pauses, plan.buffer_bytes)
        log, got, _ = run_on(loop, consume, plan, 0.002, 0.001)
        assert got == log.expected()

    check()


@pytest.mark.parametrize("ending", ["reset", "eof", "4008"])
def test_every_place_in_the_bytes_of_a_conversation(ending: str) -> None:
    kinds = ["notification", "gap", "position", "late", "filled", "notification"]
    options = {"clock": MockClock(autojump_threshold=0)}
    asked: set[int] = set()
    for place in range(1, 1100):
        plan = Plan(kinds, [Cut(place, ending, 6, 64)], [], [], 1 << 20)
        log, got, begun = anyio.run(consume, plan, 0.0, 5.0, backend="trio", backend_options=options)
        assert (got, begun) == (log.expected(), 1)
        asked.update(log.asked[1:])
    assert asked == {0, 1, 2, 3, 4, 5}
