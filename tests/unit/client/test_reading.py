"""What messages of several connections are to somebody who sees one stream."""

import logging

import pytest

from bridge.client.reading import NOWHERE, Unbroken
from bridge.errors import BridgeError
from bridge.stream import Filled, Gap, Notification, Subscribed
from tests.support.scripted_bridge import notification, subscribed


def test_events_come_with_where_the_stream_stands_after_them() -> None:
    stream = Unbroken(None)
    read = stream.read(subscribed("1-0"))
    assert isinstance(read.event, Subscribed)
    assert read.cursor == "1-0"
    assert stream.read(notification(1)) == (Notification("1-1", "a", b'{"n":1}', cursor="1-1"), "1-1")
    late = '{"type":"notification","id":"1-1","channel":"a","payload":1,"late":true,"cursor":"1-9~1-0_1-5"}'
    assert stream.read(late).cursor == "1-9~1-0_1-5"
    gap = '{"type":"gap","after":"1-1","before":null,"reason":"failover","pending":true,"cursor":"1-1~1-1_1-3"}'
    assert stream.read(gap) == (Gap("1-1", None, "failover", True, "1-1~1-1_1-3"), "1-1~1-1_1-3")
    assert stream.read('{"type":"filled","after":"1-1","before":"1-3","cursor":"1-3"}') == (
        Filled("1-1", "1-3", "1-3"),
        "1-3",
    )
    published = '{"type":"notification","id":null,"channel":"a","payload":1}'
    assert stream.read(published) == (Notification(None, "a", b"1"), None)


def test_subscribed_comes_once() -> None:
    stream = Unbroken(None)
    assert stream.read(subscribed("1-0")).event is not None
    assert stream.read(subscribed("1-7")) == (None, "1-7")
    assert stream.read(subscribed(None)) == (None, None)


def test_where_a_quiet_stream_stands_is_no_event() -> None:
    stream = Unbroken(None)
    assert stream.read('{"type":"position","cursor":"1-4"}') == (None, "1-4")
    assert stream.read('{"type":"pong","cursor":"1-5"}') == (None, "1-5")
    assert stream.read('{"type":"pong","cursor":null}') == (None, None)


def test_a_stream_that_began_without_a_position_can_lose_nothing_in_silence() -> None:
    assert Unbroken(None).read(subscribed(None)).cursor == NOWHERE
    assert Unbroken("1-3").read(subscribed(None)).cursor is None
    stream = Unbroken(None)
    stream.read('{"type":"position","cursor":"1-4"}')
    assert stream.read(subscribed(None)).cursor is None


@pytest.mark.parametrize(
    "text", ['{"type":"weather"}', '{"type":"weather","id":7,"channel":{}}', '{"type":"mode","mode":"direct"}']
)
def test_what_a_newer_bridge_says_is_passed_over(text: str) -> None:
    assert Unbroken(None).read(text) == (None, None)


@pytest.mark.parametrize(
    "text",
    ["", "hello", "null", "[]", "{}", '{"type":7}', '{"type":"notification","id":7}', '{"type":"gap","after":{}}',
     '{"type":"notification","id":"1-1","channel":"a","payload":' + "[" * 200_000 + "]" * 200_000 + "}"],
)  # fmt: skip
def test_what_may_hold_anything_is_not_passed_over(text: str) -> None:
    with pytest.raises(BridgeError, match="what is no message of its protocol"):
        Unbroken(None).read(text)


def test_a_refused_message_is_logged_without_tokens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "bridge.client")
    said = '{"type":"error","code":"bad_message","message":"what is\\ntoken=hunter2"}'
    assert Unbroken(None).read(said) == (None, None)
    assert [record.getMessage() for record in caplog.records] == ["The bridge answered bad_message: what is token=***"]
