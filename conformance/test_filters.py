"""`where` and the forms of subscribing in the URL."""

import json
from urllib.parse import quote

import pytest

from conformance.lib.deployment import Deployment
from conformance.lib.face import KINDS, Open

MATCHING = [
    ("text", '"text"', True),
    ("", '""', True),
    ("7", "7", True),
    ("7", '"7"', True),
    ("7.0", "7", False),
    ("7.0", "7.0", True),
    ("1e2", "100", False),
    ("true", "true", True),
    ("null", "null", True),
    ("null", '"null"', True),
    ("ü😀", '"\\u00fc\\ud83d\\ude00"', True),
    ("[7]", "[7]", False),
    ("{}", "{}", False),
    ("Text", '"text"', False),
]


@pytest.mark.parametrize(("value", "field", "matches"), MATCHING)
def test_where(deployment: Deployment, open_client: Open, run: str, value: str, field: str, matches: bool) -> None:
    """`where` compares as text: a string's content, another scalar as written; objects and arrays never match."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}&where.f={quote(value)}")
    last = open_client(deployment.servers[0], f"/ws?where.run={run}&where.last=1")
    deployment.notify("match_change", f'{{"run":"{run}","f":{field}}}', {"run": run, "last": 1})
    last.payloads(1)
    if matches:
        assert client.payloads(1)[0]["f"] == json.loads(field)
    client.silent(0.05)


def test_where_wants_an_object(deployment: Deployment, open_client: Open, run: str) -> None:
    """`where` never matches a payload that is no object, or lacks the field, or has it further down."""
    client = open_client(deployment.servers[0], f"/ws?where.m=7&where.run={run}")
    payloads = [f'[{{"run":"{run}","m":7}}]', f'"{run}"', "7", "", f'{{"run":"{run}"}}']
    payloads += [f'{{"run":"{run}","x":{{"m":7}}}}', f'{{"run":"{run}","m":7,"last":1}}']
    deployment.notify("match_change", *payloads)
    assert client.payloads(1)[0]["last"] == 1


def test_every_where_must_match(deployment: Deployment, open_client: Open, run: str) -> None:
    """`where.a=1&where.b=2`: events with both."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}&where.a=1&where.b=2")
    assert client.subscribed["where"] == {"run": run, "a": "1", "b": "2"}
    deployment.notify(
        "match_change", *[{"run": run, "a": a, "b": b} for a, b in [(1, 1), (2, 2), (1, 2)]], {"run": run, "b": 2}
    )
    assert client.payloads(1) == [{"run": run, "a": 1, "b": 2}]
    client.silent(0.1)


def test_channels_in_the_query(deployment: Deployment, open_client: Open, run: str) -> None:
    """`/ws?channel=match_change&channel=scoreboard_change&where.match_id=7`."""
    path = f"/ws?channel=match_change&channel=scoreboard_change&where.match_id=7&where.run={run}"
    client = open_client(deployment.servers[0], path)
    assert sorted(client.subscribed["channels"]) == ["match_change", "scoreboard_change"]
    for channel in ("match_change", "scoreboard_change", "playclock_change", "match_change"):
        deployment.notify(channel, {"run": run, "match_id": 7, "c": channel}, {"run": run, "match_id": 8})
    assert [p["c"] for p in client.payloads(3)] == ["match_change", "scoreboard_change", "match_change"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_url_of_a_match(deployment: Deployment, open_client: Open, run: str, kind: str) -> None:
    """The predecessor's `/ws/match/7/stats`: all channels where `match_id` is 7."""
    client = open_client(deployment.servers[0], f"/ws/match/7/stats?where.run={run}", kind)
    for channel in deployment.channels:
        deployment.notify(channel, {"run": run, "match_id": 8}, {"run": run, "match_id": 7, "c": channel})
    assert [payload["c"] for payload in client.payloads(len(deployment.channels))] == list(deployment.channels)


def test_filters_reach_what_was_missed(deployment: Deployment, open_client: Open, run: str) -> None:
    """Who resumes gets what it asks for, and no more."""
    first = open_client(deployment.servers[0], f"/ws?where.run={run}&where.m=1")
    deployment.notify("match_change", *[{"run": run, "m": n % 3, "n": n} for n in range(30)])
    first.payloads(10)
    again = open_client(deployment.servers[0], f"/ws?where.run={run}&where.m=1&after={first.subscribed['position']}")
    assert [payload["n"] for payload in again.payloads(10)] == list(range(1, 30, 3))
    again.silent(0.1)
