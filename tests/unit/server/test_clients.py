"""What the clients of a server share: tasks that end before their socket does, and a timer for tokens."""

import gc
import logging
import socket
import weakref
from collections.abc import Iterator

import pytest
import trio

from bridge.hub import Buffers, SocketClient
from bridge.hub.client import State
from bridge.server.clients import ClientTasks, Expiry

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.setblocking(False)
        yield here, there


async def test_nothing_waits_for_a_socket_once_its_tasks_are_cancelled(
    pair: Pair,
) -> None:
    raw, _ = pair
    ended: list[str] = []

    async def wait_for_bytes() -> None:
        try:
            await trio.lowlevel.wait_readable(raw)
        finally:
            ended.append("waiting")

    async def never_begun() -> None:
        ended.append("begun")
        await trio.lowlevel.checkpoint()
        ended.append("went on")

    async with trio.open_nursery() as nursery:
        tasks = ClientTasks(nursery, raw)
        tasks.start_soon(wait_for_bytes)
        await trio.testing.wait_all_tasks_blocked()
        tasks.start_soon(never_begun)
        tasks.cancel()
        raw.close()  # another one could have its descriptor now
        tasks.start_soon(wait_for_bytes)
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks == frozenset()
    assert "waiting" in ended
    assert "went on" not in ended


async def test_tasks_that_ended_are_forgotten(pair: Pair) -> None:
    async with trio.open_nursery() as nursery:
        tasks = ClientTasks(nursery, pair[0])
        for _ in range(3):
            tasks.start_soon(trio.lowlevel.checkpoint)
        await trio.testing.wait_all_tasks_blocked()
        assert tasks._scopes == ()


async def test_a_bug_in_a_task_costs_one_connection(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    raw, peer = pair

    async def fail() -> None:
        raise KeyError("a bug")

    async with trio.open_nursery() as nursery:
        ClientTasks(nursery, raw).start_soon(fail)
        with trio.fail_after(30):
            await trio.lowlevel.wait_readable(peer)
        assert peer.recv(1) == b""
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


async def test_tokens_expire_when_their_time_has_come(pair: Pair) -> None:
    clock = [100.0]
    expiry = Expiry(lambda: clock[0])
    buffers = Buffers(1 << 20, 1 << 20)
    async with trio.open_nursery() as nursery:
        clients = [SocketClient(pair[0], nursery.start_soon, buffers) for _ in range(4)]
        for client, expires_at in zip(clients, (101.5, 102.0, 103.0, 1e300), strict=True):
            expiry.add(client, expires_at)
        expiry.remove(clients[2], 103.0)
        expiry.remove(clients[2], 103.0)
        seen = []
        for clock[0] in (100.0, 101.4, 102.0, 103.0):
            expiry.expire()
            seen.append([client.close_code for client in clients])
        assert seen == [[None] * 4, [None] * 4, [4001, 4001, None, None], [4001, 4001, None, None]]
        assert clients[3].state is State.OPEN
        expiry.remove(clients[0], 101.5)
        expiry.remove(clients[3], 1e300)
        assert expiry._clients == {}
        nursery.cancel_scope.cancel()


async def test_a_token_is_good_for_less_than_a_second_too_long(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    expiry = Expiry(lambda: 100.4 + autojump_clock.current_time())
    async with trio.open_nursery() as nursery:
        client = SocketClient(pair[0], nursery.start_soon, Buffers(1 << 20, 1 << 20))
        expiry.add(client, 102.1)
        nursery.start_soon(expiry.run)
        for after_seconds, code in ((1.65, None), (2.65, 4001)):
            await trio.sleep(after_seconds - autojump_clock.current_time())
            assert client.close_code == code
        nursery.cancel_scope.cancel()


async def test_a_client_is_no_cycle_that_must_be_searched_for(pair: Pair) -> None:
    async with trio.open_nursery() as nursery:
        client = SocketClient(pair[0], ClientTasks(nursery, pair[0]).start_soon, Buffers(1 << 20, 1 << 20))
        gone = weakref.ref(client)
        gc.disable()
        try:
            client.put(b"\x89\x00")
            client.finish()
            del client
            assert gone() is None
        finally:
            gc.enable()
