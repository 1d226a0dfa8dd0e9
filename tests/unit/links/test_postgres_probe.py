"""The decisions about probes, at every moment that matters."""

import msgspec
import pytest

from bridge.core.position import Position
from bridge.links.postgres_probe import MAX_NEIGHBOURS, SOON_SECONDS, Probes

PID = 4711


def probes(term: int = 9, nonce: str = "abcd", digest: str = "d1") -> Probes:
    return Probes(term, nonce, digest, backend_pid=PID, interval_seconds=5.0, now=100.0)


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
    assert msgspec.json.decode(first) == {"term": 9, "nonce": "abcd", "n": 1, "heard": None, "digest": "d1"}
    p.hear(first, PID, 42, 105.25)
    assert p.round_trip_seconds == 0.25
    assert msgspec.json.decode(payload(p.query(110.0))) == {
        "term": 9,
        "nonce": "abcd",
        "n": 2,
        "heard": 42,
        "digest": "d1",
    }


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


def exchange(mine: Probes, other: Probes, my_seq: int, other_seq: int, at: float) -> None:
    """The other session probes; both hear it, each after its own seq-th notification."""
    sent = payload(other.query(at))
    other.hear(sent, 1, other_seq, at)
    mine.hear(sent, 1, my_seq, at)


def test_two_probes_of_another_session_relate_it_to_this_one() -> None:
    mine, other = probes(), probes(5, "efgh")
    other._backend_pid = 1
    exchange(mine, other, my_seq=7, other_seq=1007, at=105)
    assert mine.learned == []
    exchange(mine, other, my_seq=9, other_seq=1009, at=110)
    assert mine.learned == [(Position(5, 1007), Position(9, 7))]
    exchange(mine, other, my_seq=9, other_seq=1009, at=115)
    assert mine.learned[1:] == [(Position(5, 1009), Position(9, 9))]


def test_a_missed_probe_and_another_set_of_channels_relate_nothing() -> None:
    mine, other, stranger = probes(), probes(5, "efgh"), probes(6, "ijkl", digest="d2")
    other._backend_pid = stranger._backend_pid = 1
    exchange(mine, other, my_seq=7, other_seq=1007, at=105)
    other.hear(payload(other.query(110)), 1, 1008, 110)
    exchange(mine, other, my_seq=9, other_seq=1009, at=115)
    for at in (120.0, 125.0, 130.0):
        exchange(mine, stranger, my_seq=1, other_seq=1, at=at)
    assert mine.learned == []


def test_neighbours_are_bounded() -> None:
    mine = probes()
    for number in range(2 * MAX_NEIGHBOURS):
        other = probes(5, f"n{number}")
        mine.hear(payload(other.query(105)), 1, 1, 105)
    assert len(mine._neighbours) == MAX_NEIGHBOURS


def test_a_new_session_makes_the_others_probe_twice_soon() -> None:
    p = probes()
    p.soon(101.0, jitter=0.5)
    assert p.wake_at() == 101.0 + SOON_SECONDS / 2
    for _ in range(2):
        now = p.wake_at()
        assert p.due(now)
        p.hear(payload(p.query(now)), PID, 0, now)
        p.running = False
    assert p.wake_at() == now + 5
