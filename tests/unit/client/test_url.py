"""URLs to subscribe at: built, moved on, shown without secrets, refused in one line."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.client.url import conditions, resumed, shown, tokens, websocket_url
from bridge.core.target import parse_target
from bridge.errors import SettingsError


@pytest.mark.parametrize(
    ("given_url", "expected"),
    [
        ("http://h", "ws://h/ws"),
        ("http://h/", "ws://h/ws"),
        ("https://h:1", "wss://h:1/ws"),
        ("ws://h/ws/a", "ws://h/ws/a"),
        ("wss://h/ws/match/7/stats?channel=x#part", "wss://h/ws/match/7/stats?channel=x"),
        ("HTTP://H", "ws://H/ws"),
        ("http://[::1]:8000", "ws://[::1]:8000/ws"),
        ("http://h/ws/ü b?x=ö", "ws://h/ws/%C3%BC%20b?x=%C3%B6"),
        ("http://bücher.example:8000", "ws://xn--bcher-kva.example:8000/ws"),
        ("https://ü:ö@BÜCHER.example/ws/ü", "wss://%C3%BC:%C3%B6@xn--bcher-kva.example/ws/%C3%BC"),
        ("http://straße.de", "ws://xn--strae-oqa.de/ws"),
        ("http://xn--strae-oqa.de", "ws://xn--strae-oqa.de/ws"),
    ],
)
def test_a_url_gets_what_it_lacks(given_url: str, expected: str) -> None:
    assert websocket_url(given_url, [], []) == expected


def test_what_is_asked_for_is_added_to_what_is_there() -> None:
    url = websocket_url("http://h/ws?token=t&channel=x", ["a b", "ü"], [("match_id", "7"), ("x", "=&")])
    assert url == "ws://h/ws?token=t&channel=x&channel=a+b&channel=%C3%BC&where.match_id=7&where.x=%3D%26"


TEXT = st.text(min_size=1, max_size=8)
SCALARS = st.text(max_size=8) | st.sampled_from([None, True, False, 0, -7, 1.5, 10**20])
AS_JSON = {None: "null", True: "true", False: "false", -7: "-7", 1.5: "1.5", 10**20: "100000000000000000000"}


def as_compared(value: object) -> object:
    if value == 0 and not isinstance(value, bool):
        return "0"
    return value if isinstance(value, str) else AS_JSON[value]  # type: ignore[index]


@given(st.lists(TEXT, max_size=4), st.dictionaries(TEXT, SCALARS, max_size=16), TEXT, TEXT)
def test_the_bridge_reads_what_was_meant(
    channels: list[str], where: dict[str, object], first: str, second: str
) -> None:
    url = resumed(resumed(websocket_url("http://h", channels, conditions(where)), first), second)
    target = parse_target(url.removeprefix("ws://h"))
    assert target.channels == frozenset(channels)
    assert dict(target.where) == {name: as_compared(value) for name, value in where.items()}
    assert target.after == second


def test_a_cursor_replaces_another_one() -> None:
    assert resumed("ws://h/ws?after=1-1&channel=a&%61fter=2", "5-1~5-0_6-0") == "ws://h/ws?channel=a&after=5-1~5-0_6-0"


def test_secrets_are_not_shown() -> None:
    url = "wss://user:secret@h:1/ws?token=secret&channel=a&after=1-1&%74oken=secret"
    assert shown(url) == "wss://h:1/ws?channel=a"
    assert tokens(url) == {"secret"}
    assert tokens("ws://h/ws?%74oken=a%20b&token=") == {"a%20b", "a b"}
    assert tokens("ws://h/ws?after=token") == set()


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "h",
        "localhost:8000",
        "ftp://h",
        "http://",
        "http://h:0",
        "http://h:x",
        "http://[",
    ],
)
def test_what_is_no_url_is_refused(bad: str) -> None:
    with pytest.raises(SettingsError, match=r"--url: .* is not allowed; give a URL such as"):
        websocket_url(bad, [], [], name="--url")


@pytest.mark.parametrize(
    "host", ["x" * 64, "a..b", "a..ü", "ü" + "x" * 63, "\u2603.example", "bücher_x.example", "u:p@\u2603.example:80"]
)
def test_a_host_that_dns_cannot_have_is_said_to_be_wrong(host: str) -> None:
    with pytest.raises(SettingsError, match=r"^--url: '[^\n]*' is not allowed; its host is no name for DNS [^\n]*$"):
        websocket_url(f"http://{host}", [], [], name="--url")


@pytest.mark.parametrize("address", ["x" * 63 + ":65535", "[fe80::%25" + "x" * 60 + "]:65535"], ids=["name", "IPv6"])
def test_a_port_does_not_make_a_host_longer(address: str) -> None:
    assert websocket_url(f"http://{address}", [], []) == f"ws://{address}/ws"


def test_a_refusal_shows_no_secret() -> None:
    with pytest.raises(SettingsError) as refused:
        websocket_url("ftp://user:secret@h?token=secret", [], [])
    assert "secret" not in str(refused.value)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(SettingsError, match="channels and where"):
        websocket_url("http://h", ["\ud800"], [])


@pytest.mark.parametrize("where", [{"": 1}, {"x": [1]}, {"x": {}}, {"x": object()}, {1: "x"}, ["a"], "a", 5])
def test_what_cannot_be_compared_is_refused(where: Any) -> None:
    with pytest.raises(SettingsError, match="where: "):
        conditions(where)
