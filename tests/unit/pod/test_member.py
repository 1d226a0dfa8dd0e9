"""A worker that is asked for what all processes of its pod say, and asks the supervisor."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from bridge.pod.collector import ANSWER_SECONDS
from bridge.pod.control import ANSWERING, QUEUED, Control, Kind
from bridge.pod.member import ASK_SECONDS, Member
from tests.support.pod import assignment

CROWD = ANSWERING + QUEUED + 20


class Supervisor:
    """The other end. It answers while it `may_answer`."""

    def __init__(self, end: socket.socket) -> None:
        self.asked = 0
        self.may_answer = trio.Event()
        self.may_answer.set()
        end.setblocking(False)
        self.control = Control(end, lambda _, __: None, self._answer)

    async def _answer(self, kind: Kind) -> bytes:
        self.asked += 1
        await self.may_answer.wait()
        return kind.encode()


@asynccontextmanager
async def worker() -> AsyncIterator[tuple[Member, Supervisor]]:
    ours, theirs = socket.socketpair()
    member, supervisor = Member(assignment(theirs.detach())), Supervisor(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.control.run)
        nursery.start_soon(member.run)
        yield member, supervisor
        nursery.cancel_scope.cancel()


async def test_everybody_of_a_crowd_gets_what_all_processes_say() -> None:
    answers: list[bytes | None] = []

    async def ask(member: Member, kind: Kind) -> None:
        answers.append(await member.ask(kind))

    async with worker() as (member, supervisor):
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(CROWD):
                    nursery.start_soon(ask, member, "metrics")
                    nursery.start_soon(ask, member, "status")
        assert supervisor.asked <= 4
    assert sorted(answer or b"" for answer in answers) == [b"metrics"] * CROWD + [b"status"] * CROWD


async def test_a_supervisor_that_is_stopped_is_not_waited_for() -> None:
    async with worker() as (member, supervisor):
        supervisor.may_answer = trio.Event()
        with trio.fail_after(ASK_SECONDS + 0.5):
            assert await member.ask("status") is None


def test_a_child_that_is_stopped_does_not_keep_all_from_answering_in_time() -> None:
    assert 2 * ANSWER_SECONDS < ASK_SECONDS
    assert 2 * ASK_SECONDS < 2
