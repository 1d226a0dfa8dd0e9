"""What PostgreSQL shows, judged: from observed values to findings."""

from typing import Any

import pytest

from bridge.doctor.postgres import Facts, Room, Seen, judge
from bridge.errors import PostgresLost, PostgresUnusable

WELL: dict[str, Any] = {
    "version": "18.6",
    "standby": False,
    "process": 7,
    "queue_share": 0.0,
    "waits_for": "",
    "rooms": (Room("max_connections", 10, 97),),
    "sessions": (),
}


def seen(facts: dict[str, Any] | None = None, **changes: Any) -> Seen:
    values: dict[str, Any] = {
        "where": "db:5432",
        "version": 180006,
        "process": 7,
        "facts": Facts(**(WELL | (facts or {}))),
        "own_seconds": 0.002,
        "other_seconds": 0.003,
    }
    return Seen(**(values | changes))


def ill(seen: Seen) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in judge(seen, 5.0) if finding.level != "good"]


def test_all_is_well() -> None:
    assert ill(seen()) == []


@pytest.mark.parametrize(
    ("number", "level"), [(90600, "bad"), (100000, "warning"), (140010, "warning"), (150000, ""), (190000, "")]
)
def test_versions(number: int, level: str) -> None:
    assert [found for found, _ in ill(seen(version=number))] == [level][: bool(level)]


@pytest.mark.parametrize(("share", "level"), [(0.0, ""), (0.049, ""), (0.05, "warning"), (0.5, "bad"), (1.0, "bad")])
def test_the_queue(share: float, level: str) -> None:
    assert [found for found, _ in ill(seen({"queue_share": share}))] == [level][: bool(level)]


@pytest.mark.parametrize(("used", "level"), [(77, ""), (78, "warning"), (96, "warning"), (97, "bad"), (100, "bad")])
def test_connections(used: int, level: str) -> None:
    assert [found for found, _ in ill(seen({"rooms": (Room("max_connections", used, 97),)}))] == [level][: bool(level)]


def test_a_standby_is_not_asked_what_it_heard() -> None:
    assert ill(seen({"standby": True}, own_seconds=None, other_seconds=None)) == [
        ("bad", "it is a standby, where nothing can be notified or heard")
    ]


def test_notifications_that_do_not_arrive() -> None:
    assert ill(seen(own_seconds=None))[0] == ("bad", "a LISTEN session did not hear its own NOTIFY within 3 s")
    assert ill(seen(other_seconds=None)) == [("bad", "an idle LISTEN session hears itself, and nobody else")]
    error = PostgresLost("too many clients already")
    assert "too many clients" in ill(seen(other_seconds=None, other_error=error))[0][1]
    assert "too many clients" in ill(seen(own_seconds=None, other_error=error))[0][1]


def test_slow_notifications() -> None:
    assert [level for level, _ in ill(seen(own_seconds=5.0))] == ["warning"]


def test_what_was_not_reached_says_what_to_do() -> None:
    for error, advice in (
        (PostgresLost("gone"), "start it"),
        (PostgresUnusable("no password"), "correct DATABASE_URL"),
    ):
        (finding,) = judge(Seen(error=error), 5.0)
        assert (finding.level, finding.text) == ("bad", str(error))
        assert advice in finding.todo
