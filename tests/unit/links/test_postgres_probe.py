"""The decisions about probes, at every moment that matters."""

import msgspec
import pytest

from bridge.links.postgres_probe import Probes

PID = 4711


def probes() -> Probes:
    return Probes(term=9, nonce="abcd", backend_pid=PID, interval_seconds=5.0, now=100.0)


def payload(query: bytes) -> bytes:
    """What the query notifies."""
    assert query.startswith(b"LISTEN bridge_probe; SELECT pg_notify('bridge_probe', '")
    return query.split(b"'")[3]


def test_a_probe_is_due_every_interval_and_one_at_a_time() -> None:
    p = probes()
    assert not p.due(104.9)
    assert p.wake_at() == 105
    assert p.due(105)
    sent = payload(p.query(105.0))
    assert not p.due(111)
    p.hear(sent, PID, 0, 105.1)
    assert not p.due(111)  # the query is still to be answered
    p.running = False
    assert not p.due(109)
    assert p.due(110)


def test_a_probe_says_when_the_one_before_was_heard() -> None:
    p = probes()
    first = payload(p.query(105.0))
    assert msgspec.json.decode(first) == {"term": 9, "nonce": "abcd", "n": 1, "heard": None}
    p.hear(first, PID, 42, 105.25)
    assert p.round_trip_seconds == 0.25
    assert msgspec.json.decode(payload(p.query(110.0))) == {"term": 9, "nonce": "abcd", "n": 2, "heard": 42}


def test_silence_is_overdue_after_an_interval_and_a_byte_defers_it_while_the_query_runs() -> None:
    p = probes()
    p.query(105.0)
    assert not p.overdue(109.9)
    assert p.overdue(110.0)
    p.byte_at = 109.0
    assert not p.overdue(113.9)
    assert p.overdue(114.0)


def test_an_answer_without_the_notification_is_deafness_whatever_bytes_come() -> None:
    p = probes()
    p.query(105.0)
    p.running = False
    p.byte_at = 109.0
    assert p.overdue(110.0)
    p.hear_notifications(109.5)
    assert not p.overdue(114.4)


def test_nothing_is_overdue_while_no_probe_is_under_way() -> None:
    assert not probes().overdue(1_000.0)


def test_a_session_is_proven_for_two_intervals() -> None:
    p = probes()
    assert p.proven(110.0)
    assert not p.proven(110.1)
    p.hear(payload(p.query(111.0)), PID, 0, 112.0)
    assert p.proven(122.0)
    p.hear_notifications(130.0)
    assert p.proven(140.0)


def test_a_refused_probe_is_not_awaited_and_proves_nothing() -> None:
    p = probes()
    sent = payload(p.query(105.0))
    p.refuse("too many notifications in the NOTIFY queue")
    p.running = False
    assert not p.overdue(200.0)
    assert not p.proven(111.0)
    assert p.error == "too many notifications in the NOTIFY queue"
    p.hear(sent, PID, 0, 112.0)
    assert not p.proven(112.0)
    p.hear(payload(p.query(113.0)), PID, 0, 113.1)
    assert p.error is None


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"abcd",
        b'{"nonce":"abcd"}',
        b'{"term":9,"nonce":"abce","n":1,"heard":null}',
        b'{"x":' + b"[" * 7900 + b"abcd",
    ],
)
def test_what_others_send_means_nothing(foreign: bytes) -> None:
    p = probes()
    p.query(105.0)
    p.hear(foreign, PID, 0, 105.1)
    assert p.round_trip_seconds is None
    assert not p.outsider_heard


def test_the_own_probe_from_another_process_is_no_proof_but_shows_that_others_are_heard() -> None:
    p = probes()
    p.hear(p.outsider(), PID + 1, 0, 101.0)
    assert p.outsider_heard
    p.hear(payload(p.query(105.0)), PID + 1, 0, 105.1)
    assert p.round_trip_seconds is None
