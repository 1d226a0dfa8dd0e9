"""A bridge behind TLS that dies without a word, at any moment: the stream goes on over another connection."""

import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSStream

from bridge.client import LinkState, connect
from bridge.stream import Notification
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.redis import make_certificates
from tests.support.scripted_bridge import Peer, notification, subscribed

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
Die = Callable[[anyio.abc.SocketStream], Awaitable[None]]


async def end(stream: anyio.abc.SocketStream) -> None:
    """FIN, and no close_notify before it."""
    await stream.aclose()


async def reset(stream: anyio.abc.SocketStream) -> None:
    """As the kernel does for a process that was killed with something unread."""
    raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """For the bridge, and for its client."""
    files = make_certificates(Path(tmp_path_factory.mktemp("tls")))
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(files.certificate, files.key)
    return serving, ssl.create_default_context(cafile=str(files.authority))


@pytest.mark.parametrize("die", [end, reset])
@pytest.mark.parametrize("when", ["handshake", "request", "stream"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_bridge_that_dies_without_a_word_is_come_back_to(loop: Loop, when: str, die: Die, contexts: Contexts) -> None:
    """Twice, each time before what is awaited has come."""
    serving, trusting = contexts
    targets: list[str] = []
    states: list[LinkState] = []

    async def main() -> None:
        heard = anyio.Event()

        async def serve(stream: anyio.abc.SocketStream) -> None:
            attempt = len(targets) + 1
            targets.append("")
            if attempt < 3 and when == "handshake":
                await stream.receive()
                await die(stream)
                return
            peer = Peer(await TLSStream.wrap(stream, ssl_context=serving, server_side=True, standard_compatible=False))
            if attempt < 3 and when == "request":
                await peer.read_request()
            elif attempt < 3:
                await peer.accept(subscribed("1-0"), notification(1))
                await heard.wait()
            else:
                await peer.accept(subscribed("1-1"), notification(2))
                targets[-1] = peer.target
                await peer.hear_close()
            await die(stream)

        async def serve_until_left(stream: Any) -> None:
            async with stream:
                await serve(stream)

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve_until_left)
            url = f"https://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
            async with connect(url, ssl_context=trusting, retry_seconds=0.05, on_state=states.append) as client:
                async for event in client:
                    if isinstance(event, Notification) and event.payload["n"] == 1:
                        heard.set()
                    elif isinstance(event, Notification):
                        break
                assert client.cursor == "1-2"
            tasks.cancel_scope.cancel()

    run_on(loop, main)
    assert targets[2] == ("/ws?after=1-1" if when == "stream" else "/ws")
    assert [state.state for state in states if state.state == "waiting"] == ["waiting"] * 2
    assert all("Error" not in state.reason and "OfStream" not in state.reason for state in states), states
