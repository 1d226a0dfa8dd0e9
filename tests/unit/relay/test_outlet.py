"""The listener's side of the pod link, asked over a real socket."""

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
import trio
import trio.testing

from bridge.core.pod_wire import (
    MAX_ANSWER_ENTRIES,
    VERSION,
    Answer,
    Frames,
    Hello,
    Look,
    Pull,
    Relation,
    Segment,
    View,
    frame,
)
from bridge.core.position import Position
from bridge.errors import PodLost
from bridge.links.pod import open_pod
from bridge.relay.outlet import KEPT_LINES, MAX_READERS, SILENT_TICKS, TICK_SECONDS
from tests.support.pod import DIGEST, FakePod

TERM = 7 << 22


@asynccontextmanager
async def serving(pod: FakePod, path: Path) -> AsyncIterator[Path]:
    async with trio.open_nursery() as nursery:
        await nursery.start(pod.outlet.serve, path)
        yield path
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "listener.sock"


def payloads(answer: Answer) -> list[int]:
    return [int(entry.event.data.rpartition(b":")[2][:-1]) for entry in answer.entries() if entry.event is not None]


async def test_it_says_who_it_is_and_what_it_holds(path: Path) -> None:
    pod = FakePod()
    pod.open(TERM)
    pod.hear(1, 2)
    pod.hear_marker(TERM + 1)
    async with serving(pod, path), open_pod(path) as link:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert (link.hello.version, link.hello.digest) == (VERSION, DIGEST)
        view = await link.look()
        assert view.session == "proven"
        assert view.segments == (Segment(TERM, 0, 0, 4),)
        assert view.relations == (Relation(TERM, TERM + 1, -3),)
        assert (await link.look()).relations == ()


async def test_it_answers_as_soon_as_something_is_heard(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    pod = FakePod()
    pod.open(TERM)
    async with serving(pod, path), open_pod(path) as link:
        answer = await link.pull(0, None)
        assert (answer.index, answer.end, answer.session) == (0, 1, "proven")
        assert [entry.position for entry in answer.entries()] == [Position(TERM, 0)]
        async with trio.open_nursery() as nursery:
            asked = trio.current_time()

            @nursery.start_soon
            async def ask() -> None:
                answer = await link.pull(1, Position(TERM, 0))
                assert payloads(answer) == [1]
                assert answer.age_seconds == pytest.approx(0.35)
                assert trio.current_time() == pytest.approx(asked + 0.25)

            await trio.sleep(0.25)
            pod.hear(1, at=trio.current_time() - 0.35)


async def test_an_idle_listener_answers_all_the_same(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    pod = FakePod()
    async with serving(pod, path), open_pod(path) as link:
        for _ in range(10):
            assert await link.pull(0, None) == Answer("lost", (), 0, 0, None, b"")
        assert trio.current_time() == pytest.approx(5.0)


async def test_a_session_that_is_lost_is_told_at_once(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    pod = FakePod()
    pod.open(TERM)
    async with serving(pod, path), open_pod(path) as link:
        pod.listener.proven = False
        assert (await link.pull(1, Position(TERM, 0))).session == "unproven"
        async with trio.open_nursery() as nursery:
            asked = trio.current_time()

            @nursery.start_soon
            async def ask() -> None:
                assert (await link.pull(1, Position(TERM, 0))).session == "lost"
                assert trio.current_time() < asked + 0.2

            await trio.sleep(0.1)
            pod.lose()


async def test_an_answer_is_bounded_and_never_crosses_segments(path: Path) -> None:
    pod = FakePod(history_entries=5000)
    pod.open(TERM)
    pod.hear(*range(1, 700))
    pod.open(TERM + 1)
    async with serving(pod, path), open_pod(path) as link:
        one = await link.pull(0, None)
        assert len(one.entries()) == MAX_ANSWER_ENTRIES
        two = await link.pull(500, one.entries()[-1].position)
        assert [entry.position.term for entry in two.entries()] == [TERM] * 200
        three = await link.pull(700, two.entries()[-1].position)
        assert [entry.position for entry in three.entries()] == [Position(TERM + 1, 0)]


async def test_all_workers_get_the_same_lines_also_where_few_are_kept(path: Path) -> None:
    pod = FakePod(history_entries=5 * KEPT_LINES)
    pod.open(TERM)
    pod.hear(*range(1, 5 * KEPT_LINES))
    async with serving(pod, path), open_pod(path) as one, open_pod(path) as other:
        index, last = 1, Position(TERM, 0)
        while index < pod.tape.end:
            answer = await one.pull(index, last)
            assert (await other.pull(index, last)).lines == answer.lines
            index, last = index + len(answer.entries()), answer.entries()[-1].position
        assert last.seq == 5 * KEPT_LINES - 1


async def test_relations_are_told_once_and_the_new_ones_later(path: Path) -> None:
    pod = FakePod()
    pod.open(TERM)
    async with serving(pod, path), open_pod(path) as link:
        pod.hear_marker(TERM - 5)
        assert (await link.pull(0, None)).relations == (Relation(TERM - 5, TERM, 1),)
        pod.hear_marker(TERM + 5)
        assert (await link.pull(2, Position(TERM, 1))).relations == (Relation(TERM, TERM + 5, -2),)
        pod.hear(1)
        assert (await link.pull(3, Position(TERM, 2))).relations == ()


async def test_what_workers_have_still_to_ask_for_is_kept_and_no_more(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    pod = FakePod(history_entries=10)
    assert pod.listener.draining.value
    pod.open(TERM)
    pod.hear(*range(1, 200))
    async with serving(pod, path), open_pod(path) as slow, open_pod(path) as quick:
        assert len((await slow.pull(0, None)).entries()) == 200
        assert len((await quick.pull(0, None)).entries()) == 200
        assert pod.tape.written == 0
        await quick.pull(200, Position(TERM, 199))
        assert pod.tape.written == 0
        await slow.pull(100, Position(TERM, 99))
        assert pod.tape.written == 100
        assert 50 < pod.tape.start <= 90
        assert pod.tape.backlog_bytes > 0


async def test_a_reader_that_is_silent_holds_up_nobody_for_long(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    pod = FakePod(history_entries=10)
    pod.open(TERM)
    pod.hear(*range(1, 200))
    async with serving(pod, path), open_pod(path) as silent, open_pod(path) as quick:
        await silent.pull(0, None)
        asked = trio.current_time()
        while pod.tape.written == 0:
            await quick.pull(200, Position(TERM, 199))
        assert SILENT_TICKS * TICK_SECONDS < trio.current_time() - asked < (SILENT_TICKS + 2) * TICK_SECONDS
        assert pod.tape.written == 200
        answer = await silent.pull(100, Position(TERM, 99))
        assert answer.index == pod.tape.start > 100
        pod.hear(200)
        await quick.pull(201, Position(TERM, 200))
        assert pod.tape.written == 200, "it counts again"


async def test_a_worker_whose_link_was_cut_is_waited_for_a_moment(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    pod = FakePod(history_entries=10)
    pod.open(TERM)
    async with serving(pod, path):
        async with open_pod(path) as link:
            await link.pull(0, None)
        await trio.testing.wait_all_tasks_blocked()
        assert pod.outlet.readers == 0
        pod.hear(*range(1, 200))
        await trio.sleep(2.0)
        async with open_pod(path) as link:
            answer = await link.pull(1, Position(TERM, 0))
            assert payloads(answer) == list(range(1, 200))
        await trio.sleep(6.0)
        assert pod.tape.written == 200


async def test_a_worker_that_has_come_again_is_not_waited_for_twice(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    pod = FakePod(history_entries=10)
    pod.open(TERM)
    pod.hear(*range(1, 200))
    async with serving(pod, path):
        async with open_pod(path) as link:
            await link.pull(0, None)
        await trio.testing.wait_all_tasks_blocked()
        async with open_pod(path) as link:
            await link.pull(200, Position(TERM, 199))
            assert pod.tape.written == 200


async def test_with_a_log_it_trims_nothing(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    pod = FakePod(trims=False)
    assert not pod.listener.draining.value
    pod.open(TERM)
    async with serving(pod, path), open_pod(path) as link:
        await link.pull(1, Position(TERM, 0))
        await trio.sleep(10)
        assert pod.tape.written == 0


@pytest.mark.parametrize(
    "noise", [b"\xff\xff\xff\xff", frame(Pull(0, None))[:4] + b"\xff" * 9, b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_who_talks_nonsense_is_disconnected_alone(path: Path, noise: bytes) -> None:
    pod = FakePod()
    pod.open(TERM)
    async with serving(pod, path), open_pod(path) as link:
        async with await anyio.connect_unix(path) as stream:
            await stream.send(noise)
            with trio.fail_after(30), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await stream.receive()
        assert (await link.look()).end == 1


async def test_questions_may_come_in_pieces(path: Path) -> None:
    pod = FakePod()
    pod.open(TERM)
    async with serving(pod, path), await anyio.connect_unix(path) as stream:
        frames = Frames(10_000)
        for byte in frame(Look()) + frame(Look()):
            await stream.send(bytes([byte]))
        found: list[bytes] = []
        with trio.fail_after(30):
            while len(found) < 3:
                frames.feed(await stream.receive())
                while (body := frames.next()) is not None:
                    found.append(body)


async def test_connections_are_bounded(path: Path) -> None:
    pod = FakePod()
    pod.open(TERM)
    async with serving(pod, path), trio.open_nursery() as nursery:
        streams = [await anyio.connect_unix(path) for _ in range(MAX_READERS)]
        for stream in streams:
            assert await stream.receive()
        with pytest.raises(PodLost, match=r"closed the connection|failed"):
            async with open_pod(path):
                pass
        for stream in streams:
            nursery.start_soon(stream.aclose)


async def test_a_reader_that_asks_nothing_for_long_is_sent_away(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    pod = FakePod()
    async with serving(pod, path), open_pod(path) as link:
        await trio.sleep(31)
        with pytest.raises(PodLost):
            await link.look()


async def test_a_socket_that_a_killed_listener_left_is_replaced(path: Path) -> None:
    for _ in range(2):
        async with serving(FakePod(), path), open_pod(path) as link:
            assert isinstance(link.hello, Hello)
            assert isinstance(await link.look(), View)
        with pytest.raises(PodLost, match="cannot connect to the pod's listener"):
            async with open_pod(path):
                pass
