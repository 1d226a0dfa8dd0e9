"""Failures with counting: a writer commits numbers while something is killed, and everybody has every number once.

Travellers begin at each server, and resume by cursor wherever they can. What cannot be recovered, a final gap says.
"""

from conformance.lib.deployment import Deployment, LogMark
from conformance.lib.face import Begin
from conformance.lib.phrases import ERROR, POSTGRES_THERE, RECONNECTING
from conformance.lib.wait import wait_for

TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"


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


def test_the_appending_listener_is_killed(whole: Deployment, journey: Begin) -> None:
    """The listener that appends is killed and another one runs: nobody notices."""
    whole.can_break()
    listeners = [place for place in whole.listeners if place.url]
    with journey() as journeys:
        appending = [
            place.name for place in listeners if whole.get(place, "/status").json()["links"]["redis"].get("appending")
        ] or [whole.listeners[0].name]
        whole.kill(appending[0])
        journeys.flow()
        journeys.flow()
        whole.start(appending[0])
        whole.wait_until_healthy()
        journeys.flow()
        journeys.settle()
        assert all(traveller.connections == 1 for traveller in journeys.travellers.values())


def test_a_server_is_killed(whole: Deployment, journey: Begin) -> None:
    """A server is killed: its clients resume at the other one by cursor, each event once."""
    whole.can_break()
    assert whole.other_server
    with journey() as journeys:
        whole.kill(whole.servers[0].name)
        journeys.flow()
        whole.start(whole.servers[0].name)
        whole.wait_until_healthy()
        for traveller in journeys.travellers.values():
            traveller.move()
        journeys.flow()
        journeys.settle()


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
        return  # with one listener this is the check below
    marks = [LogMark(whole, place.name) for place in whole.listeners]
    with journey() as journeys:
        whole.psql.rows(f"{TERMINATE} AND pid = (SELECT min(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%')")
        wait_for(lambda: any(mark.find(*POSTGRES_THERE) for mark in marks), "a new session")
        (mark,) = [mark for mark in marks if mark.find(*POSTGRES_THERE)]
        assert mark.find(*ERROR)
        assert mark.find(*RECONNECTING)
        journeys.flow()
        journeys.settle()


def test_all_listen_sessions_are_terminated(whole: Deployment, journey: Begin) -> None:
    """All sessions lost at once: one final `gap`, `postgres_session_lost`, and everything else once."""
    with journey(per_second=50) as journeys:
        whole.psql.rows(TERMINATE)
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
