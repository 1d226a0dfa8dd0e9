"""The shortcut reads what it reads as h11 does, and leaves the rest."""

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.server.http import HEAD_BYTES
from bridge.server.quick import read_handshake

USUAL = [b"Host: localhost", b"Upgrade: websocket", b"Connection: Upgrade"]


def head(*lines: bytes, first: bytes = b"GET /ws?channel=a HTTP/1.1") -> bytes:
    return b"\r\n".join([first, *lines, b"", b""])


def read_by_h11(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], int] | None:
    """The same from h11; None where it refuses, waits, or expects a body."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
    connection.receive_data(data)
    try:
        request, end = connection.next_event(), connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(request, h11.Request) or not isinstance(end, h11.EndOfMessage):
        return None
    return request.target, list(request.headers), len(data) - len(connection.trailing_data[0])


def test_a_handshake_and_what_follows_it() -> None:
    data = head(*USUAL, b"Origin:", b"X-Empty: \t ", b"Sec-WebSocket-Key:\tabc== ")
    found = read_handshake(data + b"\x81\x80\x00\x00\x00\x00")
    assert found is not None
    target, headers, size = found
    assert (target, size) == (b"/ws?channel=a", len(data))
    assert headers[3:] == [(b"origin", b""), (b"x-empty", b""), (b"sec-websocket-key", b"abc==")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        head(*USUAL)[:-1],
        head(*USUAL, first=b"GET /ws HTTP/1.0"),
        head(*USUAL, first=b"POST /ws HTTP/1.1"),
        head(*USUAL, first=b"GET  /ws HTTP/1.1"),
        head(*USUAL[:2], b"Host: other", USUAL[2]),
        head(*USUAL[1:]),
        head(USUAL[0]),
        head(*USUAL, b"Content-Length: 0"),
        head(*USUAL, b"transfer-encoding: chunked"),
        head(*USUAL, b"Expect: 100-continue"),
        head(*USUAL, b" folded"),
        head(*USUAL, b"Name : value"),
        head(*USUAL, b"X: \xc3\xa9"),
        head(*USUAL, b"X: a\x00b"),
        head(*USUAL, b"X: a\rb"),
        head(*USUAL).replace(b"\r\n", b"\n"),
        b"\r\n" + head(*USUAL),
    ],
)
def test_what_is_left_to_h11(data: bytes) -> None:
    assert read_handshake(data) is None


lines = st.one_of(
    st.sampled_from([*USUAL, b"Host:", b"HOST: x", b"Content-Length: 3", b"X:  a \t b ", b"x:", b": y", b"z"]),
    st.binary(max_size=12),
    st.builds(lambda name, value: name + b":" + value, st.sampled_from([b"A", b"b-c"]), st.binary(max_size=8)),
)


@given(st.lists(lines, max_size=6), st.sampled_from([b"GET /ws HTTP/1.1", b"GET * HTTP/1.1"]), st.binary(max_size=4))
@example([], b"GET /ws HTTP/1.1", b"\r\n\r\n")
def test_what_is_read_is_what_h11_reads(more: list[bytes], first: bytes, rest: bytes) -> None:
    for wanted in (USUAL, []):
        data = head(*wanted, *more, first=first) + rest
        found = read_handshake(data)
        assert found is None or found == read_by_h11(data)
