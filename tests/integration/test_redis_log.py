"""The log on real servers: nothing is appended unless the log ends where the appender believes, and nothing twice."""

import logging

import pytest
import trio

from bridge.core.events import Body, Notification, Unreadable, entry_json
from bridge.core.position import NEWEST_TERMS, Position, Relation, Timeline
from bridge.errors import LogRefused, RedisUnusable
from bridge.links.redis import RedisLink, RedisReplyError
from bridge.links.redis_log import MAX_BATCH_ENTRIES, MAX_READ_ENTRIES, Appended, Beat, LogState, RedisLog, read_beat
from tests.support.redis import RedisServer
from tests.support.redis_log import (
    DATABASE,
    DIGEST,
    EMPTY,
    TERM,
    appended,
    at,
    heard,
    linked,
    log_through,
    marker,
    notes,
    positions,
)

# Append
from tests.support.redis_log import link as link
from tests.support.redis_log import log as log
from tests.support.redis_log import prefix as prefix
from tests.support.redis_log import subscriber as subscriber


async def test_a_new_log(log: RedisLog) -> None:
    assert await log.open() == EMPTY
    bodies: list[Body] = [marker(TERM), *notes(1), Unreadable()]
    state = await appended(log, EMPTY, at(0), bodies)
    assert state.nonce
    assert await log.state() == state
    entries = await log.read(None)
    assert positions(entries) == [at(0), at(1), at(2)]
    assert entries[0].marker == marker(TERM)
    assert entries[1].event is not None
    assert entries[1].event.data == entry_json(at(1), bodies[1])
    assert (entries[2].event, entries[2].marker) == (None, None)
    assert (await log.read(None, 1))[0].position == at(0)


async def test_an_append_by_somebody_who_is_behind_changes_nothing(log: RedisLog) -> None:
    state = await appended(log, EMPTY, at(5), notes(5, 6))
    for wrong in (EMPTY, LogState(at(5), state.nonce), LogState(at(6), "another"), LogState(at(7), state.nonce)):
        assert await log.append(wrong, at(8), notes(8)) == state
    assert positions(await log.read(None)) == [at(5), at(6)]


async def test_a_retry_finds_its_own_batch(log: RedisLog, subscriber: RedisLink) -> None:
    state = await appended(log, EMPTY, at(0), notes(0))
    await subscriber.subscribe(log.live_channel, log.events_channel)
    newer = await appended(log, state, at(1), notes(1, 2))
    assert await log.append(state, at(1), notes(1, 2)) == newer
    assert positions(await log.read(None)) == [at(0), at(1), at(2)]
    assert len(await heard(subscriber, 3)) == 3
    await appended(log, newer, at(3), notes(3))
    assert [channel for channel, _ in await heard(subscriber, 2)] == [
        log.live_channel.encode(),
        log.events_channel.encode(),
    ]


async def test_two_appenders_never_interleave(redis_server: RedisServer, log: RedisLog, prefix: str) -> None:
    async def append_all(log: RedisLog) -> None:
        state = await log.state()
        while state.tail is None or state.tail.seq < 200:
            first = at(0) if state.tail is None else state.tail.plus(1)
            result = await log.append(state, first, notes(*range(first.seq, first.seq + 7)))
            state = result.state if isinstance(result, Appended) else result

    async with linked(redis_server) as other, trio.open_nursery() as nursery:
        nursery.start_soon(append_all, log)
        nursery.start_soon(append_all, log_through(other, prefix))
    entries = await log.read(None)
    assert positions(entries) == [at(seq) for seq in range(len(entries))]
    assert all(entry.event and b'"payload":{"n":%d}' % entry.position.seq in entry.event.data for entry in entries)


async def test_the_same_numbering_goes_on_after_redis_was_emptied(
    log: RedisLog, redis_server: RedisServer, subscriber: RedisLink
) -> None:
    before = await appended(log, EMPTY, at(0), [marker(TERM), *notes(1, 2)])
    redis_server.command("FLUSHALL")
    redis_server.command("SCRIPT", "FLUSH")
    assert await log.append(before, at(3), notes(3)) == EMPTY
    await subscriber.subscribe(log.events_channel)
    after = await appended(log, EMPTY, at(2), notes(2, 3), publish_from=1)
    assert after.nonce != before.nonce
    assert positions(await log.read(None)) == [at(2), at(3)]
    assert await heard(subscriber, 1) == [(log.events_channel.encode(), entry_json(at(3), notes(3)[0]))]


async def test_a_stream_that_was_evicted_alone_is_a_new_log(
    log: RedisLog, redis_server: RedisServer, prefix: str
) -> None:
    before = await appended(log, EMPTY, at(0), notes(0))
    redis_server.command("DEL", f"{prefix}:{DIGEST}:log")
    assert await log.state() == LogState(None, before.nonce)
    after = await appended(log, LogState(None, before.nonce), at(0), notes(0))
    assert after.nonce != before.nonce
    redis_server.command("DEL", f"{prefix}:{DIGEST}:meta")
    again = await appended(log, LogState(at(0), None), at(1), notes(1))
    assert again.nonce not in (None, before.nonce, after.nonce)


async def test_the_tail_outlives_its_entries(log: RedisLog, redis_server: RedisServer, prefix: str) -> None:
    state = await appended(log, EMPTY, at(2**53 - 3), notes(1, 2))
    redis_server.command("XTRIM", f"{prefix}:{DIGEST}:log", "MAXLEN", 0)
    assert await log.read(None, 1) == []
    assert await log.state() == state == LogState(at(2**53 - 2), state.nonce)
    await appended(log, state, at(2**53 - 1), notes(3))
    assert positions(await log.read(state.tail)) == [at(2**53 - 1)]


async def test_the_log_is_trimmed(link: RedisLink, prefix: str) -> None:
    log = log_through(link, prefix, history_entries=200)
    state = EMPTY
    for first in range(0, 1500, 300):
        state = await appended(log, state, at(first), notes(*range(first, first + 300)))
    first_left = (await log.read(None, 1))[0].position
    assert first_left is not None
    assert 1500 - 200 - 200 <= first_left.seq <= 1500 - 200  # whole nodes of 100 entries go


async def test_terms_above_the_precision_of_a_number(log: RedisLog) -> None:
    state = await appended(log, EMPTY, at(10), notes(10))
    largest = at(0, 2**63 - 1)
    state = await appended(log, state, largest, [marker(largest.term), *notes(1, 2)])
    assert positions(await log.read(at(10))) == [largest, largest.plus(1), largest.plus(2)]
    assert await log.terms() == [(largest.term, largest)]


@pytest.mark.parametrize("first", [at(7), at(6), at(8, TERM - 1)])
async def test_what_does_not_follow_the_tail_is_refused(log: RedisLog, first: Position) -> None:
    state = await appended(log, EMPTY, at(7), notes(7))
    with pytest.raises(ValueError, match="does not come after"):
        await log.append(state, first, notes(8))
    assert await log.state() == state
    assert positions(await log.read(None)) == [at(7)]


async def test_the_script_itself_refuses_ids_that_go_back(link: RedisLink, log: RedisLog, prefix: str) -> None:
    """Also for an appender whose own check is wrong: nothing is written, not even the rest of the batch."""
    state = await appended(log, EMPTY, at(7), notes(7))
    arguments = (str(state.tail), state.nonce or "", DATABASE, "fresh", 100, "l", "e", TERM, 6, "11", "{}", "{}")
    keys = [f"{prefix}:{DIGEST}:{name}" for name in ("log", "meta", "terms")]
    with pytest.raises(LogRefused, match="equal or smaller"):
        await link.execute("EVALSHA", log._sha, 3, *keys, *arguments)
    assert await log.state() == state


async def test_a_full_batch(log: RedisLog, subscriber: RedisLink) -> None:
    await subscriber.subscribe(log.live_channel)
    bodies = notes(*range(MAX_BATCH_ENTRIES))
    await appended(log, EMPTY, at(0), bodies)
    ((_, message),) = await heard(subscriber, 1)
    assert message == b"\n".join(entry_json(at(n), body) for n, body in enumerate(bodies))
    assert log.live_entries(message) == await log.read(None)
    for size in (0, MAX_BATCH_ENTRIES + 1):
        with pytest.raises(ValueError, match="a batch has"):
            await log.append(EMPTY, at(0), notes(*range(size)))


async def test_a_batch_of_nothing_but_markers(log: RedisLog, subscriber: RedisLink) -> None:
    await subscriber.subscribe(log.live_channel, log.events_channel)
    state = await appended(log, EMPTY, at(0), [marker(TERM + n) for n in range(MAX_BATCH_ENTRIES)])
    assert sorted(await log.terms()) == [(TERM + n, at(n)) for n in range(MAX_BATCH_ENTRIES)]
    await appended(log, state, at(MAX_BATCH_ENTRIES), notes(1))
    channels = [channel for channel, _ in await heard(subscriber, 3)]
    assert channels.count(log.events_channel.encode()) == 1


async def test_the_events_channel_gets_each_notification_once(log: RedisLog, subscriber: RedisLink) -> None:
    await subscriber.subscribe(log.events_channel)
    bodies = [*notes(0), marker(TERM + 1), *notes(2), Unreadable(), *notes(4)]
    await appended(log, EMPTY, at(0), bodies, publish_from=2)
    assert [data for _, data in await heard(subscriber, 2)] == [entry_json(at(n), bodies[n]) for n in (2, 4)]


async def test_payloads_pass_byte_for_byte(log: RedisLog, subscriber: RedisLink) -> None:
    await subscriber.subscribe(log.live_channel)
    payloads = ['"\\u0000 ü €"', '"' + "x" * 7997 + '"', "1e400", '{"a": [1,  2]}', '""', "12345678901234567890"]
    bodies: list[Body] = [Notification('chan"nel ü', payload.encode()) for payload in payloads]
    await appended(log, EMPTY, at(0), bodies)
    entries = await log.read(None)
    assert [entry.event.data for entry in entries if entry.event] == [
        entry_json(at(n), body) for n, body in enumerate(bodies)
    ]
    assert log.live_entries((await heard(subscriber, 1))[0][1]) == entries


# Read


async def test_reading_in_pages(log: RedisLog) -> None:
    state = EMPTY
    for first in range(0, 1200, 400):
        state = await appended(log, state, at(first), notes(*range(first, first + 400)))
    assert positions(await log.read(None, 10_000)) == [at(n) for n in range(MAX_READ_ENTRIES)]
    assert positions(await log.read(at(499), 3)) == [at(500), at(501), at(502)]
    assert positions(await log.read(at(-5), 1)) == [at(0)]
    assert positions(await log.read(at(2**62, TERM - 1), 1)) == [at(0)]
    assert await log.read(state.tail) == []
    assert await log.read(at(0, TERM + 1)) == []


async def test_entries_of_somebody_else_are_left_out(
    log: RedisLog, redis_server: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = f"{prefix}:{DIGEST}:log"
    garbage: list[tuple[str, ...]] = [("e", "no json"), ("x", "y"), ("e", "{}", "f", "g")]
    garbage += [("e", entry_json(at(5), notes(5)[0]).decode()), ("e", '{"type":"notification","id":"1-2"}')]
    for n, fields in enumerate(garbage):
        redis_server.command("XADD", key, f"1-{n}" if n else "0-1", *fields)
    assert await log.read(None) == []
    state = await log.state()
    await appended(log, state, at(0), notes(0, 1))
    with caplog.at_level(logging.WARNING, "bridge"):
        assert positions(await log.read(None)) == [at(0), at(1)]
        assert positions(await log.read(None, 2)) == [at(0)]
        assert positions(await log.read(at(0), 2)) == [at(1)]
    assert log.live_entries(b"garbage\n" + entry_json(at(7), notes(7)[0]))[0].position == at(7)
    assert sum("Somebody else" in record.message for record in caplog.records) <= 1


async def test_a_tail_that_is_no_position(log: RedisLog, redis_server: RedisServer, prefix: str) -> None:
    redis_server.command("XGROUP", "CREATE", f"{prefix}:{DIGEST}:log", "group", "$", "MKSTREAM")
    assert await log.state() == EMPTY
    await appended(log, EMPTY, at(0), notes(0))
    redis_server.command("XADD", f"{prefix}:{DIGEST}:log", f"{2**64 - 1}-1", "e", "x")
    for attempt in (log.state(), log.append(EMPTY, at(1), notes(1))):
        with pytest.raises(RedisUnusable, match=f"{2**64 - 1}-1"):
            await attempt
    redis_server.command("SET", f"{prefix}:{DIGEST}:log", "no stream")
    with pytest.raises(RedisReplyError, match="WRONGTYPE"):
        await log.state()


# Relations


async def test_relations_outlive_the_stream(log: RedisLog, redis_server: RedisServer, prefix: str) -> None:
    timeline = Timeline()
    for older in range(1, 3000):
        timeline.relate(at(0, TERM - older), at(-older * 7))
    await log.save_terms(timeline.relations())
    again = Timeline()
    for term, position in await log.terms():
        assert again.relate(Position(term, 0), position) is Relation.NEW
    assert again.convert(at(1, TERM - 2999), TERM) == at(1 - 2999 * 7)
    redis_server.command("HSET", f"{prefix}:{DIGEST}:terms", "x", "y")
    assert len(await log.terms()) == 2999
    await log.save_terms([])


async def test_the_oldest_relations_are_forgotten(log: RedisLog) -> None:
    await log.save_terms((at(0, 9_000 + n), at(n)) for n in range(NEWEST_TERMS + 1500))
    kept = sorted(term for term, _ in await log.terms())
    assert kept == list(range(9_000 + 1500, 9_000 + 1500 + NEWEST_TERMS))


# Beats


async def test_beats(log: RedisLog, subscriber: RedisLink) -> None:
    await subscriber.subscribe(log.control_channel)
    assert await log.listeners_beating() is None
    await log.beat(None, "one", 5)
    await log.beat(at(3), "two", 5, process=17, appending=True)
    beats = [read_beat(data) for _, data in await heard(subscriber, 2)]
    assert beats == [Beat("one", None), Beat("two", at(3), 17, True)]
    await log.stop_beating("one")
    assert await log.listeners_beating() == "two"
    await log.stop_beating("two")
    assert await log.listeners_beating() is None


async def test_a_beat_ends_by_itself(log: RedisLog) -> None:
    await log.beat(None, "one", 0.02)
    with trio.fail_after(30):
        while await log.listeners_beating():
            pass


@pytest.mark.parametrize(
    "message", [b"", b"x", b"{}", b'{"nonce":1,"tail":null}', b'{"nonce":"n","tail":"x"}', b"\xff"]
)
def test_what_is_no_beat(message: bytes) -> None:
    assert read_beat(message) is None
