"""Many at the door at once: handshakes that are answered without a task, and what can go wrong in the middle."""

import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from bridge.hub import Hub
from bridge.hub.talk import Talk
from bridge.server import listener
from tests.support.server import RunningServer, client_frame, happening, running_server, upgrade

CROWD = 1000
WAIT_SECONDS = 60.0
RESET = struct.pack("ii", 1, 0)


class Peer:
    """A client that does not wait: what it sends is there before the server looks."""

    def __init__(self, server: RunningServer, data: bytes = b"") -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex((server.host, server.port))
        self.say(data)

    def say(self, data: bytes) -> None:
        assert self.socket.send(data) == len(data)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.socket.close()

    async def hear(self, what: bytes) -> bytes:
        """All until this has come, or the end."""
        heard = b""
        with trio.fail_after(WAIT_SECONDS):
            while what not in heard:
                await trio.lowlevel.wait_readable(self.socket)
                try:
                    more = self.socket.recv(65536)
                except ConnectionResetError:
                    more = b""
                if not more:
                    return heard
                heard += more
        return heard


@contextmanager
def crowd(server: RunningServer, count: int, data: bytes) -> Iterator[list[Peer]]:
    peers = [Peer(server, data) for _ in range(count)]
    try:
        yield peers
    finally:
        for peer in peers:
            peer.socket.close()


def left_behind() -> tuple[int, int]:
    """Tasks and descriptors."""
    return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def nothing_left(server: RunningServer) -> AsyncIterator[None]:
    """Whatever happens within leaves no client, no task, no descriptor, and nothing held."""
    before = left_behind()
    yield
    with trio.fail_after(WAIT_SECONDS):
        while server.places.taken or left_behind() > before:  # noqa: ASYNC110, nobody is told
            await trio.sleep(0.01)
    assert server.hub.client_count == 0
    assert server.hub.buffers.total_bytes == 0


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.usefixtures("quiet_log")
async def test_a_thousand_at_once_hear_what_comes_and_cost_no_task() -> None:
    async with running_server() as server, nothing_left(server):
        tasks, _ = left_behind()
        with crowd(server, CROWD, upgrade("/ws/a")) as peers:
            for peer in peers:
                assert b'"subscribed"' in await peer.hear(b'"subscribed"')
            assert left_behind()[0] == tasks
            server.hub.deliver([happening(1)])
            for peer in peers:
                peer.say(client_frame(b'{"type":"ping"}'))
            for peer in peers:
                heard = await peer.hear(b'"pong"')
                assert heard.index(b'"id":"1-1"') < heard.index(b'"pong"')
            assert left_behind()[0] == tasks


@pytest.mark.usefixtures("quiet_log")
async def test_events_do_not_wait_for_a_crowd_at_the_door() -> None:
    async with running_server() as server, nothing_left(server):
        with crowd(server, CROWD, upgrade("/ws")):
            steps = []
            with trio.fail_after(WAIT_SECONDS):
                while (count := server.hub.client_count) < CROWD:
                    steps.append(count)
                    await trio.lowlevel.checkpoint()
            most = max(after - before for before, after in pairwise(steps))
            assert most <= 2 * listener.ACCEPTED_A_TURN, (
                "at the end of one step of the event loop, and at the next one's start"
            )


@pytest.mark.usefixtures("quiet_log")
async def test_the_answer_and_the_first_message_come_in_one_piece() -> None:
    async with running_server() as server, nothing_left(server):
        with crowd(server, 1, upgrade("/ws/a")) as (peer,):
            await trio.lowlevel.wait_readable(peer.socket)
            heard = peer.socket.recv(65536)
            assert heard.startswith(b"HTTP/1.1 101 ")
            assert heard.endswith(b'"position":null}')


@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize("cut", [1, 30, -1])
async def test_half_a_head_is_waited_for(cut: int) -> None:
    head = upgrade("/ws/a")
    async with running_server() as server, nothing_left(server):
        tasks, _ = left_behind()
        with crowd(server, 3, head[:cut]) as peers:
            await trio.testing.wait_all_tasks_blocked()
            for peer in peers:
                peer.say(head[cut:] + client_frame(b'{"type":"ping"}'))
                assert (await peer.hear(b'"pong"')).count(b'"subscribed"') == 1
            await trio.testing.wait_all_tasks_blocked()
            assert left_behind()[0] == tasks, "who has become a client is as quiet as all others"


@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize(
    ("more", "answers"),
    [
        (client_frame(b'{"type":"ping"}') * 3, [b'"pong"'] * 3),
        (client_frame(b"x", 9) + client_frame(b"?"), [b"\x8a\x01x", b'"bad_message"']),
        (b"\x01\x80\0\0\0\0" + b"\x80\x80\0\0\0\0", [b'"bad_message"']),
        (client_frame(b"\x03\xe8", 8), [b"\x88\x02\x03\xe8"]),
        (client_frame(b'{"type":"ping"}')[:7], []),
    ],
)
async def test_frames_behind_the_head_are_answered_after_it(more: bytes, answers: list[bytes]) -> None:
    async with running_server() as server, nothing_left(server):
        with crowd(server, 1, upgrade("/ws/a") + more) as (peer,):
            heard = await peer.hear(answers[-1] if answers else b'"subscribed"')
            at = [heard.index(b" 101 "), heard.index(b'"subscribed"')]
            at += [heard.index(answer, at[-1] + 1) for answer in answers]
            assert at == sorted(at)
            assert all(heard.count(answer) == answers.count(answer) for answer in answers)


async def test_who_has_gone_again_before_anybody_looked_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with running_server() as server, nothing_left(server):
        for data in (b"", b"GET /ws HT", upgrade("/ws"), upgrade("/ws") + client_frame(b"?"), upgrade("/sse")):
            peers = [Peer(server, data) for _ in range(50)]
            for peer in peers[::2]:
                peer.reset()
            for peer in peers[1::2]:
                peer.socket.close()
            await trio.testing.wait_all_tasks_blocked()
    assert warnings(caplog) == []


@pytest.mark.usefixtures("quiet_log")
async def test_requests_behind_a_handshake_that_is_refused_are_answered_in_turn() -> None:
    async with running_server() as server, nothing_left(server):
        with crowd(server, 5, upgrade("/ws?channel=nope") + upgrade("/wsx") + upgrade("/ws/a")) as peers:
            for peer in peers:
                heard = await peer.hear(b'"subscribed"')
                assert heard.index(b" 400 ") < heard.index(b" 404 ") < heard.index(b" 101 ")
        assert server.metrics.refused.labels("bad_request")._value.get() == 5


@pytest.mark.usefixtures("quiet_log")
async def test_there_are_no_more_than_the_places_also_in_a_crowd() -> None:
    async with running_server(max_clients=100) as server, nothing_left(server):
        with crowd(server, 300, upgrade("/ws")) as peers:
            heard = [await peer.hear(b"\r\n\r\n") for peer in peers]
            assert sum(b" 101 " in one for one in heard) == 100
            assert sum(b" 503 " in one for one in heard) == 200


@pytest.mark.usefixtures("quiet_log")
async def test_ending_in_the_middle_of_a_crowd_says_goodbye_to_all_who_had_come_in() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with running_server() as server:
        with crowd(server, CROWD, upgrade("/ws")) as peers:
            with trio.fail_after(WAIT_SECONDS):
                while server.hub.client_count < CROWD / 4:
                    await trio.lowlevel.checkpoint()
            server.scope.cancel()
            with trio.CancelScope(shield=True):
                heard = [await peer.hear(b"retry=") for peer in peers]
        let_in = [one for one in heard if b" 101 " in one]
        assert CROWD / 4 <= len(let_in) < CROWD
        assert all(b"\x03\xe9retry=" in one for one in let_in)
    assert server.places.taken == 0
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize("busy", [client_frame(b"", 9) * 1200, b"\x01\x80\0\0\0\0", client_frame(b"x")[:-1]])
async def test_ending_says_goodbye_to_those_whom_a_task_serves(busy: bytes) -> None:
    async with running_server() as server:
        tasks, _ = left_behind()
        with crowd(server, 10, upgrade("/ws")) as peers:
            for peer in peers:
                await peer.hear(b'"subscribed"')
                peer.say(busy)
            with trio.fail_after(WAIT_SECONDS):
                while left_behind()[0] < tasks + len(peers):  # noqa: ASYNC110, tasks tell nobody
                    await trio.sleep(0.001)
            server.scope.cancel()
            with trio.CancelScope(shield=True):
                assert all([b"\x03\xe9retry=" in await peer.hear(b"retry=") for peer in peers])
    assert server.places.taken == 0


@pytest.mark.parametrize("slow", [False, True])
async def test_a_bug_in_a_handshake_costs_one_connection(
    slow: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    subscribe = Hub.subscribe

    def fail_for_b(self: Hub, client: Any, name: Any, subscription: Any, after: Any = None) -> None:
        subscribe(self, client, name, subscription, after)
        if subscription.channels == {"b"}:
            raise KeyError("a bug")

    monkeypatch.setattr(Hub, "subscribe", fail_for_b)
    async with running_server() as server, nothing_left(server):
        with crowd(server, 1, upgrade("/ws/a")) as (good,), crowd(server, 3, b"" if slow else upgrade("/ws/b")) as bad:
            if slow:
                await trio.testing.wait_all_tasks_blocked()
            for peer in bad:
                if slow:
                    peer.say(upgrade("/ws/b"))
                await peer.hear(b"never said")
            await good.hear(b'"subscribed"')
            server.hub.deliver([happening(1)])
            assert b'"id":"1-1"' in await good.hear(b'"id":"1-1"')
            assert server.places.taken == 1
    assert warnings(caplog) == ["A connection failed, which should not happen"] * 3
    assert all(record.exc_info for record in caplog.records if record.levelno >= logging.ERROR)


async def test_a_bug_in_an_answer_costs_one_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hear = Talk.hear

    def fail_sometimes(self: Talk, message: str | bytes) -> None:
        if message == "fail":
            raise KeyError("a bug")
        hear(self, message)

    monkeypatch.setattr(Talk, "hear", fail_sometimes)
    async with running_server() as server, nothing_left(server):
        with crowd(server, 20, upgrade("/ws/a")) as peers:
            for peer in peers:
                await peer.hear(b'"subscribed"')
            for number, peer in enumerate(peers):
                peer.say(client_frame(b"fail" if number % 2 else b'{"type":"ping"}'))
            for number, peer in enumerate(peers):
                assert (b'"pong"' in await peer.hear(b'"pong"')) == (number % 2 == 0)
            assert server.hub.client_count == 10
    assert warnings(caplog) == ["A connection failed, which should not happen"] * 10


@pytest.mark.usefixtures("quiet_log")
async def test_a_number_of_one_who_has_gone_is_the_next_ones() -> None:
    """Descriptors are used again at once while others talk: nobody hears or says anything for somebody else."""
    async with running_server() as server, nothing_left(server):
        staying = [await server.websocket("/ws/a") for _ in range(10)]
        for _ in range(20):
            with crowd(server, 50, upgrade("/ws/b") + client_frame(b'{"type":"ping","x":1}')) as peers:
                for client in staying:
                    await client.send_frame(b"stays", 9)
                for peer in peers[::2]:
                    await peer.hear(b'"pong"')
                for peer in peers[::2]:
                    peer.reset()
                with crowd(server, 25, upgrade("/ws/b")) as more:
                    for peer in more:
                        heard = await peer.hear(b'"subscribed"')
                        assert b'"pong"' not in heard
            await server.wait_for_clients(10)
        for client in staying:
            pongs = [m for m in [await client.message() for _ in range(21)] if isinstance(m, tuple)]
            assert pongs == [("pong", b"stays")] * 20
            await client.close()
