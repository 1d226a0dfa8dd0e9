"""Cursors: who comes back, to whichever server, goes on where it was."""

from urllib.parse import quote

import pytest

from conformance.lib.deployment import Deployment
from conformance.lib.face import KINDS, Open
from conformance.lib.story import cursor_of
from conformance.lib.wait import wait_for


@pytest.mark.parametrize("kind", KINDS)
def test_resume_after_each_event(deployment: Deployment, open_client: Open, run: str, kind: str) -> None:
    """Give `after` the `cursor` of the last message, or its `id`: each event once, at the other server as well."""
    first = open_client(deployment.servers[0], f"/ws?where.run={run}", kind)
    deployment.notify("match_change", *[{"run": run, "n": n} for n in range(6)])
    messages = [first.next() for _ in range(6)]
    for place in deployment.servers:
        for number, message in enumerate(messages[:5:2]):
            cursor = quote(str(cursor_of(message)))
            again = open_client(place, f"/ws?where.run={run}&after={cursor}", kind)
            expected = list(range(2 * number + 1, 6))
            assert [payload["n"] for payload in again.payloads(len(expected))] == expected
            assert again.subscribed["position"]


def test_resume_with_nothing_received_yet(deployment: Deployment, open_client: Open, run: str) -> None:
    """The `position` of `subscribed` is a cursor too: who has received nothing yet misses nothing."""
    first = open_client(deployment.servers[0], f"/ws?where.run={run}")
    first.close()
    deployment.notify("match_change", {"run": run, "n": 1})
    again = open_client(deployment.other_server, f"/ws?where.run={run}&after={quote(first.subscribed['position'])}")
    assert again.payloads(1) == [{"run": run, "n": 1}]


def test_resume_again_and_again(deployment: Deployment, open_client: Open, run: str) -> None:
    """Coming back again and again, to one server and the other, while events are committed: each comes once."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    cursor, got = client.subscribed["position"], []
    for turn in range(10):
        deployment.notify("match_change", *[{"run": run, "n": 3 * turn + n} for n in range(3)])
        client.close()
        client = open_client(
            deployment.servers[turn % len(deployment.servers)], f"/ws?where.run={run}&after={quote(cursor)}"
        )
        for _ in range(2 if turn % 2 else 3):  # now and then it goes before it has heard all
            message = client.next()
            got.append(message["payload"]["n"])
            cursor = str(cursor_of(message))
    rest = 30 - len(got)
    got += [payload["n"] for payload in client.payloads(rest)]
    assert got == list(range(30))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cursor", ["no-cursor-at-all", "999999999999-7", "0", "%F0%9F%98%80"])
def test_an_unknown_position(deployment: Deployment, open_client: Open, run: str, cursor: str, kind: str) -> None:
    """A cursor that means nothing here gets one final `gap`, `unknown_position`, and what comes from then on."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}&after={cursor}", kind)
    gap = client.next()
    assert (gap["type"], gap["reason"], gap.get("pending", False)) == ("gap", "unknown_position", False)
    deployment.notify("match_change", {"run": run})
    assert client.payloads(1) == [{"run": run}]


def test_gaps_have_their_bounds(deployment: Deployment, open_client: Open, run: str) -> None:
    """A `gap` has `after` and `before`: an id, or null."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}&after=1-1")
    gap = client.next()
    assert {"type", "after", "before", "reason"} <= set(gap)
    assert all(gap[bound] is None or isinstance(gap[bound], str) for bound in ("after", "before"))


def test_the_history_is_long_enough(deployment: Deployment, open_client: Open, run: str) -> None:
    """Thousands of events back can be resumed from (`BRIDGE_HISTORY_ENTRIES` is 10,000 by default)."""
    first = open_client(deployment.servers[0], f"/ws?where.run={run}")
    cursor = first.subscribed["position"]
    sql = (
        f"SELECT count(pg_notify('match_change', json_build_object('run', '{run}', 'n', n)::text)) "
        "FROM generate_series(1, 5000) n"
    )
    deployment.psql.rows(sql)
    first.payloads(5000, 60)
    for place in deployment.servers:
        wait_for(lambda place=place: deployment.health(place)[0] == "ok", "health")  # type: ignore[misc]
        again = open_client(place, f"/ws?where.run={run}&after={quote(cursor)}")
        assert [payload["n"] for payload in again.payloads(5000, 60)] == list(range(1, 5001))
