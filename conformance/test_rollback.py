"""Rollback to direct LISTEN and the way to Redis: `USE_REDIS_NOTIFIER` false and true, no code changes."""

from urllib.parse import quote

import pytest

from conformance.lib.deployment import Deployment, new_run
from conformance.lib.face import Open
from conformance.lib.given import Place
from conformance.lib.processes import Nursery
from conformance.lib.wait import wait_for

SESSIONS = "SELECT application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%' ORDER BY 1"


@pytest.mark.parametrize("value", [None, "false"])
@pytest.mark.parametrize(
    ("arguments", "name"), [(["serve"], "bridge listener"), (["serve", "--no-listener"], "bridge fallback")]
)
def test_without_redis(
    deployment: Deployment,
    processes: Nursery,
    open_client: Open,
    run: str,
    value: str | None,
    arguments: list[str],
    name: str,
) -> None:
    """`USE_REDIS_NOTIFIER` not set or `false`: direct LISTEN, one connection a process, and Redis is not needed."""
    sessions = [["bridge listener"]] * len(deployment.listeners)
    wait_for(lambda: deployment.psql.rows(SESSIONS) == sessions, "nobody else listens")
    settings = {"DATABASE_URL": deployment.settings["DATABASE_URL"], "REDIS_URL": "redis://127.0.0.1:1"}
    if value is not None:
        settings["USE_REDIS_NOTIFIER"] = value
    process = processes.start(*arguments, **settings, BRIDGE_PORT="0").listening().healthy()
    assert process.get("/health").json()["mode"] == "direct"
    assert process.get("/ready").status == 200
    wait_for(lambda: deployment.psql.rows(SESSIONS) == sorted([*sessions, [name]]), f"one session more, {name}")
    client = open_client(Place("direct", process.url), f"/ws/match/7/stats?where.run={run}")
    deployment.notify("match_change", {"run": run, "match_id": 7})
    assert client.payloads(1) == [{"run": run, "match_id": 7}]
    assert "Redis" not in process.log()
    assert process.end() == 0


def test_switch_over_and_rollback(deployment: Deployment, processes: Nursery, open_client: Open, run: str) -> None:
    """From direct LISTEN to Redis mode and back by the setting alone: events go on, and who resumes through both
    switches has every event once, or a final gap says so."""
    common = deployment.settings | {"BRIDGE_REDIS_PREFIX": new_run(), "BRIDGE_PORT": "0", "BRIDGE_DRAIN_SECONDS": "0"}
    path, cursor = f"/ws?where.run={run}", ""
    numbers: list[int] = []
    gaps: list[str] = []
    number = 0
    for redis in ("false", "true", "false"):
        listener = processes.start("listen", **common).listening().healthy() if redis == "true" else None
        server = processes.start("serve", "--no-listener", **(common | {"USE_REDIS_NOTIFIER": redis}))
        server.listening().healthy()
        assert server.get("/health").json()["mode"] == ("redis" if redis == "true" else "direct")
        client = open_client(Place(redis, server.url), f"{path}&after={quote(cursor)}" if cursor else path)
        cursor = client.subscribed["position"]
        for _ in range(5):
            deployment.notify("match_change", {"run": run, "n": number})
            while not numbers or numbers[-1] != number:
                message = client.next()
                if message["type"] == "notification":
                    numbers.append(message["payload"]["n"])
                    cursor = message.get("cursor") or message["id"]
                elif not message.get("pending"):
                    gaps.append(message["type"])
            number += 1
        for process in filter(None, (server, listener)):
            assert process.end() == 0
        deployment.notify("match_change", {"run": run, "n": number})  # while no server runs
        number += 1
    missing = set(range(number - 1)) - set(numbers)
    assert sorted(set(numbers)) == sorted(numbers)
    assert numbers == sorted(numbers)
    assert not missing or gaps.count("gap") >= len(missing), (missing, gaps)
