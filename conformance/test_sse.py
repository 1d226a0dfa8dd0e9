"""Server-sent events, by the standard library and by a browser's EventSource."""

import json
from urllib.parse import quote

from conformance.lib.deployment import Deployment
from conformance.lib.face import Open, OpenSource
from conformance.lib.sse import stream


def test_the_stream(deployment: Deployment, run: str) -> None:
    """`GET /sse…`: 200 `text/event-stream`; `subscribed` has its type as `event:`, notifications have none."""
    with stream(deployment.servers[0].url, deployment.path(f"/sse?where.run={run}")) as opened:
        assert opened.status == 200
        assert opened.headers["content-type"].startswith("text/event-stream")
        first = opened.message()
        assert (first.event, first.json()["type"]) == ("subscribed", "subscribed")
        deployment.notify("match_change", {"run": run, "n": 1}, {"run": run, "n": 2})
        blocks = [opened.message(), opened.message()]
        assert [block.event for block in blocks] == [None, None]
        assert [block.json()["payload"]["n"] for block in blocks] == [1, 2]
        assert all(block.id for block in (first, *blocks))


def test_the_same_json_as_on_a_websocket(deployment: Deployment, open_client: Open, run: str) -> None:
    """SSE: the same JSON as `data:`."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    with stream(deployment.servers[0].url, deployment.path(f"/sse?where.run={run}")) as opened:
        opened.message()
        deployment.notify("match_change", f'{{"run":"{run}","x":1.50,\n"y":"a\\nb"}}')
        assert opened.message().data == client.next_text()


def test_last_event_id_resumes(deployment: Deployment, run: str) -> None:
    """SSE: `id:` is the cursor and `Last-Event-ID` resumes, at the other server as well."""
    with stream(deployment.servers[0].url, deployment.path(f"/sse?where.run={run}")) as opened:
        opened.message()
        deployment.notify("match_change", *[{"run": run, "n": n} for n in range(4)])
        ids = [str(opened.message().id) for _ in range(4)]
    for place in deployment.servers:
        with stream(place.url, deployment.path(f"/sse?where.run={run}"), {"Last-Event-ID": ids[1]}) as again:
            assert again.message().event == "subscribed"
            assert [again.message().json()["payload"]["n"] for _ in range(2)] == [2, 3]


def test_a_cursor_of_a_websocket_resumes_a_stream(deployment: Deployment, open_client: Open, run: str) -> None:
    """The same under `/sse`: `after=` with a cursor that came on a WebSocket; `Last-Event-ID` is newer, and wins."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    deployment.notify("match_change", *[{"run": run, "n": n} for n in range(4)])
    ids = [client.next()["id"] for _ in range(4)]
    path = deployment.path(f"/sse?where.run={run}&after={quote(ids[0])}")
    with stream(deployment.servers[0].url, path) as opened:
        opened.message()
        assert [opened.message().json()["payload"]["n"] for _ in range(3)] == [1, 2, 3]
    with stream(deployment.servers[0].url, path, {"Last-Event-ID": ids[2]}) as opened:
        opened.message()
        assert opened.message().json()["payload"]["n"] == 3


def test_the_forms_of_urls_are_the_same(deployment: Deployment, run: str) -> None:
    """The same under `/sse`: `/sse/match_change`, `/sse/match/7/stats`."""
    with (
        stream(deployment.servers[0].url, deployment.path(f"/sse/match_change?where.run={run}")) as one,
        stream(deployment.servers[0].url, deployment.path(f"/sse/match/7/stats?where.run={run}")) as other,
    ):
        assert one.message().json()["channels"] == ["match_change"]
        assert other.message().json()["where"] == {"match_id": "7", "run": run}
        deployment.notify("match_change", {"run": run, "match_id": 7})
        assert one.message().data == other.message().data


def test_a_gap_has_its_type(deployment: Deployment, run: str) -> None:
    """SSE: gaps have `event: gap`."""
    path = deployment.path(f"/sse?where.run={run}")
    with stream(deployment.servers[0].url, path, {"Last-Event-ID": "1-1"}) as opened:
        blocks = [opened.message(), opened.message()]
        assert {block.event for block in blocks} == {"subscribed", "gap"}


def test_the_position_is_a_comment_and_an_id(deployment: Deployment, run: str) -> None:
    """After 15 s without an event SSE gets a comment and an `id:` line."""
    with stream(deployment.servers[0].url, deployment.path(f"/sse?where.run={run}")) as opened:
        opened.message()
        while True:
            block = opened.block(60)
            assert block is not None
            if block.comments:
                break
        assert block.id
        assert block.data is None


def test_event_source(deployment: Deployment, event_source: OpenSource, run: str) -> None:
    """A browser's EventSource hears notifications as plain messages, and `subscribed` as an event of its own."""
    source = event_source(deployment.servers[0], f"/sse?where.run={run}")
    assert json.loads(source.until("subscribed")["data"])["type"] == "subscribed"
    deployment.notify("match_change", {"run": run, "n": 1})
    event = source.next()
    assert event["type"] == "message"
    assert json.loads(event["data"])["payload"]["n"] == 1
    assert event["id"]


def test_event_source_resumes_by_itself(whole: Deployment, event_source: OpenSource, run: str) -> None:
    """A browser's EventSource comes back by itself when its server is restarted, and misses nothing."""
    place = whole.servers[0]
    whole.can_stop()
    source = event_source(place, f"/sse?where.run={run}")
    source.until("subscribed")
    whole.notify("match_change", {"run": run, "n": 1})
    assert json.loads(source.until("message")["data"])["payload"]["n"] == 1
    whole.stop(place.name)
    whole.notify("match_change", {"run": run, "n": 2})
    whole.start(place.name)
    whole.notify("match_change", {"run": run, "n": 3})
    assert [json.loads(source.until("message")["data"])["payload"]["n"] for _ in range(2)] == [2, 3]
