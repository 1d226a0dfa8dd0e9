"""Sessions and heartbeats, judged: who listens, who appends, and what does not fit together."""

from typing import Any

import pytest

from bridge.core.position import Position
from bridge.doctor import postgres, redis
from bridge.doctor.listeners import judge
from bridge.errors import ForeignLog, RedisUnusable
from bridge.links.redis_log import Beat
from bridge.settings import Settings

SETTINGS = Settings(database_url="dbname=x", use_redis_notifier=True)
LISTENERS = (
    postgres.ListenSession(11, "bridge listener", "10.0.0.1"),
    postgres.ListenSession(12, "bridge listener", "10.0.0.2"),
)
FALLBACK = postgres.ListenSession(13, "bridge fallback", "10.0.0.3")
TAIL = Position(753_000_000_000_000_000, 7)


def heard(*sessions: postgres.ListenSession, database: str = "1/2") -> postgres.Seen:
    facts = postgres.Facts("18.6", False, 7, 0.0, "", (), tuple(sessions))
    return postgres.Seen(facts=facts, database=database)


def log(*beats: Beat, **changes: Any) -> redis.Seen:
    values: dict[str, Any] = {"tail": TAIL, "entries": 8, "beats": {beat.nonce: beat for beat in beats}}
    return redis.Seen(**(values | changes))


def levels(heard: postgres.Seen, log: redis.Seen | None) -> list[str]:
    return [finding.level for finding in judge(heard, log, SETTINGS)]


def test_the_one_that_appends_is_named_by_its_session() -> None:
    seen = log(Beat("x", TAIL, 11, False), Beat("y", TAIL, 12, True), workers=3)
    texts = [finding.text for finding in judge(heard(*LISTENERS), seen, SETTINGS)]
    assert texts[0].startswith("2 listener sessions in PostgreSQL, from 10.0.0.1 (process 11), 10.0.0.2 (process 12)")
    assert texts[1] == (
        "2 listeners beat; the one that appends is at 10.0.0.2, process 12 in PostgreSQL; 3 servers follow the log"
    )
    assert texts[2] == f"the log holds 8 of about 10,000 entries, and ends at {TAIL}"


@pytest.mark.parametrize("sessions", [(), LISTENERS])
def test_an_appender_whose_session_cannot_be_seen(sessions: tuple[postgres.ListenSession, ...]) -> None:
    seen = log(Beat("x", TAIL), Beat("y", TAIL, 99, True))
    assert "the one that appends is process 99" in judge(heard(*sessions), seen, SETTINGS)[1].text


def test_nobody_beats() -> None:
    assert levels(heard(), log()) == ["good", "warning", "good"]
    assert levels(heard(*LISTENERS), log()) == ["good", "bad", "good"]


def test_a_server_in_fallback_while_a_listener_is_there() -> None:
    assert levels(heard(LISTENERS[0], FALLBACK), log(Beat("x", TAIL, 11, True)))[0] == "warning"
    assert levels(heard(FALLBACK), None) == ["good"]
    assert levels(heard(*LISTENERS, FALLBACK), None) == ["good"]


def test_a_log_of_another_database() -> None:
    assert "bad" in levels(heard(), log(owner="3/4", log_error=ForeignLog("3/4")))
    assert "bad" not in levels(heard(database="3/4"), log(owner="3/4"))
    assert "bad" in levels(heard(), log(log_error=RedisUnusable("somebody else has written")))


def test_what_was_not_seen_is_not_judged() -> None:
    assert judge(postgres.Seen(), redis.Seen(), SETTINGS) == []
    assert levels(postgres.Seen(), log(Beat("x", TAIL, 11, True), tail=None)) == ["good", "good"]
