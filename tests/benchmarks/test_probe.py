"""The probe in C, on servers that say what a test wants: what it counts is what came."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.lib.failure import BenchmarkFailed
from benchmarks.lib.probe import Kind, Probe, clients
from bridge.core.wire import text_frame

WAIT_SECONDS = 30.0
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\n\r\nretry: 1000\n\n"
SUBSCRIBED = b'{"type":"subscribed","channels":["match_change"],"where":{}}'


class Peer:
    """A server with one client, which it answers by `hello`."""

    def __init__(self, hello: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._hello = hello
        self.port: int = self._listener.getsockname()[1]
        self.connection: socket.socket | None = None
        self.request = b""
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def send(self, *parts: bytes) -> None:
        """Each part in a packet of its own."""
        assert self.connection is not None
        for part in parts:
            self.connection.sendall(part)

    def receive(self, size: int) -> bytes:
        assert self.connection is not None
        return self.connection.recv(size, socket.MSG_WAITALL)

    def close(self) -> None:
        self._thread.join(WAIT_SECONDS)
        if self.connection is not None:
            self.connection.close()
        self._listener.close()

    def _accept(self) -> None:
        self.connection, _ = self._listener.accept()
        self.connection.settimeout(WAIT_SECONDS)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while b"\r\n\r\n" not in self.request:
            self.request += self.connection.recv(4096)
        self.connection.sendall(self._hello)


@contextmanager
def connected(hello: bytes, kind: Kind = "ws", recorded: int = 1) -> Iterator[tuple[Peer, Probe]]:
    peer = Peer(hello)
    try:
        with clients(peer.port, 1, kind=kind, recorded=recorded, capacity=10) as probe:
            yield peer, probe
    finally:
        peer.close()


def event(number: int, more: bytes = b"") -> bytes:
    payload = b'{"n":%d,"match_id":7}' % number
    return b'{"type":"notification","id":"1-%d","channel":"match_change","payload":%b%b}' % (number, payload, more)


def block(data: bytes) -> bytes:
    return b"id: 1\ndata: " + data + b"\n\n"


def test_events_are_counted_and_their_times_noted() -> None:
    with connected(ACCEPTED + text_frame(SUBSCRIBED)) as (peer, probe):
        peer.send(b"".join(text_frame(event(number)) for number in range(3)))
        seen = probe.wait(3, WAIT_SECONDS)
        assert (seen.events, seen.flawless) == (3, True)
        (times,) = probe.times(4)
        assert 0 < times[0] <= times[1] <= times[2] == seen.last_ns
        assert times[3] == 0
        assert peer.request.startswith(b"GET /ws/match_change HTTP/1.1\r\n")


@pytest.mark.parametrize("size", [7, 100, 5000])
def test_frames_may_come_in_pieces_of_any_size(size: int) -> None:
    rest = text_frame(event(0, b" " * 200)) + text_frame(event(1, b" " * 20_000)) + text_frame(event(2))
    with connected(ACCEPTED + text_frame(SUBSCRIBED)) as (peer, probe):
        peer.send(*(rest[start : start + size] for start in range(0, len(rest), size)))
        seen = probe.wait(3, WAIT_SECONDS)
        assert (seen.events, seen.flawless) == (3, True)


def test_what_is_wrong_is_counted() -> None:
    gap = b'{"type":"gap","after":null,"before":"1-9","reason":"failover"%b}'
    with connected(ACCEPTED + text_frame(SUBSCRIBED)) as (peer, probe):
        wrong = [event(1), event(1), event(0, b',"late":true'), gap % b"", gap % b',"pending":true', event(1)]
        peer.send(b"".join(map(text_frame, wrong)))
        seen = probe.wait(4, WAIT_SECONDS)
        assert (seen.events, seen.disorder, seen.repeated, seen.late) == (4, 3, 2, 1)
        assert (seen.gaps, seen.pending, seen.closed, seen.flawless) == (1, 1, 0, False)
        assert probe.reset().flawless


@pytest.mark.parametrize("goodbye", [b"\x88\x02\x03\xe9", b""])
def test_who_is_disconnected_is_counted(goodbye: bytes) -> None:
    with connected(ACCEPTED + text_frame(SUBSCRIBED)) as (peer, probe):
        peer.send(text_frame(event(0)) + goodbye)
        probe.wait(1, WAIT_SECONDS)
        peer.close()
        assert probe.wait(2, 0.2).closed == 1


def test_pings_are_answered() -> None:
    with connected(ACCEPTED + text_frame(SUBSCRIBED)) as (peer, _):
        peer.send(b"\x89\x02hi")
        assert peer.receive(8) == b"\x8a\x82\0\0\0\0hi"


def test_an_event_stream() -> None:
    with connected(STREAM + b"event: subscribed\n" + block(SUBSCRIBED), "sse") as (peer, probe):
        blocks = (
            block(event(0)) + b": comment\nid: 1\n\n" + block(event(1)) + b"event: gap\n" + block(b'{"type":"gap"}')
        )
        peer.send(*(blocks[start : start + 50] for start in range(0, len(blocks), 50)))
        seen = probe.wait(2, WAIT_SECONDS)
        assert (seen.events, seen.disorder) == (2, 0)
        peer.send(block(event(2)))
        assert probe.wait(3, WAIT_SECONDS).gaps == 1
        assert peer.request.startswith(b"GET /sse/match_change HTTP/1.1\r\n")


def test_one_record_for_all_clients() -> None:
    with connected(ACCEPTED + text_frame(SUBSCRIBED), recorded=-1) as (peer, probe):
        peer.send(text_frame(event(4)))
        probe.wait(1, WAIT_SECONDS)
        (times,) = probe.times(5)
        assert [at > 0 for at in times] == [False, False, False, False, True]


def test_a_refusal_fails() -> None:
    with pytest.raises(BenchmarkFailed), connected(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"):
        pytest.fail("a refused client is no client")
