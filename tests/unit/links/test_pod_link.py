"""The worker's end of the pod link: what it makes of an other end that is silent, slow, gone or talks nonsense."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
import trio
import trio.testing

from bridge.core.pod_wire import MAX_REPLY_BYTES, VERSION, Answer, Hello, Look, View, frame
from bridge.errors import PodLost
from bridge.links.pod import GRACE_SECONDS, TIMEOUT_SECONDS, open_pod

HELLO = frame(Hello(VERSION, "0a1b2c3d", "nonce"))
VIEW = View("lost", (), (), 0)
Talk = Callable[[anyio.abc.SocketStream], Awaitable[None]]


@asynccontextmanager
async def other_end(path: Path, talk: Talk) -> AsyncIterator[None]:
    """A socket where each connection is treated like this, and then closed."""

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await talk(stream)

    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle, tasks)
        yield
        tasks.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "listener.sock"


async def test_without_a_socket_there_is_no_link(path: Path) -> None:
    with pytest.raises(PodLost, match="cannot connect to the pod's listener: No such file or directory"):
        async with open_pod(path):
            pass


async def test_a_stopped_listener_is_not_taken_for_a_quiet_one(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def accept_only(stream: anyio.abc.SocketStream) -> None:
        await trio.sleep(100)

    async with other_end(path, accept_only):
        begun = trio.current_time()
        with pytest.raises(PodLost, match=r"did not answer within 1\.5 s|has been silent"):
            async with open_pod(path):
                pass
        assert trio.current_time() - begun == pytest.approx(TIMEOUT_SECONDS, abs=2 * GRACE_SECONDS)


async def test_a_listener_that_stops_later_is_silent(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def greet_only(stream: anyio.abc.SocketStream) -> None:
        await stream.send(HELLO)
        await trio.sleep(100)

    async with other_end(path, greet_only), open_pod(path) as link:
        begun = trio.current_time()
        with pytest.raises(PodLost, match=r"has been silent for 1\.5 s"):
            await link.pull(0, None)
        assert trio.current_time() - begun == pytest.approx(TIMEOUT_SECONDS, abs=2 * GRACE_SECONDS)
        with pytest.raises(PodLost, match="cut short"):
            await link.look()


async def test_a_process_that_was_paused_itself_looks_once_more(path: Path) -> None:
    clock = trio.testing.MockClock()

    async def main() -> None:
        async def answer(stream: anyio.abc.SocketStream) -> None:
            await stream.send(HELLO)
            await stream.receive()
            clock.jump(100)  # all deadlines are over before the answer can be read
            await stream.send(frame(VIEW))
            await trio.sleep(100)

        async with other_end(path, answer), open_pod(path) as link:
            assert await link.look() == VIEW

    await trio.to_thread.run_sync(lambda: trio.run(main, clock=clock))


async def test_an_answer_that_trickles_is_waited_for(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def trickle(stream: anyio.abc.SocketStream) -> None:
        for byte in HELLO:
            await stream.send(bytes([byte]))
        await stream.receive()
        for byte in frame(VIEW):
            await trio.sleep(0.9 * TIMEOUT_SECONDS)
            await stream.send(bytes([byte]))

    async with other_end(path, trickle), open_pod(path) as link:
        assert await link.look() == VIEW


async def test_a_listener_that_goes_is_lost_at_once(path: Path) -> None:
    async def go(stream: anyio.abc.SocketStream) -> None:
        await stream.send(HELLO)
        await stream.receive()

    async with other_end(path, go), open_pod(path) as link:
        with pytest.raises(PodLost, match="closed the connection"):
            await link.look()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", f"a frame of 1213486160 bytes, and 1 to {MAX_REPLY_BYTES} are allowed"),
        (b"\0\0\0\1\xff", "cannot be understood"),
        (frame(Look()), "cannot be understood"),
        (frame(VIEW), "answered with View, and not with Hello"),
        (frame(Hello(VERSION + 1, "", "")), "speaks version 2 of the protocol"),
        (HELLO + frame(Answer("lost", (), 0, 0, None, b"")), "answered with Answer, and not with View"),
        (HELLO + b"\0\0\0\1\xff", "cannot be understood"),
    ],
)
async def test_nonsense_is_refused(path: Path, said: bytes, why: str) -> None:
    async def talk(stream: anyio.abc.SocketStream) -> None:
        await stream.send(said)
        await trio.sleep(100)

    async with other_end(path, talk):
        with pytest.raises(PodLost, match=why):
            async with open_pod(path) as link:
                await link.look()


async def test_a_question_that_was_cancelled_leaves_no_answer_for_the_next_one(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def slow(stream: anyio.abc.SocketStream) -> None:
        await stream.send(HELLO)
        await stream.receive()
        await trio.sleep(1)
        await stream.send(frame(VIEW))
        await trio.sleep(100)

    async with other_end(path, slow), open_pod(path) as link:
        with trio.move_on_after(0.5):
            await link.look()
        with pytest.raises(PodLost, match="cut short"):
            await link.look()
