"""Payloads become JSON that says the same; the log's lines are read back as they were written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core import events
from bridge.core.events import Body, Entry, Event, Filled, Gap, Marker, Notification, Unreadable
from bridge.core.position import Position

HERE = Position(751234567890123456, 9007199254740993)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
documents = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(documents, st.sampled_from([None, 1, "\t", "\r\n"]))
def test_valid_json_is_verbatim_but_for_line_breaks(document: object, indent: int | str | None) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    assert events.payload_json(text.encode()) == text.replace("\n", " ").replace("\r", " ").encode()


@given(st.binary(max_size=60))
def test_any_payload_becomes_one_line_of_json(raw: bytes) -> None:
    got = events.payload_json(raw)
    assert b"\n" not in got
    assert b"\r" not in got
    value, text = json.loads(got), raw.decode(errors="replace")
    assert value == text or value == json.loads(text)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", b'""'),
        (b"hello", b'"hello"'),
        (b"12345678901234567890123", b"12345678901234567890123"),
        (b" 7.0 ", b" 7.0 "),
        (b"NaN", b'"NaN"'),
        (b"Infinity", b'"Infinity"'),
        (b"{'a':1}", b"\"{'a':1}\""),
        (b'{"a":1}x', b'"{\\"a\\":1}x"'),
        (b'"\\ud800"', b'"\\"\\\\ud800\\""'),
        (b"\xff", '"�"'.encode()),
        (b'"\xff"', '"�"'.encode()),
        (b"[" * 128 + b"]" * 128, b"[" * 128 + b"]" * 128),
        (b"[" * 129 + b"]" * 129, b'"' + b"[" * 129 + b"]" * 129 + b'"'),
        (b'"' + b"[" * 500 + b'"', b'"' + b"[" * 500 + b'"'),
        (b"[" + b"[]," * 200 + b"[]]", b"[" + b"[]," * 200 + b"[]]"),
        (b"[" * 7999, b'"' + b"[" * 7999 + b'"'),
    ],
)
def test_payloads_at_the_edges(raw: bytes, expected: bytes) -> None:
    assert events.payload_json(raw) == expected


@given(st.dictionaries(st.text(), documents))
def test_fields_are_the_top_level_scalars_as_text(document: dict[str, object]) -> None:
    data = events.event(HERE, Notification("c", events.payload_json(json.dumps(document).encode()))).data
    expected = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in document.items()
        if not isinstance(value, dict | list)
    }
    assert events.fields(data) == expected


@pytest.mark.parametrize("payload", [b"[1]", b"7", b'"{}"', b"", b"no json", b"null"])
def test_a_payload_that_is_no_object_has_no_fields(payload: bytes) -> None:
    assert events.fields(events.event(HERE, Notification("c", events.payload_json(payload))).data) == {}


def test_fields_are_compared_as_written() -> None:
    data = events.event(HERE, Notification("c", events.payload_json(b' {"a":7.0,"b":1e3,"c":"\\u0041","a":7.10}'))).data
    assert events.fields(data) == {"a": "7.10", "b": "1e3", "c": "A"}


@given(st.text(min_size=1, max_size=63), st.binary(max_size=50))
def test_a_line_of_the_log_is_the_event_that_clients_see(channel: str, raw: bytes) -> None:
    notification = Notification(channel, events.payload_json(raw))
    line = events.entry_json(HERE, notification)
    seen = json.loads(line)
    assert (seen["type"], seen["id"], seen["channel"]) == ("notification", str(HERE), channel)
    assert seen["payload"] == json.loads(notification.payload)
    assert list(seen) == ["type", "id", "channel", "payload"]
    event = events.event(HERE, notification)
    assert event == Event(HERE, channel, line)
    assert events.read_entry(line) == Entry(HERE, event, None)
    assert json.loads(events.late(event, None).data) == seen | {"late": True}


def test_markers_are_read_back() -> None:
    marker = Marker(HERE.term, "nonce", "0a1b2c3d", "listener", "pg_notify")
    assert events.read_entry(events.entry_json(HERE, marker)) == Entry(HERE, None, marker)
    assert events.read_entry(events.entry_json(HERE, Unreadable())) == Entry(HERE, None, None)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"\xff",
        b"[]",
        b'{"term":0,"nonce":"","digest":"","role":"","prefix":""}',
        b"[" * 5000,
        b'{"x":' + b"[" * 7900,
    ],
)
def test_anybody_may_write_nonsense_on_the_sync_channel(payload: bytes) -> None:
    assert events.read_marker(payload) == Unreadable()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"x",
        b"{}",
        b'{"type":"notification","id":"x"}',
        b'{"type":"gap","id":"1-1"}',
        b'{"type":"marker","x":' + b"[" * 9000,
    ],
)
def test_a_line_that_is_no_entry_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any ValueError will do, msgspec's own included
        events.read_entry(line)


def test_gap_and_filled() -> None:
    assert json.loads(events.gap_json(Gap(None, HERE, "failover", pending=True), "7-1~2-3_4-5")) == {
        "type": "gap",
        "after": None,
        "before": str(HERE),
        "reason": "failover",
        "pending": True,
        "cursor": "7-1~2-3_4-5",
    }
    assert "pending" not in json.loads(events.gap_json(Gap(HERE, None, "history_trimmed"), "7-1"))
    assert json.loads(events.filled_json(Filled(HERE, None), "7-1")) == {
        "type": "filled",
        "after": str(HERE),
        "before": None,
        "cursor": "7-1",
    }


@given(st.binary(max_size=30), st.booleans())
def test_a_cursor_is_added_and_nothing_else_changes(raw: bytes, is_late: bool) -> None:
    event = events.event(HERE, Notification("c", events.payload_json(raw)))
    event = events.late(event, None) if is_late else event
    assert json.loads(events.with_cursor(event.data, "7-1~2-3_4-5")) == json.loads(event.data) | {
        "cursor": "7-1~2-3_4-5"
    }


@given(st.binary(max_size=30))
def test_a_late_event_is_in_order_for_those_to_whom_nothing_newer_has_come(raw: bytes) -> None:
    event = events.event(HERE, Notification("c", events.payload_json(raw)))
    assert events.in_order(events.late(event, (HERE, HERE))) == event
    assert events.in_order(event) == event


@pytest.mark.parametrize(
    ("before", "passed"),
    [(None, None), (Position(7, 0), Position(7, 0)), (Position(7, 1), Position(7, 0)), (HERE, HERE.plus(-1))],
)
def test_after_a_gap_a_client_stands_before_what_follows(before: Position | None, passed: Position | None) -> None:
    assert Gap(HERE, before, "failover").passed == passed


lines = st.one_of(
    st.builds(
        lambda seq, channel, raw: events.entry_json(Position(7, seq), Notification(channel, events.payload_json(raw))),
        st.integers(1, 4),
        st.sampled_from("ab"),
        st.binary(max_size=5),
    ),
    st.just(events.entry_json(Position(7, 2), Marker(9, "n", "d", "listener", "p"))),
    st.binary(max_size=20),
)


bodies = st.one_of(
    st.builds(Notification, st.text(min_size=1, max_size=5), st.binary(max_size=9).map(events.payload_json)),
    st.builds(Marker, st.integers(1, 9), st.text(), st.text(), st.just("listener"), st.text()),
    st.just(Unreadable()),
)


@given(st.lists(bodies, max_size=6), st.integers(1, 2**62), st.integers(0, 2**62))
def test_lines_are_made_as_each_entry_is(given: list[Body], term: int, seq: int) -> None:
    first = Position(term, seq)
    assert events.entry_lines(first, given) == [events.entry_json(first.plus(n), one) for n, one in enumerate(given)]


@given(st.lists(lines, max_size=5), st.integers(1, 3), st.integers(0, 30))
def test_a_run_of_lines_is_what_each_line_is(given: list[bytes], seq: int, cut: int) -> None:
    good = [events.entry_json(Position(7, seq + n), Notification("c", b"%d" % n)) for n in range(4)]
    assert events.read_run(good) == [events.read_entry(line).event for line in good]
    for some in (given, good[:2] + given, good[1:] + given, [*good, good[-1][:-cut]]):
        run = events.read_run(some)
        if run:
            assert run == [events.read_entry(line).event for line in some]
            assert [one.position for one in run] == [run[0].position.plus(n) for n in range(len(run))]


@pytest.mark.parametrize("ids", [["7-1", "7-3"], ["7-1", "8-2"], ["7-2", "7-1"], ["7-1\\n7-2"], ["7-01", "7-2"], ["x"]])
def test_what_is_no_run_is_none(ids: list[str]) -> None:
    assert events.read_run([b'{"type":"notification","id":"%b"}' % one.encode() for one in ids]) == []
    assert events.read_run([]) == []


@given(documents, st.sampled_from([None, 1, "\r\n"]))
def test_what_an_application_publishes_is_read_as_it_was_written(document: object, indent: int | str | None) -> None:
    payload = json.dumps(document, indent=indent, ensure_ascii=False).encode()
    said = events.published('chan"nel ü', payload)
    assert events.read_published(said.data) == said
    assert b"\n" not in said.data
    assert json.loads(said.data) == {"type": "notification", "id": None, "channel": 'chan"nel ü', "payload": document}


@pytest.mark.parametrize("payload", [b'"' + b"x" * 7998 + b'"', b"[" * 129 + b"]" * 129], ids=["long", "deep"])
def test_what_is_too_long_or_too_deep_is_not_published(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"at most (7999 bytes|128 deep)"):
        events.published("c", payload)
    with pytest.raises(ValueError, match=r"at most (7999 bytes|128 deep)"):
        events.read_published(b'{"type":"notification","id":null,"channel":"c","payload":%b}' % payload)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        b"hello",
        b"null",
        b"[]",
        b'{"type":"notification","id":null,"channel":"c"}',
        b'{"type":"notification","channel":"c","payload":1}',
        b'{"type":"notification","id":"1-1","channel":"c","payload":1}',
        b'{"type":"gap","id":null,"channel":"c","payload":1}',
        b'{"type":"notification","id":null,"channel":7,"payload":1}',
        b'{"type":"notification","id":null,"channel":"c","payload":1,"cursor":"1-1"}',
        b'{"type":"notification","id":null,"channel":"c","payload":1}x',
        b'{"type":"notification","id":null,"channel":"c","payload":NaN}',
        b'{"type":"notification","id":null,"channel":"c","payload":"\xff"}',
        b'{"type":"notification","id":null,"channel":"c","payload":"\n"}',
        b'{"type":"notification","id":null,"channel":"c","payload":"\\ud800"}',
        b'{"type":"notification","id":null,"channel":"c","payload":' + b"[" * 4000 + b"]" * 4000 + b"}",
        b'{"type":"notification","id":null,"channel":"c","payload":1}' + b" " * 9000,
    ],
)
def test_what_is_no_published_event_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        events.read_published(message)


@given(st.binary(max_size=80))
def test_reading_what_was_published_refuses_and_never_fails(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        events.read_published(message)
