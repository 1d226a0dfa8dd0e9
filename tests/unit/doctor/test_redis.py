"""What Redis shows, judged: from observed values to findings."""

from typing import Any

import pytest

from bridge.doctor.redis import Refusal, Seen, Step
from bridge.doctor.redis_judgment import judge
from bridge.errors import LogRefused, RedisLost
from bridge.links.redis import NoPermission
from bridge.settings import Settings

SETTINGS = Settings(database_url="dbname=x", use_redis_notifier=True)
WELL = {"used_memory": "1000000", "maxmemory": "0", "maxmemory_policy": "noeviction", "evicted_keys": "0"}
LIMIT = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"


def seen(**changes: Any) -> Seen:
    values: dict[str, Any] = {
        "done": tuple(Step),
        "where": "cache:6379",
        "server": "redis 7.0.15",
        "role": "master",
        "info": WELL,
        "output_limit": LIMIT,
        "rights_seen": True,
        "round_trip_seconds": 0.001,
    }
    return Seen(**(values | changes))


def ill(seen: Seen) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in judge(seen, SETTINGS) if finding.level != "good"]


def test_all_is_well() -> None:
    assert ill(seen()) == []


def test_whatever_is_not_good_says_what_to_do() -> None:
    no = NoPermission("no")
    refusals = [Refusal("XADD", no), Refusal("SET", LogRefused("OOM"))]
    worst = seen(refusals=refusals, script_error=no, ear_error=no, info={**WELL, "maxmemory": "1000000"})
    assert all(finding.todo for finding in judge(worst, SETTINGS) if finding.level in ("bad", "warning"))


@pytest.mark.parametrize(("used", "level"), [(79, ""), (80, "warning"), (97, "warning"), (98, "bad"), (120, "bad")])
def test_memory(used: int, level: str) -> None:
    info = {**WELL, "used_memory": str(used * 1_000_000), "maxmemory": "100000000"}
    assert [found for found, _ in ill(seen(info=info))] == [level][: bool(level)]


@pytest.mark.parametrize(
    ("policy", "most", "level"),
    [
        ("noeviction", 2**30, ""),
        ("volatile-lru", 2**30, ""),
        ("allkeys-lru", 0, "warning"),
        ("allkeys-random", 2**30, "bad"),
    ],
)
def test_eviction(policy: str, most: int, level: str) -> None:
    found = ill(seen(info={**WELL, "maxmemory": str(most), "maxmemory_policy": policy}))
    assert [each for each, _ in found] == [level][: bool(level)]


def test_keys_that_were_evicted_are_counted() -> None:
    info = {**WELL, "maxmemory": str(2**30), "maxmemory_policy": "allkeys-lru", "evicted_keys": "1234"}
    assert ill(seen(info=info))[0][1].endswith("it has evicted 1,234 keys already")


@pytest.mark.parametrize(
    ("limit", "level"),
    [
        ("pubsub 0 0 0", ""),
        ("pubsub 8388608 0 0", ""),
        ("pubsub 8388607 0 0", "warning"),
        ("pubsub 33554432 1048575 60", "bad"),
        ("pubsub 65536 0 0", "bad"),
        ("normal 0 0 0", "unseen"),
        ("pubsub one two three", "unseen"),
        (None, "unseen"),
    ],
)
def test_output_buffers(limit: str | None, level: str) -> None:
    assert [found for found, _ in ill(seen(output_limit=limit))] == [level][: bool(level)]


def test_what_is_hidden_is_no_failure() -> None:
    found = ill(seen(info=None, output_limit=None, rights_seen=False))
    assert [level for level, _ in found] == ["unseen"] * 3


def test_a_round_trip_that_eats_the_timeout() -> None:
    assert ill(seen(round_trip_seconds=0.5))[0][0] == "warning"
    assert ill(seen(round_trip_seconds=None))[0][0] == "bad"


def test_a_visit_that_was_cut_short_judges_what_it_saw() -> None:
    cut = seen(done=(Step.FACTS,), doing=Step.RIGHTS.value, rights_seen=False, error=RedisLost("closed"))
    assert ill(cut) == [("bad", "it was lost while asking for rights: closed")]
    assert ill(Seen(error=RedisLost("refused"))) == [("bad", "refused")]
