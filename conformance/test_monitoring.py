"""What operators see in PostgreSQL and in Redis: the predecessor's monitoring queries, by psql and redis-cli."""

import re

from conformance.lib.deployment import RUN, Deployment, new_run
from conformance.lib.face import Open
from conformance.lib.processes import Nursery
from conformance.lib.wait import wait_for

QUERY = "SELECT pid, state, query FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
NAMES = "SELECT application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"


def test_one_listen_connection_a_listener(whole: Deployment) -> None:
    """The predecessor's query of `pg_stat_activity` shows one row a listener, whose `application_name` says so."""
    count = len(whole.listeners) or 1
    wait_for(lambda: whole.psql.rows(NAMES) == [["bridge listener"]] * count, f"{count} rows")
    rows = whole.psql.rows(QUERY)
    assert rows
    assert all(row[0].isdecimal() and row[2].startswith("LISTEN") for row in rows)


def test_no_transaction_is_held_open(whole: Deployment) -> None:
    """A listening session holds no transaction open, which would block the queue of notifications."""
    sql = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'bridge %' AND state LIKE 'idle in transaction%'"
    assert whole.psql.rows(sql) == []


def test_redis_cli_subscribe_shows_each_event_once(deployment: Deployment, open_client: Open, run: str) -> None:
    """`redis-cli SUBSCRIBE pg_notify:events`: exactly the notification events that clients get, once each."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    with deployment.redis_cli.subscribed(f"{deployment.prefix}:events") as subscriber:
        deployment.notify("match_change", *[{"run": run, "n": n} for n in range(100)])
        deployment.notify("scoreboard_change", f'{{"run":\n"{run}", "n": 1.50}}')
        wanted = [client.next() for _ in range(101)]
        seen: list[object] = []
        while len(seen) < 101:
            message = subscriber.message()
            if isinstance(message["payload"], dict) and message["payload"].get("run") == run:
                seen.append(message)
        assert seen == wanted
        deployment.notify("match_change", {"run": run, "last": True})
        while (message := subscriber.message())["payload"] != {"run": run, "last": True}:
            assert message not in wanted


def test_keys_and_channels_in_redis(deployment: Deployment) -> None:
    """All other keys and channels begin with `pg_notify:`, then 8 hex digits that name the set of channels."""
    deployment.notify("match_change", {"x": 1})
    keys = deployment.redis_cli.run("--scan")
    channels = deployment.redis_cli.run("PUBSUB", "CHANNELS")
    ours = re.compile(rf"{re.escape(deployment.prefix)}:([0-9a-f]{{8}}\b.*|events)")
    names = [name for name in (*keys, *channels) if not name.startswith(RUN)]
    mine = [name for name in names if name.startswith(deployment.prefix)]
    assert mine
    assert all(ours.fullmatch(name) for name in mine), mine
    if deployment.is_local:
        assert mine == names


def test_two_sets_of_channels(deployment: Deployment, processes: Nursery) -> None:
    """While listeners with different channel sets run, `pg_notify:events` carries an event once for each set."""
    prefix = new_run()
    common = deployment.settings | {"BRIDGE_PORT": "0", "BRIDGE_REDIS_PREFIX": prefix}
    for channels in ("match_change,Extra", "Extra,match_change", "match_change"):
        processes.start("listen", **common, BRIDGE_CHANNELS=channels).listening().healthy()
    with deployment.redis_cli.subscribed(f"{prefix}:events") as subscriber:
        deployment.notify("match_change", {"n": 1})
        deployment.notify("Extra", {"n": 2})
        deployment.notify("match_change", {"n": 3})
        seen = [subscriber.message()["payload"]["n"] for _ in range(5)]
        assert sorted(seen) == [1, 1, 2, 3, 3]
    keys = {key.split(":")[1] for key in deployment.redis_cli.run("--scan", "--pattern", f"{prefix}:*")}
    assert len(keys) == 2


def test_nothing_is_needed_in_the_database(deployment: Deployment, processes: Nursery, run: str) -> None:
    """No table, function or privilege is needed, and none is made."""
    settings, psql = deployment.settings, deployment.psql
    role = run.replace("-", "_")
    psql.rows(f"CREATE ROLE {role} LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC")
    try:
        url = settings["DATABASE_URL"].replace("postgres@", f"{role}@")
        poor = processes.start("serve", DATABASE_URL=url, BRIDGE_PORT="0").listening().healthy()
        assert poor.get("/ready").status == 200
        for table, column in (("pg_class", "relnamespace"), ("pg_proc", "pronamespace")):
            made = f"SELECT count(*) FROM {table} WHERE {column}::regnamespace::text !~ '^(pg_|information_schema)'"
            assert psql.rows(made) == [["0"]]
        poor.end()
    finally:
        psql.rows(f"GRANT ALL ON SCHEMA public TO PUBLIC; DROP ROLE {role}")
