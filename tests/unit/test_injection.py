"""Nothing that a payload, a channel's name or a client says can become more than a value in one message."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.cursor import Cursor, OpenGap
from bridge.core.events import Gap, Notification, event, late, payload_json
from bridge.core.position import Position
from bridge.core.topics import Subscription
from bridge.core.wire import error_json, pong_json, position_json, subscribed_json
from bridge.hub.encoding import Message, encode, event_message, gap_message, goodbye, message_end
from tests.support.frames import FrameReader
from tests.support.sse import Block, EventSource

EVIL = st.sampled_from(
    ["\r", "\n", "\r\n", "\n\n", "\0", "\u2028", "\u2029", "\x85", "\x0b", "\ufeff", "data: x", "id: 1-1", ":"]
)
texts = st.lists(EVIL | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=6).map("".join)
values = st.recursive(texts | st.integers() | st.none(), lambda inner: st.dictionaries(texts, inner, max_size=3))
payloads = st.binary(max_size=30) | texts.map(str.encode) | values.map(lambda value: json.dumps(value).encode())
pretty = values.map(lambda value: json.dumps(value, indent=1, ensure_ascii=False).replace("\n", "\r\n").encode())
positions = st.builds(Position, st.integers(1, 9), st.integers(0, 99))
throughs = st.lists(positions, max_size=3).map(tuple)
cursors = st.builds(
    Cursor, positions, st.lists(st.builds(OpenGap, positions, positions, throughs), max_size=3).map(tuple)
)


def browser(data: bytes) -> list[Block]:
    """What a browser makes of one message, between two others that must stay as they are."""
    source = EventSource()
    source.feed(b"data: before\n\n" + data + b"data: after\n\n")
    before, *blocks, after = source.blocks
    assert (before.data, after.data) == ("before", "after")
    return blocks


def assert_one(message: Message) -> None:
    """The message is one block, and one frame, of the same JSON."""
    (block,) = browser(encode("sse", message))
    assert block.type == ("message" if message.kind == "notification" else message.kind)
    assert block.last_event_id == message.cursor
    (frame,) = FrameReader().feed(encode("ws", message))
    assert json.loads(block.data) == frame
    for protocol in ("ws", "sse"):
        assert message_end(protocol, encode(protocol, message) + b"\n\n", 1) == len(encode(protocol, message))


@given(texts, payloads | pretty, cursors, st.booleans())
def test_events(channel: str, raw: bytes, cursor: Cursor, is_late: bool) -> None:
    happened = event(Position(3, 4), Notification(channel, payload_json(raw)))
    assert_one(event_message(late(happened, None) if is_late else happened, cursor))


@given(cursors, positions, positions)
def test_gaps(cursor: Cursor, after: Position, before: Position) -> None:
    assert_one(gap_message(Gap(after, before, "failover", pending=True), cursor))


@given(st.frozensets(texts, max_size=3), st.dictionaries(texts, texts, max_size=3), st.none() | texts, cursors)
def test_what_is_said_of_subscriptions(
    channels: frozenset[str], where: dict[str, str], sub: str | None, cursor: Cursor
) -> None:
    subscription = Subscription(channels, tuple((name, (value,)) for name, value in sorted(where.items())))
    assert_one(Message(subscribed_json(sub, subscription, cursor), "subscribed", str(cursor)))


@given(texts, cursors)
def test_the_rest(text: str, cursor: Cursor) -> None:
    assert_one(Message(error_json("bad_message", text), "error"))
    assert_one(Message(pong_json(cursor), "pong", str(cursor)))
    assert browser(encode("sse", Message(position_json(cursor), "position", str(cursor)))) == []


@given(texts)
def test_goodbyes(reason: str) -> None:
    assert browser(goodbye("sse", 1008, reason)) == []
    assert re.fullmatch(rb"(:|retry: [0-9]+)\n\n", goodbye("sse", 1001, "retry=" + reason))
    ((kind, _),) = FrameReader().feed(goodbye("ws", 1008, reason))
    assert kind == "close"
