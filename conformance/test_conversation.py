"""What a client may say on an open WebSocket, and how it is answered."""

import json

import pytest

from conformance.lib.deployment import Deployment
from conformance.lib.face import KINDS, Open


@pytest.mark.parametrize("kind", KINDS)
def test_subscribe(deployment: Deployment, open_client: Open, run: str, kind: str) -> None:
    """`{"type":"subscribe","channels":[…],"where":{…},"sub":NAME}`: `subscribed`, and heard from then on."""
    client = open_client(deployment.servers[0], f"/ws/match_change?where.run=none-{run}", kind)
    client.send(type="subscribe", channels=["playclock_change"], where={"run": run, "m": 7}, sub="mine")
    said = client.next()
    assert (said["type"], said["sub"], said["channels"]) == ("subscribed", "mine", ["playclock_change"])
    assert said["where"] == {"run": run, "m": "7"}
    deployment.notify("playclock_change", {"run": run, "m": 8}, {"run": run, "m": 7})
    assert client.payloads(1) == [{"run": run, "m": 7}]


@pytest.mark.parametrize("kind", KINDS)
def test_unsubscribe(deployment: Deployment, open_client: Open, run: str, kind: str) -> None:
    """`{"type":"unsubscribe","sub":NAME}` ends a subscription, and no other."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}&where.m=1", kind)
    client.send(type="subscribe", where={"run": run, "m": 2}, sub="second")
    assert client.until("subscribed")["sub"] == "second"
    client.send(type="unsubscribe", sub="second")
    client.send(type="ping")
    client.until("pong")
    deployment.notify("match_change", {"run": run, "m": 2}, {"run": run, "m": 1})
    assert client.payloads(1) == [{"run": run, "m": 1}]


def test_an_event_comes_once_however_many_subscriptions_match(
    deployment: Deployment, open_client: Open, run: str
) -> None:
    """An event comes once, however many of a client's subscriptions match."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    for name in ("a", "b", "c"):
        client.send(type="subscribe", channels=["match_change"], where={"run": run}, sub=name)
        assert client.until("subscribed")["sub"] == name
    deployment.notify("match_change", {"run": run, "n": 1}, {"run": run, "n": 2})
    assert [payload["n"] for payload in client.payloads(2)] == [1, 2]
    client.silent(0.2)


def test_subscribe_after_a_cursor(deployment: Deployment, open_client: Open, run: str) -> None:
    """`subscribe` with `after` brings what was missed since that cursor, each event once."""
    first = open_client(deployment.servers[0], f"/ws?where.run={run}")
    deployment.notify("match_change", *[{"run": run, "n": n} for n in range(5)])
    ids = [first.next()["id"] for _ in range(5)]
    client = open_client(deployment.servers[0], f"/ws?where.run=none-{run}")
    client.send(type="subscribe", where={"run": run}, after=ids[1], sub="missed")
    got: list[int] = []
    while len(got) < 3:
        message = client.next()
        if message["type"] == "notification":
            got.append(message["payload"]["n"])
        else:
            assert message["type"] == "subscribed", message
    assert sorted(got) == [2, 3, 4]
    client.silent(0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_ping(deployment: Deployment, open_client: Open, run: str, kind: str) -> None:
    """`{"type":"ping"}` is answered by `{"type":"pong","cursor":CURSOR}`, which can be resumed from."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}", kind)
    deployment.notify("match_change", {"run": run, "n": 1})
    client.payloads(1)
    client.send(type="ping")
    pong = client.next()
    assert (pong["type"], list(pong)) == ("pong", ["type", "cursor"])
    deployment.notify("match_change", {"run": run, "n": 2})
    again = open_client(deployment.servers[0], f"/ws?where.run={run}&after={pong['cursor']}")
    assert again.payloads(1) == [{"run": run, "n": 2}]


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("nonsense", "bad_message"),
        ("[]", "bad_message"),
        ("{}", "bad_message"),
        ('{"type":"shout"}', "bad_message"),
        ('{"type":"subscribe","channels":"match_change"}', "bad_message"),
        ('{"type":"subscribe","chanels":[]}', "bad_message"),
        ('{"type":"subscribe","where":{"m":[1]}}', "bad_message"),
        ('{"type":"subscribe","channels":["no_such_channel"],"sub":"x"}', "unknown_channel"),
    ],
)
def test_errors(deployment: Deployment, open_client: Open, run: str, said: str, code: str) -> None:
    """Anything else gets an `error` event with a code and a message, and the connection goes on."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    client.send_text(said)
    error = client.next()
    assert (error["type"], error["code"]) == ("error", code)
    assert isinstance(error["message"], str)
    deployment.notify("match_change", {"run": run})
    assert client.payloads(1) == [{"run": run}]


def test_too_many_subscriptions(deployment: Deployment, open_client: Open, run: str) -> None:
    """More subscriptions than a client may have: `too_many_subscriptions`."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    for number in range(80):
        client.send(type="subscribe", where={"run": run}, sub=str(number))
    assert client.until("error")["code"] == "too_many_subscriptions"


def test_too_many_messages(deployment: Deployment, open_client: Open, run: str) -> None:
    """Messages that come too fast: `rate_limited`."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    for _ in range(400):  # too fast also where sending them takes ten seconds
        client.send(type="ping")
    assert client.until("error")["code"] == "rate_limited"


@pytest.mark.parametrize("kind", KINDS)
def test_nonsense_without_end_is_closed(deployment: Deployment, open_client: Open, run: str, kind: str) -> None:
    """A client that keeps on is closed with 1008."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}", kind)
    for number in range(12):
        client.send_text(f"nonsense {number}")
    assert client.closed().code == 1008


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_a_message(deployment: Deployment, open_client: Open, run: str, kind: str) -> None:
    """A message that is too large closes the connection with 1009."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}", kind)
    client.send_text(json.dumps({"type": "ping", "x": "x" * (1 << 20)}))
    assert client.closed().code == 1009
