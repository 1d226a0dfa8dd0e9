"""What is sent must be read back by other people's code; what clients send may be anything."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from bridge.core.position import Position
from bridge.core.topics import Subscription
from bridge.core.wire import (
    MAX_CLOSE_REASON_BYTES,
    PING_FRAME,
    answer,
    close_frame,
    frame_end,
    position_json,
    subscribed_json,
    text_frame,
)

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


def test_ping_is_answered_with_the_cursor() -> None:
    assert json.loads(answer('{"type":"ping"}', Position(5, 7)).data) == {"type": "pong", "cursor": "5-7"}
    assert json.loads(answer(' {"x":[1],"type":"ping"}', None).data) == {"type": "pong", "cursor": None}


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ('{"type":"subscribe","channels":["a"]}', "subscribe is not supported by this version"),
        ('{"type":"unsubscribe"}', "unsubscribe is not supported by this version"),
        ('{"type":"pang"}', "unknown type"),
        ('{"type":7}', "JSON object"),
        ("{}", "JSON object"),
        ("ping", "JSON object"),
        ("", "JSON object"),
        ("[" * 60_000, "JSON object"),
        ('{"type":"ping","x":' + "[" * 60_000, "JSON object"),
        (b'{"type":"ping"}', "text frame"),
    ],
)
def test_other_messages_are_bad(message: str | bytes, part: str) -> None:
    reply = answer(message, None)
    assert reply.bad
    error = json.loads(reply.data)
    assert (error["type"], error["code"]) == ("error", "bad_message")
    assert part in error["message"]


@given(
    st.text()
    | st.binary()
    | st.recursive(st.text() | st.none(), lambda x: st.dictionaries(st.text(), x)).map(json.dumps)
)
def test_any_message_gets_an_answer(message: str | bytes) -> None:
    assert json.loads(answer(message, None).data)["type"] in ("error", "pong")


def test_messages_of_the_server() -> None:
    subscription = Subscription(frozenset({"b", 'a"'}), (("match_id", "7"),))
    assert json.loads(subscribed_json(subscription, Position(1, 2))) == {
        "type": "subscribed",
        "channels": ['a"', "b"],
        "where": {"match_id": "7"},
        "position": "1-2",
    }
    assert json.loads(subscribed_json(subscription, None))["position"] is None
    assert json.loads(position_json(Position(1, 2))) == {"type": "position", "cursor": "1-2"}
