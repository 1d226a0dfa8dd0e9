"""Two ends of one pair of sockets, in one process."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from bridge.pod.control import ANSWERING, QUEUED, Control, Kind


class Side:
    """One end, and what the other side told it."""

    def __init__(self, end: socket.socket) -> None:
        self.told: list[tuple[Kind, bytes]] = []
        self.asked: list[Kind] = []
        self.may_answer = trio.Event()
        self.may_answer.set()
        self.gone = trio.Event()
        end.setblocking(False)
        self.control = Control(end, lambda kind, body: self.told.append((kind, body)), self._answer)

    async def _answer(self, kind: Kind) -> bytes:
        self.asked.append(kind)
        await self.may_answer.wait()
        return b"answer to " + kind.encode()

    async def run(self) -> None:
        await self.control.run()
        self.gone.set()


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Side, Side, trio.Nursery]]:
    one, other = map(Side, socket.socketpair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(other.run)
        yield one, other, nursery
        nursery.cancel_scope.cancel()


async def test_what_is_told_arrives_in_order_and_whole() -> None:
    bodies = [bytes([number]) * size for number, size in enumerate((0, 1, 70_000, 1_000_000, 3))]
    async with pair() as (one, other, _):
        for body in bodies:
            assert one.control.tell("works", body)
        assert other.control.tell("drain")
        with trio.fail_after(30):
            await one.control.flush(5)
            while len(other.told) < len(bodies):  # noqa: ASYNC110, what is told is not awaited
                await trio.sleep(0.001)
        assert other.told == [("works", body) for body in bodies]
        assert one.told == [("drain", b"")]


async def test_questions_both_ways_at_the_same_time() -> None:
    async with pair() as (one, other, _):
        found: list[bytes | None] = []

        async def ask(side: Side, kind: Kind) -> None:
            found.append(await side.control.ask(kind, 5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, one, "snapshot")
            nursery.start_soon(ask, other, "status")
            nursery.start_soon(ask, other, "metrics")
        assert sorted(filter(None, found)) == [b"answer to metrics", b"answer to snapshot", b"answer to status"]


async def test_an_answer_that_comes_too_late_is_none_and_harms_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as (one, other, _):
        other.may_answer = trio.Event()
        assert await one.control.ask("snapshot", 1.0) is None
        other.may_answer.set()
        assert await one.control.ask("status", 1.0) == b"answer to status"


async def test_who_asks_learns_at_once_that_the_other_is_gone() -> None:
    async with pair() as (one, other, nursery):
        other.may_answer = trio.Event()
        found: list[bytes | None] = []

        async def ask() -> None:
            found.append(await one.control.ask("snapshot", 60))

        nursery.start_soon(ask)
        await wait_all_tasks_blocked(0.05)
        await other.control._stream.aclose()
        with trio.fail_after(30):
            await one.gone.wait()
            await other.gone.wait()
            while not found:  # noqa: ASYNC110, as above
                await trio.sleep(0.001)
        assert found == [None]
        assert not one.control.tell("drain")
        assert await one.control.ask("snapshot", 60) is None
        await one.control.flush(60)


async def test_what_nobody_reads_is_bounded() -> None:
    end, _silent = socket.socketpair()
    side = Side(end)
    with _silent:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(side.run)
            accepted = 0
            while side.control.tell("works", bytes(50_000)):
                accepted += 1
                await wait_all_tasks_blocked(0.001)
            assert QUEUED <= accepted < QUEUED + 20, "the queue, and what the kernel takes"
            assert await side.control.ask("snapshot", 60) is None
            nursery.cancel_scope.cancel()


async def test_more_questions_than_can_be_answered_stay_without_an_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pair() as (one, other, _):
        other.may_answer = trio.Event()
        found: list[bytes | None] = []

        async def ask() -> None:
            found.append(await one.control.ask("snapshot", 1))

        async with trio.open_nursery() as nursery:
            for _number in range(ANSWERING + 5):
                nursery.start_soon(ask)
        assert found == [None] * (ANSWERING + 5)
        assert len(other.asked) == ANSWERING


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\3abc", b"\0\0\0\1\x91", b"\0\0\0\6\x93\xa1x\0\xc4\0"])
async def test_nonsense_ends_it(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    end, theirs = socket.socketpair()
    side = Side(end)
    with theirs:
        theirs.sendall(data)
        with trio.fail_after(30):
            await side.run()
        with suppress(ConnectionError):
            assert theirs.recv(1) == b""
    assert "do not understand each other" in caplog.text
    assert side.told == []
