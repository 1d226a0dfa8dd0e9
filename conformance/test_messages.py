"""What clients are told: notifications with their payloads, by clients of every kind."""

import json
import re

import pytest

from conformance.lib.deployment import Deployment
from conformance.lib.face import KINDS, Open

VERBATIM = [
    "1e400",
    "-0",
    "12345678901234567890.12345678901234567890",
    "1E5",
    "[1,2.0,3.10]",
    '"a string"',
    "true",
    "null",
    '{"b":1,"a":{"c":[]}}',
    '{"ü":"\\u00fc😀"}',
    '{"a": 1 ,"b" :2}',
]


@pytest.mark.parametrize("kind", KINDS)
def test_subscribed_comes_first(deployment: Deployment, open_client: Open, run: str, kind: str) -> None:
    """`subscribed` with channels, where, sub and position: from here on nothing is missed."""
    client = open_client(deployment.servers[0], f"/ws?channel=match_change&where.run={run}", kind)
    said = client.subscribed
    assert (said["channels"], said["where"], said["sub"]) == (["match_change"], {"run": run}, None)
    assert "position" in said
    deployment.notify("match_change", {"run": run})
    assert client.payloads(1) == [{"run": run}]


@pytest.mark.parametrize("kind", KINDS)
def test_a_notification(deployment: Deployment, open_client: Open, run: str, kind: str) -> None:
    """`{"type":"notification","id":"TERM-SEQ","channel":…,"payload":…}`: `payload` is the JSON value of the NOTIFY."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}", kind)
    deployment.notify("scoreboard_change", {"run": run, "match_id": 7})
    message = client.next()
    assert (message["type"], message["channel"]) == ("notification", "scoreboard_change")
    assert message["payload"] == {"run": run, "match_id": 7}
    assert re.fullmatch(r"\d+-\d+", message["id"])


@pytest.mark.parametrize("kind", KINDS)
def test_one_transaction_comes_in_its_order(deployment: Deployment, open_client: Open, run: str, kind: str) -> None:
    """Events come in the order of the NOTIFYs, each once, at every server, with the same ids."""
    clients = [open_client(place, f"/ws?where.run={run}", kind) for place in deployment.servers]
    deployment.notify("match_change", *[{"run": run, "n": n} for n in range(200)])
    texts = [[client.next_text() for _ in range(200)] for client in clients]
    assert [json.loads(text)["payload"]["n"] for text in texts[0]] == list(range(200))
    assert all(other == texts[0] for other in texts)


def test_json_is_verbatim(deployment: Deployment, open_client: Open, run: str) -> None:
    """`payload` is the JSON value where the NOTIFY payload is valid JSON: verbatim, numbers untouched."""
    client = open_client(deployment.servers[0], "/ws/match_change")
    deployment.notify("match_change", f'"{run}"', *VERBATIM)
    while json.loads(text := client.next_text())["payload"] != run:
        pass
    texts = [client.next_text() for _ in VERBATIM]
    for payload, text in zip(VERBATIM, texts, strict=True):
        assert f'"payload":{payload}' in text, text


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_json_is_a_string(deployment: Deployment, open_client: Open, run: str, kind: str) -> None:
    """`payload` is a string where the NOTIFY payload is no valid JSON, and `""` for none."""
    client = open_client(deployment.servers[0], "/ws/match_change", kind)
    plain = [
        "",
        "plain text",
        "{'a': 1}",
        "NaN",
        "01",
        '{"a":1}x',
        "quotes \" and \\ and ' and ü 😀",
        "[1,2",
        "tab\there",
    ]
    deployment.notify("match_change", f'"{run}"', *plain)
    while client.next()["payload"] != run:
        pass
    assert client.payloads(len(plain)) == plain


def test_line_breaks(deployment: Deployment, open_client: Open, run: str) -> None:
    """Line breaks outside strings come as spaces; those of a string that is no JSON come as they are."""
    client = open_client(deployment.servers[0], "/ws/match_change")
    deployment.notify("match_change", f'"{run}"', '{\n"a":\r\n[1,\n2]}', "two\nlines\r\n")
    while client.next()["payload"] != run:
        pass
    text = client.next_text()
    assert '"payload":{ "a":  [1, 2]}' in text
    assert client.payloads(1) == ["two\nlines\r\n"]


def test_the_longest_payload(deployment: Deployment, open_client: Open, run: str) -> None:
    """The longest payload that PostgreSQL takes, 7,999 bytes, arrives as it is."""
    client = open_client(deployment.servers[0], "/ws/match_change")
    long = run + "ü" * ((7999 - len(run)) // 2) + "x" * ((7999 - len(run)) % 2)
    assert len(long.encode()) == 7999
    deployment.notify("match_change", long)
    while (payload := client.next()["payload"]) != long:
        assert not str(payload).startswith(run)


def test_what_is_rolled_back_never_comes(deployment: Deployment, open_client: Open, run: str) -> None:
    """Only what is committed is notified."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    payload = json.dumps({"run": run, "n": 1})
    deployment.psql.rows(f"BEGIN; SELECT pg_notify('match_change', '{payload}'); ROLLBACK")
    deployment.notify("match_change", {"run": run, "n": 2})
    assert client.payloads(1) == [{"run": run, "n": 2}]


def test_all_channels(deployment: Deployment, open_client: Open, run: str) -> None:
    """A bridge listens on all channels of `BRIDGE_CHANNELS`; no channel in the URL means all of them."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    assert sorted(client.subscribed["channels"]) == sorted(deployment.channels)
    for channel in deployment.channels:
        deployment.notify(channel, {"run": run, "n": channel})
    assert [payload["n"] for payload in client.payloads(len(deployment.channels))] == list(deployment.channels)


def test_other_channels_are_not_heard(deployment: Deployment, open_client: Open, run: str) -> None:
    """A channel that was not asked for is not heard, also where its name differs in case alone."""
    client = open_client(deployment.servers[0], f"/ws/match_change?where.run={run}")
    for channel in ("scoreboard_change", "MATCH_CHANGE", "match_changes"):
        deployment.notify(channel, {"run": run, "n": channel})
    deployment.notify("match_change", {"run": run, "n": "the last"})
    assert client.payloads(1) == [{"run": run, "n": "the last"}]


def test_the_position_comes_while_nothing_happens(deployment: Deployment, open_client: Open, run: str) -> None:
    """`{"type":"position","cursor":CURSOR}` comes after 15 s without an event, and the cursor can be resumed from."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    text = ""
    while '"position"' not in text:
        taken = client.take(60)
        assert taken is not None, "nothing for a minute"
        text = getattr(taken, "text", "")
    position = json.loads(text)
    assert (position["type"], list(position)) == ("position", ["type", "cursor"])
    deployment.notify("match_change", {"run": run, "n": 1})
    again = open_client(deployment.servers[0], f"/ws?where.run={run}&after={position['cursor']}")
    assert again.payloads(1) == client.payloads(1) == [{"run": run, "n": 1}]
