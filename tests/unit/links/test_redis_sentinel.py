"""Whom several Sentinels name: the newest word counts, and nobody waits for those that are silent."""

import threading
from collections.abc import Iterator
from unittest import mock

import pytest
import trio

from bridge.errors import RedisLost, RedisUnusable
from bridge.links.redis_sentinel import Word, find_master
from bridge.links.redis_url import Address, RedisTarget, SentinelTarget

OLD, NEW = Word(7, "old", 1), Word(8, "new", 2)
SILENT = "silent"
Answer = Word | RedisLost | str


@pytest.fixture
def silence() -> Iterator[threading.Event]:
    over = threading.Event()
    yield over
    over.set()


async def found(silence: threading.Event, answers: list[Answer], timeout_seconds: float = 1.0) -> RedisTarget:
    """The master, where the Sentinels answer so."""

    def ask(target: SentinelTarget, address: Address, socket_seconds: float) -> Word:
        answer = answers[address[1]]
        if isinstance(answer, RedisLost):
            raise answer
        if isinstance(answer, Word):
            return answer
        silence.wait(20)
        raise RedisLost("too late")

    target = SentinelTarget(
        tuple(("h", number) for number in range(len(answers))), "service", RedisTarget(password="p", database=3)
    )
    with mock.patch("bridge.links.redis_sentinel._ask", ask):
        return await find_master(target, timeout_seconds)


@pytest.mark.parametrize(
    "answers",
    [
        [NEW],
        [OLD, NEW],
        [NEW, OLD, SILENT],
        [RedisLost("gone"), RedisUnusable("unknown"), NEW],
        [SILENT, NEW, SILENT],
    ],
)
async def test_the_newest_word_counts(silence: threading.Event, answers: list[Answer]) -> None:
    master = await found(silence, answers)
    assert master == RedisTarget(host="new", port=2, password="p", database=3)


async def test_a_majority_is_enough_at_once(silence: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.links.redis_sentinel.GRACE_SECONDS", 1000)
    with trio.fail_after(30):
        await found(silence, [SILENT, NEW, NEW], 1000)


async def test_silence_ends_with_the_timeout(silence: threading.Event) -> None:
    with pytest.raises(RedisLost, match="h:0 has not answered; gone") as caught, trio.fail_after(30):
        await found(silence, [SILENT, RedisLost("gone")], 0.1)
    assert not isinstance(caught.value, RedisUnusable)


async def test_a_person_has_to_act_only_where_no_sentinel_may_know_better(silence: threading.Event) -> None:
    with pytest.raises(RedisUnusable, match="'service': unknown; no way in"):
        await found(silence, [RedisUnusable("unknown"), RedisUnusable("no way in")])
    with pytest.raises(RedisLost, match="unknown; gone") as caught:
        await found(silence, [RedisUnusable("unknown"), RedisLost("gone")])
    assert not isinstance(caught.value, RedisUnusable)
