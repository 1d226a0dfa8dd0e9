"""The three tests of the predecessor's runbook, and what the logs say meanwhile."""

import json
import re
from collections.abc import Iterator

import pytest

from conformance.lib.deployment import Deployment, LogMark
from conformance.lib.face import Open, OpenSource
from conformance.lib.phrases import ERROR, IN_DIRECT, IN_REDIS, LOST, RECONNECTING, REDIS_THERE, SWITCH, TO_DIRECT
from conformance.lib.wait import wait_for

LISTENING = "SELECT application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%' ORDER BY 1"


class Outage:
    """Redis away, and back again at the end at the latest."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._away = False

    def begin(self) -> None:
        self._away = True
        self._deployment.kill(self._deployment.redis_name)

    def end(self) -> None:
        if self._away:
            self._away = False
            self._deployment.start(self._deployment.redis_name)


@pytest.fixture
def outage(whole: Deployment) -> Iterator[Outage]:
    whole.can_break()
    outage = Outage(whole)
    yield outage
    outage.end()


def test_runbook_1_redis_is_killed_and_comes_back(
    whole: Deployment, open_client: Open, outage: Outage, run: str
) -> None:
    """Runbook 1: logs show the fallback to PostgreSQL LISTEN and the way back; updates resume by themselves."""
    marks = [LogMark(whole, place.name) for place in whole.servers]
    clients = [open_client(place, f"/ws?where.run={run}") for place in whole.servers]
    outage.begin()
    for mark in marks:
        mark.wait_for(*IN_DIRECT)
    outage.end()
    for mark in marks:
        mark.wait_for(*IN_REDIS, seconds=60)
        mark.in_order(*SWITCH)
        lost = str(mark.find(*LOST))
        assert re.search(r"Redis connection failed: .+\. Attempting fallback to PostgreSQL direct LISTEN\.", lost)
    whole.notify("match_change", {"run": run, "n": 1})
    for client in clients:
        assert client.until("notification")["payload"]["n"] == 1


def test_runbook_2_redis_stays_away(whole: Deployment, open_client: Open, outage: Outage, run: str) -> None:
    """Runbook 2: while Redis is away the API answers, realtime notifications come via PostgreSQL directly, and each
    process in fallback has one LISTEN row, `bridge fallback`."""
    marks = [LogMark(whole, place.name) for place in whole.servers]
    clients = [open_client(place, f"/ws?where.run={run}") for place in whole.servers]
    outage.begin()
    for mark in marks:
        mark.wait_for(*TO_DIRECT)
    whole.wait_for_mode("direct")
    for place in whole.servers:
        assert whole.get(place, "/health").status == 200
        assert whole.health(place) == ("degraded", "direct")
        assert whole.get(place, "/ready").status == 200
        assert whole.get(place, "/status").json()["mode"] == "direct"
    names = [["bridge fallback"]] * len(whole.servers) + [["bridge listener"]] * len(whole.listeners)
    wait_for(lambda: whole.psql.rows(LISTENING) == names, "a row for each listener and each process in fallback")
    whole.notify("match_change", {"run": run, "n": 1})
    for client in clients:
        assert client.until("notification")["payload"]["n"] == 1
    for place in whole.listeners:
        if place.url:
            assert whole.get(place, "/health").status == 200
            wait_for(lambda place=place: whole.get(place, "/ready").status == 503, "it is not ready")  # type: ignore[misc]
    outage.end()
    for mark in marks:
        mark.wait_for(*IN_REDIS, seconds=60)
    names = [["bridge listener"]] * len(whole.listeners)
    wait_for(lambda: whole.psql.rows(LISTENING) == names, "no LISTEN but the listeners'")
    for place in whole.servers:
        switches = [switch["mode"] for switch in whole.get(place, "/status").json()["switches"]]
        assert "direct" in switches
        assert switches[-1] == "redis"


@pytest.mark.parametrize("kind", ["node", "browser"])
def test_runbook_3_websockets_stay_connected(
    whole: Deployment, open_client: Open, outage: Outage, run: str, kind: str
) -> None:
    """Runbook 3: a client at `/ws/match/1/stats` stays connected through a Redis failure, and gets each event once."""
    client = open_client(whole.servers[0], f"/ws/match/1/stats?where.run={run}", kind)
    numbers: list[int] = []

    def change(count: int) -> None:
        whole.notify("match_change", {"run": run, "match_id": 1, "n": count})

    change(1)
    outage.begin()
    change(2)
    whole.wait_for_mode("direct")
    change(3)
    outage.end()
    change(4)
    whole.wait_for_mode("redis")
    whole.wait_until_healthy()
    change(5)
    while len(numbers) < 5:
        message = client.next()
        if message["type"] == "notification":
            numbers.append(message["payload"]["n"])
        else:
            assert message["type"] == "filled" or message.get("pending"), message
    assert sorted(numbers) == [1, 2, 3, 4, 5]
    client.silent(0.3)


def test_streams_stay_open(whole: Deployment, event_source: OpenSource, outage: Outage, run: str) -> None:
    """A browser's EventSource stays open through a Redis failure, and gets each event once."""
    source = event_source(whole.servers[0], f"/sse?where.run={run}")
    source.until("subscribed")
    outage.begin()
    whole.notify("match_change", {"run": run, "n": 1})
    whole.wait_for_mode("direct")
    whole.notify("match_change", {"run": run, "n": 2})
    outage.end()
    whole.wait_until_healthy()
    whole.notify("match_change", {"run": run, "n": 3})
    events: list[dict[str, str]] = []
    while not events or events[-1]["type"] != "message" or '"n": 3' not in events[-1]["data"]:
        events.append(source.next())
    numbers = [json.loads(event["data"])["payload"]["n"] for event in events if event["type"] == "message"]
    assert sorted(numbers) == [1, 2, 3]
    assert {event["type"] for event in events} <= {"open", "message", "gap", "filled"}


def test_a_listener_reconnects_to_redis(whole: Deployment, outage: Outage) -> None:
    """The listener logs `Connection error`, with its stack trace at the first failure of a row and then briefly,
    `Reconnecting in N seconds...`, and `Connected to Redis`; it attempts by itself until Redis is back."""
    names = [place.name for place in whole.listeners]
    marks = [LogMark(whole, name) for name in names]
    outage.begin()

    def errors(mark: LogMark) -> list[int]:
        return [number for number, line in enumerate(mark.lines()) if re.search(rf"{ERROR[0]} +{ERROR[1]}", line)]

    for mark in marks:
        wait_for(lambda mark=mark: len(errors(mark)) >= 2, "two connection errors")  # type: ignore[misc]
        assert re.search(r"Reconnecting in \d+(\.\d+)? seconds\.\.\.", mark.wait_for(*RECONNECTING))
    outage.end()
    for mark in marks:
        mark.wait_for(*REDIS_THERE)
        lines, places = mark.lines(), errors(mark)
        first = lines[places[0] + 1 : places[1]]
        assert any("Traceback (most recent call last)" in line for line in first), first
        later = lines[places[1] : places[1] + 2]
        assert not any("Traceback" in line for line in later), later
