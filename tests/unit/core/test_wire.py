"""What is sent must be read back by other people's code; what comes from clients is seen for what it is."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from bridge.core.cursor import Cursor, OpenGap
from bridge.core.position import Position
from bridge.core.topics import Subscription
from bridge.core.wire import (
    MAX_CLOSE_REASON_BYTES,
    PING_FRAME,
    close_frame,
    error_json,
    frame_end,
    last_payload,
    only_close,
    only_pongs,
    pong_frame,
    pong_json,
    position_json,
    subscribed_json,
    text_frame,
    whole_frames,
)
from tests.support.server import client_frame

SIZES = (0, 1, 125, 126, 127, 65535, 65536, 65537, 200_000)


def frames(data: bytes) -> Iterator[tuple[Opcode, object]]:
    """What a client reads, whole messages."""
    client = FrameProtocol(client=True, extensions=[])
    client.receive_bytes(data)
    parts: list[str] = []
    for frame in client.received_frames():
        if frame.opcode is Opcode.TEXT:
            assert isinstance(frame.payload, str)
            parts.append(frame.payload)
            if frame.message_finished:
                yield frame.opcode, "".join(parts)
                parts.clear()
        else:
            yield frame.opcode, frame.payload


@pytest.mark.parametrize("size", SIZES)
def test_a_text_frame_is_read_back(size: int) -> None:
    assert list(frames(text_frame(b"x" * size))) == [(Opcode.TEXT, "x" * size)]


@given(st.lists(st.text(max_size=300), max_size=8))
def test_joined_frames_are_read_back_in_order(texts: list[str]) -> None:
    joined = b"".join(text_frame(text.encode()) for text in texts)
    assert list(frames(joined + PING_FRAME)) == [(Opcode.TEXT, text) for text in texts] + [(Opcode.PING, b"")]


@given(st.integers(1000, 4999).filter(lambda code: code not in range(1004, 3000)), st.text(max_size=200))
def test_a_close_frame_is_read_back_with_as_much_of_its_reason_as_fits(code: int, reason: str) -> None:
    [(opcode, payload)] = frames(close_frame(code, reason))
    assert opcode is Opcode.CLOSE
    assert isinstance(payload, tuple)
    assert payload[0] == code
    assert reason.startswith(payload[1] or "")
    assert (payload[1] or "") == reason or len(payload[1].encode()) > MAX_CLOSE_REASON_BYTES - 4


@given(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4), st.data())
def test_the_end_of_a_frame_is_found_from_anywhere_in_it(sizes: list[int], data: st.DataObject) -> None:
    whole = [text_frame(b"x" * size) for size in sizes]
    ends = [0]
    for frame in whole:
        ends.append(ends[-1] + len(frame))
    offset = data.draw(st.integers(0, ends[-1]) | st.sampled_from(ends))
    assert frame_end(b"".join(whole), offset) == min(end for end in ends if end >= offset)


@given(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4), st.data())
def test_what_the_last_of_some_frames_holds_is_found(sizes: list[int], data: st.DataObject) -> None:
    payloads = [b"%d" % number * size for number, size in enumerate(sizes)]
    count = data.draw(st.integers(0, len(sizes)))
    whole = [text_frame(payload) for payload in payloads]
    end = sum(map(len, whole[:count]))
    assert last_payload(b"".join(whole), end) == (payloads[count - 1] if count else b"")


pongs = st.binary(max_size=125).map(lambda payload: client_frame(payload, 10))


@given(st.lists(pongs, max_size=5), st.binary(max_size=10), st.integers(0, 200))
def test_only_whole_pongs_are_nothing_but_pongs(whole: list[bytes], other: bytes, cut: int) -> None:
    data = b"".join(whole)
    assert only_pongs(data)
    ends = {len(b"".join(whole[:count])) for count in range(len(whole) + 1)}
    assert only_pongs(data[:cut]) == (min(cut, len(data)) in ends)
    assert not only_pongs(data + client_frame(other, 9))
    assert not only_pongs(data + text_frame(other))


@pytest.mark.parametrize(
    "data",
    [
        b"\x8a",
        b"\x8a\x00",  # not masked
        b"\x0a\x80\x00\x00\x00\x00",  # not the last fragment
        b"\xca\x80\x00\x00\x00\x00",  # a reserved bit
        client_frame(b"x" * 126, 10),
    ],
)
def test_what_is_no_pong_as_it_should_be(data: bytes) -> None:
    assert not only_pongs(data)


def masked(frame: bytes, mask: bytes) -> bytes:
    """A client's frame with another mask than zero."""
    at = 2 if frame[1] & 0x7F < 126 else 4
    return frame[:at] + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(frame[at + 4 :]))


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 8, 9, 10]), st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
    ),
    st.binary(min_size=4, max_size=4),
    st.integers(0, 3),
)
def test_simple_frames_are_read_as_a_library_reads_them(said: list[tuple[int, bytes]], mask: bytes, cut: int) -> None:
    data = b"".join(masked(client_frame(payload, opcode), mask) for opcode, payload in said)
    data = data[: len(data) - cut]
    found = whole_frames(data)
    judge = FrameProtocol(client=False, extensions=[])
    judge.receive_bytes(data)
    try:
        read = list(judge.received_frames())
        expected = [{Opcode.TEXT: frame.payload, Opcode.PING: frame.payload}.get(frame.opcode) for frame in read]
    except ParseFailed:
        expected = []
        assert found is None
    if found is not None:
        assert found == expected
    elif cut == 0:
        assert not all(opcode == 1 or (opcode in (9, 10) and len(text) < 126) for opcode, text in said) or not all(
            is_text(text) for opcode, text in said if opcode == 1
        )


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.binary(max_size=60))
def test_any_bytes_are_simple_or_not(data: bytes) -> None:
    whole_frames(data)


@given(st.binary(max_size=125))
def test_a_pong_is_read_back(payload: bytes) -> None:
    assert list(frames(pong_frame(payload))) == [(Opcode.PONG, payload)]


@given(st.binary(max_size=125), st.binary(min_size=1, max_size=10))
def test_a_close_frame_is_known_where_it_is_whole_and_alone(payload: bytes, more: bytes) -> None:
    frame = client_frame(payload, 8)
    assert only_close(frame)
    assert not only_close(frame + more)
    assert not only_close(frame[:-1])
    assert not only_close(client_frame(payload, 9))


def test_messages_of_the_server() -> None:
    subscription = Subscription(frozenset({"b", 'a"'}), (("match_id", ("7",)), ("x", ("1", "2"))))
    cursor = Cursor(Position(1, 2), (OpenGap(Position(1, 0), Position(1, 2)),))
    assert json.loads(subscribed_json("s", subscription, cursor)) == {
        "type": "subscribed",
        "channels": ['a"', "b"],
        "where": {"match_id": "7", "x": ["1", "2"]},
        "sub": "s",
        "position": "1-2~1-0_1-2",
    }
    without = json.loads(subscribed_json(None, subscription, None))
    assert (without["sub"], without["position"]) == (None, None)
    assert json.loads(position_json(cursor)) == {"type": "position", "cursor": "1-2~1-0_1-2"}
    assert json.loads(pong_json(cursor)) == {"type": "pong", "cursor": "1-2~1-0_1-2"}
    assert json.loads(pong_json(None)) == {"type": "pong", "cursor": None}
    assert json.loads(error_json("forbidden", 'no "\n')) == {"type": "error", "code": "forbidden", "message": 'no "\n'}
