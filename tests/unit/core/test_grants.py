"""Claims against the obvious model: an event that they exclude is never matched, whatever is asked for."""

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.core.events import Event, Notification, event, fields
from bridge.core.grants import (
    EVERYTHING,
    NOT_BEFORE_LEEWAY_SECONDS,
    BadToken,
    Forbidden,
    Grant,
    read_grant,
)
from bridge.core.position import Position
from bridge.core.topics import MAX_ALTERNATIVES, MAX_FIELDS, Subscription
from bridge.errors import SettingsError

KNOWN = frozenset({"match_change", "match_stats", "scoreboard", "a*b"})
NOW = 1_700_000_000.0

patterns = st.sampled_from((*sorted(KNOWN), "*", "**", "match_*", "*_*", "*change", "a*b", "", "nobody", "?", "[a-z]*"))
scalars = st.sampled_from((7, "7", 7.5, True, False, None, "x", "", "true"))
claims = st.fixed_dictionaries(
    {},
    optional={
        "channels": patterns | st.lists(patterns, max_size=4),
        "where": st.dictionaries(
            st.sampled_from(("m", "n")), scalars | st.lists(scalars, max_size=3) | st.just([]), max_size=2
        ),
    },
)
asked = st.tuples(
    st.frozensets(st.sampled_from(sorted(KNOWN)), max_size=3),
    st.dictionaries(
        st.sampled_from(("m", "n", "o")), st.sampled_from(("7", "x", "true", "null", "7.5", "")), max_size=2
    ).map(lambda where: tuple(sorted(where.items()))),
)
events = st.builds(
    lambda channel, payload: event(Position(1, 1), Notification(channel, json.dumps(payload).encode())),
    st.sampled_from(sorted(KNOWN)),
    st.dictionaries(st.sampled_from(("m", "n", "o")), scalars | st.just([7])) | st.just("text"),
)

Asked = tuple[frozenset[str], tuple[tuple[str, str], ...]]


def read(claims: object, now: float = NOW, audience: str | None = None, issuer: str | None = None) -> Grant:
    return read_grant(json.dumps(claims).encode(), now=now, audience=audience, issuer=issuer)


def text(scalar: object) -> str:
    return scalar if isinstance(scalar, str) else json.dumps(scalar)


def allowed_channel(claims: dict[str, Any], channel: str) -> bool:
    if "channels" not in claims:
        return True
    names = [claims["channels"]] if isinstance(claims["channels"], str) else claims["channels"]
    return any(re.fullmatch(".*".join(map(re.escape, name.split("*"))), channel) for name in names)


def allowed_values(claims: dict[str, Any]) -> dict[str, list[str]]:
    return {
        name: [text(value) for value in (values if isinstance(values, list) else [values])]
        for name, values in claims.get("where", {}).items()
    }


def allowed(claims: dict[str, Any], heard: Event) -> bool:
    present = fields(heard.data)
    return allowed_channel(claims, heard.channel) and all(
        name in present and present[name] in values for name, values in allowed_values(claims).items()
    )


def wanted(asked: Asked, heard: Event) -> bool:
    channels, where = asked
    present = fields(heard.data)
    return (not channels or heard.channel in channels) and all(present.get(name) == value for name, value in where)


@given(claims, asked, st.lists(events, max_size=8))
@example({"where": {"m": []}}, (frozenset(), ()), [])
@example({"channels": []}, (frozenset(), ()), [])
def test_a_client_hears_what_it_asked_for_as_far_as_its_claims_allow(
    claims: dict[str, Any], asked: Asked, heard: list[Event]
) -> None:
    channels, where = asked
    values = allowed_values(claims)
    contradicts = (
        any(not allowed_channel(claims, channel) for channel in channels)
        or not any(allowed_channel(claims, channel) for channel in KNOWN)
        or any(not allowed for allowed in values.values())
        or any(value not in values.get(name, [value]) for name, value in where)
    )
    if contradicts:
        with pytest.raises(Forbidden):
            read(claims).subscription(*asked, KNOWN)
        return
    subscription = read(claims).subscription(*asked, KNOWN)
    assert subscription.channels <= KNOWN
    for one in heard:
        assert subscription.matches(one) == (wanted(asked, one) and allowed(claims, one))


@given(asked)
def test_everything_allows_everything(asked: Asked) -> None:
    channels, where = asked
    expected = Subscription(channels or KNOWN, tuple((name, (value,)) for name, value in where))
    assert EVERYTHING.subscription(*asked, KNOWN) == expected
    assert read({}).subscription(*asked, KNOWN) == expected
    assert read({"channels": "*", "where": {}, "sub": 7, "roles": [{}]}).subscription(*asked, KNOWN) == expected


def test_values_are_compared_as_they_are_written() -> None:
    payload = b'{"where":{"a":1.10,"b":[1e2,"\\u00e9",null,true,-0],"c":"1"},"x":1}'
    grant = read_grant(payload, now=NOW, audience=None, issuer=None)
    assert grant.where == (("a", ("1.10",)), ("b", ("-0", "1e2", "null", "true", "é")), ("c", ("1",)))


def test_claims_that_leave_too_much_to_compare_are_refused_until_the_client_asks_for_less() -> None:
    many = list(range(20))
    grant = read({"where": {"a": many, "b": many}})
    with pytest.raises(Forbidden, match=f"400 combinations of values, more than {MAX_ALTERNATIVES}"):
        grant.subscription(frozenset(), (), KNOWN)
    assert grant.subscription(frozenset(), (("a", "3"),), KNOWN).where[0] == ("a", ("3",))
    fields = tuple((f"f{index:02}", "1") for index in range(MAX_FIELDS))
    assert len(EVERYTHING.subscription(frozenset(), fields, KNOWN).where) == MAX_FIELDS
    with pytest.raises(Forbidden, match=f"more than {MAX_FIELDS} fields"):
        grant.subscription(frozenset(), fields, KNOWN)


def test_the_texts_of_a_refusal_are_short_lines() -> None:
    grant = read({"channels": ["match_*"], "where": {"m": "7"}})
    for channels, where, part in (
        ({"scoreboard"}, (), "the token does not allow the channel 'scoreboard'"),
        (set(), (("m", "8\n"),), r"the token does not allow events where 'm' is '8\n'"),
        (set(), (("m", "8" * 9999),), "…'"),
    ):
        with pytest.raises(Forbidden) as caught:
            grant.subscription(frozenset(channels), where, KNOWN)
        assert part in str(caught.value)
        assert len(str(caught.value)) < 200


def bad(payload: bytes, **expected: str | None) -> str:
    arguments: dict[str, Any] = {"now": NOW, "audience": None, "issuer": None, **expected}
    with pytest.raises(BadToken) as caught:
        read_grant(payload, **arguments)
    assert caught.value.status == 401
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"7",
        b"null",
        b"[]",
        b'{"channels":7}',
        b'{"channels":null}',
        b'{"channels":["a",7]}',
        b'{"channels":["a",["b"]]}',
        b'{"channels":{"a":1}}',
        b'{"channels":"\\ud800"}',
        b'{"where":null}',
        b'{"where":7}',
        b'{"where":["a"]}',
        b'{"where":{"a":{}}}',
        b'{"where":{"a":[[1]]}}',
        b'{"where":{"a":[{"b":1}]}}',
        b'{"where":{"a":"\\ud800"}}',
        b'{"where":{"a":"\xff"}}',
        b'{"exp":"1800000000"}',
        b'{"exp":null}',
        b'{"exp":true}',
        b'{"exp":1e999}',
        b'{"exp":NaN}',
        b'{"nbf":"0"}',
        b'{"nbf":[]}',
        b'{"aud":7}',
        b'{"iss":["us"]}',
        b'{"x":' + b"[" * 100_000,
        b"{" + b'"where":{"a":' + b"[" * 100_000,
    ],
)
def test_claims_of_a_wrong_type_are_a_bad_token(payload: bytes) -> None:
    assert "claim" in bad(payload)


def test_the_text_for_a_wrong_type_names_the_claim_and_no_value() -> None:
    text = bad(b'{"channels":["hunter2",7]}')
    assert "$.channels[1]" in text
    assert "hunter2" not in text
    assert "hunter2" not in bad(b'{"exp":"hunter2"}') + bad(b'{"where":{"hunter2":{"hunter2":1}}}')


@given(st.binary() | st.recursive(scalars, lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(json.dumps))
def test_any_payload_is_read_or_refused(payload: bytes | str) -> None:
    data = payload.encode() if isinstance(payload, str) else payload
    try:
        read_grant(data, now=NOW, audience=None, issuer=None)
    except BadToken:
        return


def test_a_token_lasts_until_it_expires() -> None:
    assert read({}).expires_at is None
    assert read({"exp": NOW + 0.5}).expires_at == NOW + 0.5
    assert read({"exp": int(NOW) + 1}).expires_at == NOW + 1
    for expired in (NOW, NOW - 1, 0, -1):
        assert bad(json.dumps({"exp": expired}).encode()) == "the token has expired"


def test_a_token_is_not_valid_before_its_time_but_for_the_clocks() -> None:
    assert read({"nbf": NOW + NOT_BEFORE_LEEWAY_SECONDS}) == EVERYTHING
    assert read({"nbf": NOW - 1e6, "iat": NOW + 1e6}) == EVERYTHING
    assert "not valid yet" in bad(json.dumps({"nbf": NOW + NOT_BEFORE_LEEWAY_SECONDS + 1}).encode())


@pytest.mark.parametrize(
    ("claims", "audience", "issuer", "part"),
    [
        ({}, None, None, None),
        ({"aud": "me"}, "me", None, None),
        ({"aud": ["them", "me"]}, "me", None, None),
        ({"aud": "them"}, "me", None, "another audience"),
        ({"aud": "me too"}, "me", None, "another audience"),
        ({"aud": []}, "me", None, "another audience"),
        ({}, "me", None, "names no audience"),
        ({"aud": "me"}, None, None, "the bridge has been given none"),
        ({"iss": "us"}, None, None, None),
        ({"iss": "us"}, None, "us", None),
        ({"iss": "us"}, None, "them", "not from the issuer"),
        ({"iss": ""}, None, "them", "not from the issuer"),
        ({}, None, "them", "not from the issuer"),
    ],
)
def test_audience_and_issuer(claims: object, audience: str | None, issuer: str | None, part: str | None) -> None:
    if part is None:
        assert read(claims, audience=audience, issuer=issuer) == EVERYTHING
    else:
        assert part in bad(json.dumps(claims).encode(), audience=audience, issuer=issuer)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("match_*", (), None), "channels: "),  # each letter would be a pattern, and one of them is all channels
        ((b"match_*", (), None), "channels: "),
        ((["a"], (), None), "channels: "),
        (((1,), (), None), "channels: "),
        (((b"a",), (), None), "channels: "),
        ((None, None, None), "where: "),
        ((None, {"m": ("7",)}, None), "where: "),
        ((None, ("m",), None), "where: "),
        ((None, (("m", "75"),), None), "where: "),  # 7 and 5 would be allowed
        ((None, (("m", ["75"]),), None), "where: "),
        ((None, (("m", (75,)),), None), "where: "),
        ((None, ((1, ("75",)),), None), "where: "),
        ((None, (("m", ("7",), ()),), None), "where: "),
        ((None, (("m", ("7",)), ("m", ("8",))), None), "where: "),
        ((None, (), "soon"), "expires_at: "),
        ((None, (), float("nan")), "expires_at: "),
        ((None, (), 10**400), "expires_at: "),
        ((None, (), True), "expires_at: "),
    ],
)
def test_a_grant_of_wrong_types_is_refused(arguments: tuple[Any, Any, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=r"^[^\n]*$") as refused:
        Grant(*arguments)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("expires_at", [None, 0, 1.5, float("inf")])
def test_a_grant_may_end_at_any_time(expires_at: float | None) -> None:
    assert Grant((), (), expires_at).expires_at == expires_at
