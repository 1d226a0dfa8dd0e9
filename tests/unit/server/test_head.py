"""The head of an answer goes out whole, also where the kernel takes it in pieces."""

import socket

import pytest
import trio

from bridge.server.head import HEAD_SECONDS, send_head


async def test_a_head_is_sent_whole_or_not_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        head = bytes(range(256)) * 1000
        reader = trio.socket.from_stdlib_socket(there)
        with trio.fail_after(HEAD_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_head, here, head)
                received = b""
                while len(received) < len(head):
                    received += await reader.recv(65536)
        assert received == head
        began = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await send_head(here, head)
        assert trio.current_time() - began == HEAD_SECONDS
