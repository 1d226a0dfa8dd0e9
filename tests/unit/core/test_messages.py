"""What clients say is understood exactly, or refused with one clear line."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.grants import EVERYTHING, Grant
from bridge.core.messages import (
    MAX_AFTER_BYTES,
    MAX_BAD,
    MAX_REFUSED,
    MAX_SUB_BYTES,
    MAX_WHERE_BYTES,
    MESSAGES_BURST,
    MESSAGES_PER_SECOND,
    Patience,
    Ping,
    Refused,
    Subscribe,
    Unsubscribe,
    read_message,
)
from bridge.core.topics import MAX_FIELDS, Subscription

KNOWN = frozenset({"a", "b", "c_1", "c_2"})
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=15)


def refused(message: str | bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        read_message(message)
    return caught.value


@given(
    st.frozensets(texts, max_size=4),
    st.dictionaries(texts, texts | st.integers() | st.booleans() | st.none(), max_size=4),
    st.none() | texts,
    st.none() | texts,
    st.data(),
)
def test_subscribe_says_what_was_put_into_it(
    channels: frozenset[str], where: dict[str, Any], after: str | None, sub: str | None, data: st.DataObject
) -> None:
    said = {"type": "subscribe", "channels": sorted(channels), "where": where, "after": after, "sub": sub}
    message = json.dumps(dict(data.draw(st.permutations(sorted(said.items())))))
    compared = {name: value if isinstance(value, str) else json.dumps(value) for name, value in where.items()}
    assert read_message(message) == Subscribe(channels, tuple(sorted(compared.items())), after or None, sub)


@pytest.mark.parametrize(
    "message",
    ['{"type":"subscribe"}', '{"channels":null,"where":null,"after":null,"sub":null,"type":"subscribe"}'],
)
def test_what_is_left_out_is_everything_of_the_nameless_subscription(message: str) -> None:
    assert read_message(message) == Subscribe(frozenset(), (), None, None)


def test_scalars_are_compared_as_they_are_written() -> None:
    message = '{"type":"subscribe","where":{"a": 1.50 ,"b":"1\\u00e9","c":true,"d":null,"e":-0,"f":1E5}}'
    expected = (("a", "1.50"), ("b", "1é"), ("c", "true"), ("d", "null"), ("e", "-0"), ("f", "1E5"))
    found = read_message(message)
    assert isinstance(found, Subscribe)
    assert found.where == expected


def test_the_other_messages() -> None:
    assert read_message('{"type":"unsubscribe"}') == Unsubscribe(None)
    assert read_message('{"type":"unsubscribe","sub":"x"}') == Unsubscribe("x")
    assert read_message(' {"x":[1],"type":"ping"}') == Ping()


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ("", "JSON object"),
        ("ping", "JSON object"),
        ("{}", "JSON object"),
        ('["type"]', "JSON object"),
        ('{"type":7}', "JSON object"),
        ("\ud800", "JSON object"),
        ("[" * 60_000, "JSON object"),
        ('{"type":"ping","x":' + "[" * 60_000, "JSON object"),
        (b'{"type":"ping"}', "text frame"),
        ('{"type":"pang"}', "unknown type 'pang'; there are"),
        (json.dumps({"type": "x" * 60_000}), "unknown type"),
        ('{"type":"subscribe","chanels":["a"]}', "unknown field `chanels`"),
        ('{"type":"subscribe","a\\nb":1}', "unknown field `a b`"),
        ('{"type":"subscribe","channels":"a"}', "$.channels"),
        ('{"type":"subscribe","channels":["a",7]}', "$.channels"),
        ('{"type":"subscribe","where":[]}', "$.where"),
        ('{"type":"subscribe","where":{"x":{}}}', "where 'x' is compared with a string"),
        ('{"type":"subscribe","where":{"x\\n":["7"]}}', r"where 'x\n' is compared with"),
        ('{"type":"subscribe","after":7}', "$.after"),
        ('{"type":"subscribe","sub":7}', "$.sub"),
        ('{"type":"unsubscribe","sub":[]}', "$.sub"),
        ('{"type":"unsubscribe","name":"x"}', "unknown field `name`"),
        (json.dumps({"type": "unsubscribe", "sub": "é" * MAX_SUB_BYTES}), "sub is longer than 64 bytes"),
        (json.dumps({"type": "subscribe", "sub": "x" * (MAX_SUB_BYTES + 1)}), "sub is longer than 64 bytes"),
        (json.dumps({"type": "subscribe", "after": "x" * (MAX_AFTER_BYTES + 1)}), "after is longer"),
        (json.dumps({"type": "subscribe", "where": {"x": "x" * MAX_WHERE_BYTES}}), "where is longer"),
        (json.dumps({"type": "subscribe", "where": {str(n): n for n in range(MAX_FIELDS + 1)}}), "more than 16 fields"),
    ],
)
def test_other_messages_are_bad(message: str | bytes, part: str) -> None:
    error = refused(message)
    assert error.code == "bad_message"
    assert part in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 300


@given(
    st.text()
    | st.binary()
    | st.recursive(
        st.text() | st.none() | st.sampled_from(["subscribe", "unsubscribe", "ping"]),
        lambda inner: st.dictionaries(st.text() | st.sampled_from(["type", "channels", "where", "sub"]), inner),
    ).map(json.dumps)
)
def test_any_message_is_read_or_refused_in_one_line(message: str | bytes) -> None:
    try:
        read_message(message)
    except Refused as error:
        said = error
    else:
        return
    assert said.code == "bad_message"
    assert len(str(said).splitlines()) == 1


def test_what_is_asked_for_is_narrowed_to_what_is_granted() -> None:
    everything = Subscribe(frozenset(), (("x", "1"),), None, None)
    assert everything.subscription(EVERYTHING, KNOWN) == Subscription(KNOWN, (("x", ("1",)),))
    some = Grant(("c_*",), (("y", ("2", "3")),), None)
    narrowed = Subscription(frozenset({"c_1", "c_2"}), (("x", ("1",)), ("y", ("2", "3"))))
    assert everything.subscription(some, KNOWN) == narrowed


@pytest.mark.parametrize(
    ("asked", "code", "part"),
    [
        (Subscribe(frozenset({"a", "d\n"}), (), None, None), "unknown_channel", r"'d\n'; there are a, b, c_1, c_2"),
        (Subscribe(frozenset({"a"}), (), None, None), "forbidden", "the channel 'a'"),
        (Subscribe(frozenset({"c_1"}), (("y", "4"),), None, None), "forbidden", "'y' is '4'"),
    ],
)
def test_what_is_not_granted_is_refused(asked: Subscribe, code: str, part: str) -> None:
    with pytest.raises(Refused) as caught:
        asked.subscription(Grant(("c_*",), (("y", ("2", "3")),), None), KNOWN)
    assert caught.value.code == code
    assert part in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_client_may_say_much_at_once_and_then_a_little_at_a_time() -> None:
    patience = Patience(100.0)
    for _ in range(int(MESSAGES_BURST)):
        assert patience.read('{"type":"ping"}', 100.0) == Ping()
    for _ in range(MAX_REFUSED - 1):
        with pytest.raises(Refused, match="at most 20 messages a second") as caught:
            patience.read('{"type":"ping"}', 100.0)
        assert caught.value.code == "rate_limited"
    assert patience.enough is None
    assert patience.read('{"type":"ping"}', 100.0 + 1.001 / MESSAGES_PER_SECOND) == Ping()
    with pytest.raises(Refused):
        patience.read('{"type":"ping"}', 100.0 + 1.001 / MESSAGES_PER_SECOND)
    assert patience.enough == "too many messages"


def test_who_holds_still_for_a_while_is_forgiven() -> None:
    patience, now = Patience(0.0), 0.0
    for _ in range(5):
        for _ in range(int(MESSAGES_BURST)):
            patience.read('{"type":"ping"}', now)
        for _ in range(MAX_REFUSED - 1):
            with pytest.raises(Refused):
                patience.read('{"type":"ping"}', now)
        now += MESSAGES_BURST / MESSAGES_PER_SECOND + 0.001
    assert patience.enough is None


def test_who_makes_no_sense_has_said_enough() -> None:
    patience = Patience(0.0)
    for n in range(MAX_BAD):
        assert patience.enough is None
        with pytest.raises(Refused):
            patience.read("?", n)
        patience.read('{"type":"ping"}', n)
    assert patience.enough == "too many messages that were not understood"
