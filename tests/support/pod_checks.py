"""What the pod link promises to a worker, as checks that run on any link: over a real socket, and in memory.

A check takes a `PodBench`: a listener process whose session the check plays, and links to it.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio
import pytest

from bridge.core.pod_wire import HOLD_SECONDS, VERSION, Answer, Relation, Segment
from bridge.core.position import Position
from bridge.errors import PodLost
from bridge.links.pod import TIMEOUT_SECONDS, PodLink
from tests.support.pod import DIGEST, FakePod

WAIT_SECONDS = 60.0
TERM = 3831627511627511297


class PodBench(Protocol):
    """A listener process that runs when a check begins, and whose session has not been opened."""

    pod: FakePod

    def link(self) -> AbstractAsyncContextManager[PodLink]: ...
    async def kill(self) -> None:
        """The listener's process is killed."""


PodCheck = Callable[[PodBench], Awaitable[None]]


async def pulled(link: PodLink, count: int) -> list[Position]:
    """The positions of so many entries, from the first one on."""
    index, positions = 0, list[Position]()
    with anyio.fail_after(WAIT_SECONDS):
        while len(positions) < count:
            answer = await link.pull(index, positions[-1] if positions else None)
            positions += [entry.position for entry in answer.entries()]
            index = answer.index + len(answer.entries())
    return positions


async def a_listener_says_who_it_is_and_what_it_holds(bench: PodBench) -> None:
    async with bench.link() as link:
        assert (link.hello.version, link.hello.digest) == (VERSION, DIGEST)
        assert (await link.look()).segments == ()
        bench.pod.open(TERM)
        bench.pod.hear(1, 2)
        bench.pod.hear_marker(TERM + 1)
        view = await link.look()
        assert (view.session, view.end) == ("proven", 4)
        assert view.segments == (Segment(TERM, 0, 0, 4),)
        assert view.relations == (Relation(TERM, TERM + 1, -3),)


async def everything_comes_in_order_to_all(bench: PodBench) -> None:
    bench.pod.open(TERM)
    async with bench.link() as one, bench.link() as other, anyio.create_task_group() as tasks:
        found: list[list[Position]] = []

        async def pull(link: PodLink) -> None:
            found.append(await pulled(link, 2001))

        tasks.start_soon(pull, one)
        tasks.start_soon(pull, other)
        for first in range(1, 2001, 100):
            bench.pod.hear(*range(first, first + 100))
            await anyio.sleep(0.0001 * (first % 7))
    assert found == [[Position(TERM, seq) for seq in range(2001)]] * 2


async def an_idle_link_stays_open(bench: PodBench) -> None:
    bench.pod.open(TERM)
    async with bench.link() as link:
        begun = anyio.current_time()
        while anyio.current_time() < begun + 1.5 * TIMEOUT_SECONDS:
            asked = anyio.current_time()
            answer = await link.pull(1, Position(TERM, 0))
            assert answer == Answer("proven", answer.relations, 1, 1, None, b"")
            assert HOLD_SECONDS <= anyio.current_time() - asked < 10 * TIMEOUT_SECONDS
        bench.pod.hear(1)
        assert len((await link.pull(1, Position(TERM, 0))).entries()) == 1


async def a_lost_session_is_told(bench: PodBench) -> None:
    bench.pod.open(TERM)
    async with bench.link() as link:
        bench.pod.lose()
        assert (await link.pull(1, Position(TERM, 0))).session == "lost"
        bench.pod.open(TERM + 1)
        answer = await link.pull(1, Position(TERM, 0))
        assert (answer.session, answer.index) == ("proven", 1)
        assert answer.entries()[0].position == Position(TERM + 1, 0)


async def a_killed_listener_is_a_lost_link(bench: PodBench) -> None:
    bench.pod.open(TERM)
    async with bench.link() as link:
        await link.look()
        await bench.kill()
        with pytest.raises(PodLost), anyio.fail_after(WAIT_SECONDS):
            await pulled(link, 1000)
    with pytest.raises(PodLost), anyio.fail_after(WAIT_SECONDS):
        async with bench.link():
            pass


POD_CHECKS: tuple[PodCheck, ...] = (
    a_listener_says_who_it_is_and_what_it_holds,
    everything_comes_in_order_to_all,
    an_idle_link_stays_open,
    a_lost_session_is_told,
    a_killed_listener_is_a_lost_link,
)
