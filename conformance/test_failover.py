"""Failures with counting: a writer commits numbers while something is killed, and everybody has every number once.

Travellers begin at each server, and resume by cursor wherever they can. What cannot be recovered, a final gap says.
"""

import pytest

from conformance.lib.deployment import Deployment, LogMark
from conformance.lib.face import Begin, Open
from conformance.lib.given import Place
from conformance.lib.phrases import ERROR, POSTGRES_THERE, RECONNECTING
from conformance.lib.processes import Nursery
from conformance.lib.wait import wait_for

NAMES = "SELECT application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%' ORDER BY 1"
TERMINATE_ONE = "SELECT pg_terminate_backend(min(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"


def test_redis_is_killed_and_comes_back(whole: Deployment, journey: Begin) -> None:
    """Redis killed, and started again: no event is lost or repeated, nobody is disconnected, no gap stays open."""
    whole.can_break()
    with journey() as journeys:
        whole.kill(whole.redis_name)
        whole.wait_for_mode("direct")
        journeys.flow()
        whole.start(whole.redis_name)
        whole.wait_until_healthy()
        journeys.flow()
        journeys.settle()
        assert all(traveller.connections == 1 for traveller in journeys.travellers.values())


def test_clients_move_while_redis_is_away(whole: Deployment, journey: Begin) -> None:
    """Cursors from before a Redis failure, of its time and from after it resume at any server, each event once."""
    whole.can_break()
    with journey() as journeys:
        travellers = list(journeys.travellers.values())
        travellers[0].move()
        journeys.flow(5)
        whole.kill(whole.redis_name)
        travellers[0].move()
        whole.wait_for_mode("direct")
        for traveller in travellers:
            traveller.move()
            journeys.flow(10)
        whole.start(whole.redis_name)
        travellers[0].move()
        whole.wait_until_healthy()
        for traveller in travellers:
            traveller.move()
            journeys.flow(10)
        journeys.settle()


def test_redis_is_silent(whole: Deployment, journey: Begin) -> None:
    """Redis silent for `BRIDGE_REDIS_TIMEOUT_SECONDS` is Redis lost: the same, without any connection that breaks."""
    with journey() as journeys:
        with whole.silent_redis():
            whole.wait_for_mode("direct")
            journeys.flow()
        whole.wait_until_healthy()
        journeys.flow()
        journeys.settle()
        assert all(traveller.connections == 1 for traveller in journeys.travellers.values())


def test_redis_takes_no_writes(whole: Deployment, journey: Begin) -> None:
    """Redis that is full and takes no writes any more is as good as lost, though every connection works."""
    whole.only_local("CONFIG SET maxmemory")
    with journey() as journeys:
        whole.redis_cli.run("CONFIG", "SET", "maxmemory", "1")
        try:
            whole.wait_for_mode("direct")
            journeys.flow()
        finally:
            whole.redis_cli.run("CONFIG", "SET", "maxmemory", "0")
        whole.wait_until_healthy()
        journeys.flow()
        journeys.settle()


def test_redis_is_flushed(whole: Deployment, journey: Begin) -> None:
    """Redis loses all it held: listeners write their history again, and clients notice nothing."""
    whole.only_local("FLUSHALL")
    with journey() as journeys:
        whole.redis_cli.run("FLUSHALL")
        journeys.flow()
        whole.wait_until_healthy()
        journeys.flow()
        for traveller in journeys.travellers.values():
            traveller.move()
        journeys.flow()
        journeys.settle()


def test_postgres_is_killed(whole: Deployment, journey: Begin) -> None:
    """PostgreSQL is killed and comes back: sessions open again by themselves, clients stay, and one final `gap` says
    that something may have been missed."""
    whole.can_break()
    with journey() as journeys:
        journeys.pause()
        whole.kill(whole.postgres_name)
        wait_for(lambda: whole.health(whole.servers[0])[0] != "unreachable", "the API answers")
        whole.start(whole.postgres_name)
        whole.wait_until_healthy()
        journeys.write_again(whole.psql)
        journeys.flow()
        journeys.settle(final_gaps=1)
        assert all(traveller.connections == 1 for traveller in journeys.travellers.values())


def test_each_listener_is_killed_in_turn(whole: Deployment, journey: Begin) -> None:
    """A listener is killed, appending or not, and another one runs: nobody notices, and `pg_notify:events` carries each
    event once."""
    whole.can_break()
    if len(whole.listeners) < 2:
        pytest.skip("this needs two listeners")
    with whole.redis_cli.subscribed(f"{whole.prefix}:events") as subscriber, journey() as journeys:
        for place in whole.listeners:
            whole.kill(place.name)
            journeys.flow()
            journeys.flow()
            whole.start(place.name)
            whole.wait_until_healthy()
            journeys.flow()
        journeys.settle()
        assert all(traveller.connections == 1 for traveller in journeys.travellers.values())
        run, after = journeys.writer.run, journeys.writer.last + 1
        whole.notify(whole.channels[0], {"run": run, "n": after})
        published: list[int] = []
        while after not in published[-1:]:
            payload = subscriber.message()["payload"]
            if isinstance(payload, dict) and payload.get("run") == run:
                published.append(payload["n"])
        assert published == list(range(1, after + 1))


def test_each_server_is_killed_in_turn(whole: Deployment, journey: Begin) -> None:
    """A server is killed: its clients resume at the other one by cursor, each event once."""
    whole.can_break()
    assert whole.other_server
    with journey() as journeys:
        for place in whole.servers:
            whole.kill(place.name)
            journeys.flow()
            whole.start(place.name)
            whole.wait_until_healthy()
            journeys.flow()
        for traveller in journeys.travellers.values():
            traveller.move()
        journeys.flow()
        journeys.settle()


def test_a_process_with_a_listener_of_its_own(
    whole: Deployment, processes: Nursery, open_client: Open, run: str
) -> None:
    """`serve` with its own listener: Redis away and back is nothing to its clients, and it opens no second session."""
    settings = whole.settings | {"BRIDGE_PORT": "0"}
    process = processes.start("serve", **settings).listening().healthy()
    client = open_client(Place("whole", process.url), f"/ws?where.run={run}")
    mine = ["bridge listener"] * (len(whole.listeners) + 1)
    wait_for(lambda: [row[0] for row in whole.psql.rows(NAMES)] == mine, "one session more")
    whole.notify("match_change", {"run": run, "n": 0})
    whole.kill(whole.redis_name)
    try:
        whole.notify("match_change", {"run": run, "n": 1})
        whole.wait_for_mode("direct")
        process.healthy("degraded")
        whole.notify("match_change", {"run": run, "n": 2})
        both = ["bridge fallback"] * len(whole.servers) + mine
        wait_for(lambda: [row[0] for row in whole.psql.rows(NAMES)] == both, "no session more but the servers'")
    finally:
        whole.start(whole.redis_name)
    process.healthy()
    whole.notify("match_change", {"run": run, "n": 3})
    assert [payload["n"] for payload in client.payloads(4)] == [0, 1, 2, 3]
    client.silent(0.2)


def test_a_server_is_stopped(whole: Deployment, journey: Begin) -> None:
    """SIGTERM drains: clients are closed with 1001 and the reason `retry=SECONDS`, and miss nothing elsewhere."""
    whole.can_stop()
    assert whole.other_server
    with journey() as journeys:
        whole.stop(whole.servers[0].name)
        journeys.flow()
        whole.start(whole.servers[0].name)
        whole.wait_until_healthy()
        journeys.flow()
        journeys.settle()
        closes = [close for traveller in journeys.travellers.values() for close in traveller.closes]
        assert len(closes) == 1, closes
        code, reason = closes[0]
        assert code == 1001
        assert reason.removeprefix("retry=").isdecimal(), reason


def test_a_listen_session_is_terminated(whole: Deployment, journey: Begin) -> None:
    """One listener's session is lost: `Connection error`, `Reconnecting in`, `Connected to PostgreSQL`; no client
    notices."""
    if len(whole.listeners) < 2:
        pytest.skip("this needs two listeners")
    marks = [LogMark(whole, place.name) for place in whole.listeners]
    with journey() as journeys:
        whole.psql.rows(TERMINATE_ONE)

        def back(mark: LogMark) -> bool:
            return all(mark.find(*phrase) for phrase in (ERROR, RECONNECTING, POSTGRES_THERE))

        wait_for(lambda: any(map(back, marks)), "the listener has lost its session, and has another one")
        journeys.flow()
        journeys.settle()


def test_all_listen_sessions_are_terminated(whole: Deployment, journey: Begin) -> None:
    """All sessions lost at once: one final `gap`, `postgres_session_lost`, and everything else once."""
    with journey(per_second=50) as journeys:
        whole.end_all_sessions()
        whole.wait_until_healthy()
        journeys.flow()
        journeys.settle(final_gaps=1)
        for traveller in journeys.travellers.values():
            assert traveller.story.gaps[0]["reason"] == "postgres_session_lost"


def test_all_listeners_are_killed(whole: Deployment, journey: Begin) -> None:
    """No listener is left: servers listen themselves, and what nobody heard is one final `gap`."""
    whole.can_break()
    with journey(per_second=50) as journeys:
        for place in whole.listeners:
            whole.kill(place.name)
        whole.wait_for_mode("direct")
        journeys.flow()
        for place in whole.listeners:
            whole.start(place.name)
        whole.wait_until_healthy()
        journeys.flow()
        journeys.settle(final_gaps=1)
