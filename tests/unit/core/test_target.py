"""URLs of clients: whatever can be asked for is read as it was put in, and anything else is refused in one line."""

from contextlib import suppress
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.target import MAX_PARAMETERS, BadTarget, Target, _read_query, parse_target
from bridge.core.topics import MAX_FIELDS

KNOWN = frozenset({"a", "b/c", "ü & +", "match"})

protocols = st.sampled_from(("ws", "sse"))
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(
    protocols,
    st.frozensets(names, min_size=1, max_size=5),
    st.dictionaries(names, names, max_size=4),
    st.dictionaries(st.sampled_from(("after", "token")), names),
    st.data(),
)
def test_a_query_says_what_was_put_into_it(
    protocol: Literal["ws", "sse"],
    known: frozenset[str],
    where: dict[str, str],
    single: dict[str, str],
    data: st.DataObject,
) -> None:
    chosen = data.draw(st.sets(st.sampled_from(sorted(known))))
    pairs = [("channel", name) for name in chosen] + [(f"where.{name}", value) for name, value in where.items()]
    pairs += single.items()
    target = f"/{protocol}?" + urlencode(data.draw(st.permutations(pairs)))
    expected = Target(
        protocol, frozenset(chosen), tuple(sorted(where.items())), single.get("after"), single.get("token")
    )
    assert parse_target(target, known) == expected


@given(protocols, names)
def test_a_path_names_one_channel(protocol: Literal["ws", "sse"], name: str) -> None:
    target = parse_target(f"/{protocol}/{quote(name, safe='')}", frozenset({name, "other"}))
    assert target == Target(protocol, frozenset({name}))


@given(protocols, names)
def test_the_path_for_a_match(protocol: Literal["ws", "sse"], match_id: str) -> None:
    expected = Target(protocol, frozenset(), (("match_id", match_id),))
    assert parse_target(f"/{protocol}/match/{quote(match_id, safe='')}/stats", KNOWN) == expected


@pytest.mark.parametrize(
    ("target", "channels", "where"),
    [
        ("/ws", set(), ()),
        ("/ws?", set(), ()),
        ("/ws?after=&token=", set(), ()),
        ("/ws/match", {"match"}, ()),
        ("/ws/a?channel=match", {"a", "match"}, ()),
        ("/ws?channel=a&channel=a", {"a"}, ()),
        ("/ws?where.x=1&where.x=1", set(), (("x", "1"),)),
        ("/ws?where.x=&where.b.c=1", set(), (("b.c", "1"), ("x", ""))),
        ("/ws/match/7/stats?channel=a", {"a"}, (("match_id", "7"),)),
    ],
)
def test_targets(target: str, channels: set[str], where: tuple[tuple[str, str], ...]) -> None:
    assert parse_target(target, KNOWN) == Target("ws", frozenset(channels), where)
    assert parse_target(target.replace("/ws", "/sse"), KNOWN) == Target("sse", frozenset(channels), where)


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("/wsx", 404, "nothing"),
        ("/", 404, "nothing"),
        ("/ws/", 404, "nothing"),
        ("/SSE", 404, "nothing"),
        ("/ws/a/b", 404, "nothing"),
        ("/ws/match//stats", 404, "nothing"),
        ("/ws/match/7/events", 404, "nothing"),
        ("//elsewhere/ws", 404, "nothing"),
        ("http://localhost/ws", 404, "nothing"),
        ("*", 404, "nothing"),
        ("/ws/nope", 400, "unknown channel 'nope'"),
        ("/sse/nope", 400, "unknown channel 'nope'"),
        ("/ws?channel=A", 400, "unknown channel 'A'"),
        ("/ws?channel=", 400, "unknown channel ''"),
        ("/ws?channel=%0a", 400, "unknown channel"),
        ("/ws?chanel=a", 400, "unknown parameter 'chanel'"),
        ("/ws?where=1", 400, "unknown parameter"),
        ("/ws?after=1-2&after=1-3", 400, "after is given twice"),
        ("/ws?token=x&token=", 400, "token is given twice"),
        ("/ws?where.x=1&where.x=2", 400, "'where.x' is given twice"),
        ("/ws/match/7/stats?where.match_id=8", 400, "given twice"),
        ("/ws?where.x=%ff", 400, "cannot be read"),
        ("/ws/%ff", 400, "cannot be read"),
        ("/ws?" + "&".join(f"where.{n}=1" for n in range(MAX_FIELDS + 1)), 400, f"more than {MAX_FIELDS} fields"),
        ("/ws?" + "channel=a&" * (MAX_PARAMETERS + 1), 400, f"more than {MAX_PARAMETERS} parameters"),
        (f"/ws?{'x' * 10_000}=1", 400, "x…'"),
    ],
)
def test_what_is_refused(target: str, status: int, message: str) -> None:
    with pytest.raises(BadTarget) as caught:
        parse_target(target, KNOWN)
    assert caught.value.status == status
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("rest", ["&channel=nope", "&token=other", "&nope=1", "&where.x=1&where.x=2", "&x=%ff"])
def test_a_refusal_does_not_show_the_token(rest: str) -> None:
    with pytest.raises(BadTarget) as caught:
        parse_target("/ws?token=hunter2" + rest, KNOWN)
    assert "hunter2" not in str(caught.value)


def test_a_target_does_not_show_its_token() -> None:
    assert "hunter2" not in repr(parse_target("/ws?token=hunter2", KNOWN))


@given(st.text() | st.from_regex(r"/(ws|sse)\?((channel|where\.x|after|token|%)=[a%&]{0,3}&){0,3}", fullmatch=True))
def test_any_target_is_read_or_refused(target: str) -> None:
    with suppress(BadTarget):
        assert parse_target(target, KNOWN).channels <= KNOWN


@given(st.text(st.sampled_from("ab=&;+%2 "), max_size=12))
def test_a_query_without_escapes_is_read_like_any_other(query: str) -> None:
    with suppress(ValueError):
        assert _read_query(query) == parse_qsl(query, keep_blank_values=True, errors="strict")
