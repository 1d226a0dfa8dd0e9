"""What LISTEN sessions on real servers hear, how they prove that they hear, and how they end."""

from itertools import pairwise

import anyio
import pytest
import trio
import trio.testing

from bridge.core.events import Heard, Marker, Notification, Unreadable
from bridge.core.position import Position
from bridge.errors import BridgeError, PostgresLost, PostgresUnusable
from bridge.links.postgres import MAX_BATCH, ListenSession, notify, open_session
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.postgres_session import (
    TIMEOUT_SECONDS,
    activity,
    execute,
    hear,
    options,
    payloads,
    probed,
    receiving_until,
    refused,
    send,
    session,
    until,
    with_own_notify,
)


async def test_a_session_marks_itself_and_counts_from_its_marker(postgres: PostgresServer) -> None:
    async with session(postgres.url()) as listening:
        assert listening.marker == Marker(listening.term, listening.nonce, "0123abcd", "listener", "pg_notify")
        assert listening.term % 2**22 == listening.backend_pid
        assert listening.proven
        assert listening.server_version // 10_000 in (15, 18)
        send(postgres, "match_change", '{"match_id": 7}', "plain")
        assert await hear(listening, 2) == [
            Heard(Position(listening.term, 1), Notification("match_change", b'{"match_id": 7}')),
            Heard(Position(listening.term, 2), Notification("match_change", b'"plain"')),
        ]


@pytest.mark.parametrize("role", ["listener", "fallback"])
async def test_operators_see_one_idle_listen_row(postgres: PostgresServer, role: str) -> None:
    url = postgres.url(query="application_name=mine")
    async with session(url, role=role, probe_seconds=0.05) as listening:
        for n in range(2):
            state, query, name = activity(postgres, listening.backend_pid)
            assert (state, name) == ("idle", f"bridge {role}")
            assert query.startswith("LISTEN")
            await probed(listening, n + 1)


async def test_the_floor_lifts_the_term(postgres: PostgresServer) -> None:
    async with session(postgres.url()) as now, session(postgres.url(), floor=now.term // 2**22 + 9_000) as later:
        assert later.term // 2**22 == now.term // 2**22 + 9_000


@pytest.mark.parametrize(
    ("text", "json"),
    [
        ("", b'""'),
        ("7", b"7"),
        ("no json", b'"no json"'),
        ('it\'s "quoted" \\', rb'''"it's \"quoted\" \\"'''),
        ("日本 ü", '"日本 ü"'.encode()),
        ("x" * 7999, b'"' + b"x" * 7999 + b'"'),
        ("ü" * 3999, b'"' + "ü".encode() * 3999 + b'"'),
    ],
    ids=["empty", "scalar", "text", "quotes", "not-ascii", "longest", "longest-in-bytes"],
)
async def test_payloads_arrive_as_they_were_sent(postgres: PostgresServer, text: str, json: bytes) -> None:
    async with session(postgres.url()) as listening:
        send(postgres, "match_change", text)
        assert payloads(await hear(listening, 1)) == [json]


async def test_channel_names_are_exact(postgres: PostgresServer) -> None:
    names = ("Capitals", "capitals", 'quo"te', "it's", "two words", "日本", "back\\slash", "semi;colon", "%s", "x" * 63)
    async with session(postgres.url(), channels=names) as listening:
        for name in names:
            send(postgres, name, "1")
        send(postgres, "CAPITALS", "1")
        heard = await hear(listening, len(names))
        assert [h.body.channel for h in heard if isinstance(h.body, Notification)] == list(names)


async def test_sessions_hear_each_others_markers_and_then_the_same(postgres: PostgresServer) -> None:
    async with session(postgres.url()) as one:
        send(postgres, "match_change", "1")
        async with session(postgres.url(), role="fallback") as other:
            assert other.term != one.term
            send(postgres, "match_change", "2", "3")
            by_one, by_other = await hear(one, 4), await hear(other, 2)
    assert by_one[1] == Heard(Position(one.term, 2), other.marker)
    assert [h.body for h in by_one[2:]] == [h.body for h in by_other]
    assert [h.position.seq for h in by_one[2:]] == [2 + h.position.seq for h in by_other]
    assert one.database == other.database


async def test_what_anybody_sends_on_the_sync_channel_counts_and_on_the_probe_channel_does_not(
    postgres: PostgresServer,
) -> None:
    async with session(postgres.url()) as listening:
        for text in (
            "",
            "{}",
            '{"x":' + "[" * 7900,
            '{"term": -1, "nonce": "", "digest": "", "role": "", "prefix": ""}',
        ):
            send(postgres, "bridge_sync", text)
        for text in ("", listening.nonce, f'{{"term": 1, "nonce": "{listening.nonce}", "n": 1, "heard": null}}'):
            send(postgres, "bridge_probe", text)
        send(postgres, "match_change", "1")
        heard = await hear(listening, 5)
    assert [h.body for h in heard] == [*[Unreadable()] * 4, Notification("match_change", b"1")]
    assert [h.position.seq for h in heard] == [1, 2, 3, 4, 5]


async def test_a_large_transaction_comes_complete_in_bounded_batches(postgres: PostgresServer) -> None:
    count = 30_000
    heard: list[Heard] = []
    sql = "SELECT count(pg_notify('match_change', i::text)) FROM generate_series(1, %s) i"
    async with session(postgres.url()) as listening, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, execute, postgres, sql, count)
        while len(heard) < count:
            batch = await listening.receive()
            assert 0 < len(batch) <= MAX_BATCH
            heard += batch
    assert payloads(heard) == [b"%d" % i for i in range(1, count + 1)]
    assert [h.position for h in heard] == [Position(listening.term, i) for i in range(1, count + 1)]


async def test_a_cancelled_receive_loses_nothing(postgres: PostgresServer) -> None:
    count, cancelled = 5_000, 0
    heard: list[Heard] = []
    sql = "SELECT count(pg_notify('match_change', i::text)) FROM generate_series(1, %s) i"
    async with session(postgres.url(), probe_seconds=0.02) as listening, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, execute, postgres, sql, count)
        while len(heard) < count:
            for patience_seconds in (0, 0.0002, 0.001):
                with trio.move_on_after(patience_seconds) as scope:
                    heard += await listening.receive()
                cancelled += scope.cancelled_caught
    assert payloads(heard) == [b"%d" % i for i in range(1, count + 1)]
    assert cancelled


async def test_probes_come_back_and_prove_the_session(postgres: PostgresServer) -> None:
    async with session(postgres.url(), probe_seconds=0.05) as listening, session(postgres.url()) as other:
        before = listening.last_proof
        await probed(listening, 3)
        await receiving_until(listening, lambda: listening.proven)
        assert listening.last_proof > before
        assert listening.probe_error is None
        send(postgres, "match_change", "1")
        assert (await hear(other, 1))[0].position.seq == 1


async def test_a_refused_probe_is_told_and_does_not_end_the_session(postgres: PostgresServer) -> None:
    """A full queue in PostgreSQL looks like this: nobody can notify, and a new session could not even start."""
    url = with_own_notify(postgres, "refusing", "PERFORM pg_catalog.pg_notify($1, $2);")
    async with session(url, probe_seconds=0.05) as listening:
        with_own_notify(postgres, "refusing", "RAISE EXCEPTION 'the queue is full';")
        await receiving_until(listening, lambda: listening.probe_error is not None and not listening.proven)
        assert listening.probe_error == "the queue is full"
        send(postgres, "match_change", "1")
        assert payloads(await hear(listening, 1)) == [b"1"]
        with_own_notify(postgres, "refusing", "PERFORM pg_catalog.pg_notify($1, $2);")
        await probed(listening, 1)
        assert listening.probe_error is None


async def test_a_session_that_nobody_reads_is_not_proven(postgres: PostgresServer) -> None:
    async with session(postgres.url(), probe_seconds=0.02) as listening:
        await until(lambda: not listening.proven)
        await receiving_until(listening, lambda: listening.proven)


async def test_an_ended_session_says_why(postgres: PostgresServer) -> None:
    async with session(postgres.url()) as listening:
        send(postgres, "match_change", "1")
        await trio.lowlevel.wait_readable(listening._pgconn.socket)
        postgres.execute("SELECT pg_terminate_backend(%s)", listening.backend_pid)
        assert payloads(await hear(listening, 1)) == [b"1"]
        for _ in range(2):
            with pytest.raises(PostgresLost, match="terminating connection due to administrator command"):
                await listening.receive()
        assert not listening.proven


async def until_lost(listening: ListenSession) -> None:
    """Receive until the session ends; it may be suspect before."""
    while True:
        await listening.receive()


async def test_a_session_ended_while_it_probes_says_why(postgres: PostgresServer) -> None:
    async with session(postgres.url(), probe_seconds=0.001) as listening:
        await probed(listening, 1)
        postgres.execute("SELECT pg_terminate_backend(%s)", listening.backend_pid)
        with pytest.raises(PostgresLost, match="terminating connection due to administrator command"):
            await until_lost(listening)


@pytest.mark.parametrize("how", ["killed", "immediate", "fast"])
async def test_a_server_that_goes_ends_the_session_and_can_come_back(how: str) -> None:
    with postgres_server() as server:
        async with session(server.url()) as listening:
            send(server, "match_change", "1")
            await trio.lowlevel.wait_readable(listening._pgconn.socket)
            if how == "killed":
                server.kill()
            else:
                server.stop(immediate=how == "immediate")
            assert payloads(await hear(listening, 1)) == [b"1"]
            with pytest.raises(PostgresLost, match="PostgreSQL"):
                await listening.receive()
        assert "127.0.0.1" in str(await refused(server.url()))
        identity = listening.database
        server.start()
        async with session(server.url()) as listening:
            assert listening.database == identity


async def test_a_paused_server_is_suspect_after_a_probe_and_no_later_until_it_says_something() -> None:
    with postgres_server() as server:
        started = trio.current_time()
        async with session(server.url(), probe_seconds=0.3) as listening:
            server.pause()
            assert await listening.receive() == []
            assert listening.suspect is True
            assert 0.6 <= trio.current_time() - started < 10
            server.resume()
            send(server, "match_change", "1")
            heard: list[Heard] = []
            with trio.fail_after(30):
                while not heard:
                    heard = await listening.receive()
            assert payloads(heard) == [b"1"]
            assert not listening.suspect


async def test_a_pause_of_our_own_process_is_not_silence(postgres: PostgresServer) -> None:
    async with session(postgres.url(), probe_seconds=0.05) as listening:
        await probed(listening, 1)
        with trio.move_on_after(0.06):
            await listening.receive()
        send(postgres, "match_change", "1")
        await trio.sleep(0.3)
        assert payloads(await hear(listening, 1)) == [b"1"]
        await probed(listening, 2)


async def test_a_cancelled_session_closes_its_connection(postgres: PostgresServer) -> None:
    with trio.CancelScope() as scope:
        async with open_session(options(postgres.url())) as listening:
            scope.cancel()
            await listening.receive()
    sql = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    await until(lambda: not postgres.execute(sql, listening.backend_pid))


def test_it_runs_on_asyncio_too(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with open_session(options(postgres.url())) as listening:
            await notify(postgres.url(), "match_change", ["1", "2"])
            with anyio.fail_after(TIMEOUT_SECONDS):
                assert payloads(await hear(listening, 2)) == [b"1", b"2"]

    anyio.run(main, backend="asyncio")


@pytest.fixture(scope="module")
def encodings(postgres: PostgresServer) -> PostgresServer:
    """The server with a database in each of some other encodings, named after them."""
    for encoding in ("SQL_ASCII", "LATIN1"):
        postgres.execute(f"CREATE DATABASE {encoding} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    return postgres


async def test_bytes_that_are_no_utf8_become_replacement_characters(encodings: PostgresServer) -> None:
    async with session(encodings.url("sql_ascii"), channels=("match_change", "schön")) as listening:
        encodings.execute(r"SELECT pg_notify('match_change', E'a\xffb')", database="sql_ascii")
        encodings.execute(r"SELECT pg_notify(E'sch\xc3\xb6n', E'\xe6\x97\xa5')", database="sql_ascii")
        assert [h.body for h in await hear(listening, 2)] == [
            Notification("match_change", '"a\N{REPLACEMENT CHARACTER}b"'.encode()),
            Notification("schön", '"日"'.encode()),
        ]


async def test_another_server_encoding_is_converted(encodings: PostgresServer) -> None:
    async with session(encodings.url("latin1"), channels=("schön",)) as listening:
        send(encodings, "schön", "ü", database="latin1")
        assert [h.body for h in await hear(listening, 1)] == [Notification("schön", '"ü"'.encode())]
    error = await refused(encodings.url("latin1"), channels=("日本",))
    assert isinstance(error, PostgresUnusable)
    assert "LATIN1" in str(error)


async def test_notify_sends_in_order(postgres: PostgresServer) -> None:
    sent = ["", '{"match_id": 7}', "it's", "日本", "x" * 7999]
    async with session(postgres.url(), channels=("Match change",)) as listening:
        await notify(postgres.url(), "Match change", sent)
        assert payloads(await hear(listening, 5)) == [
            b'""', b'{"match_id": 7}', b'"it\'s"', '"日本"'.encode(), b'"' + b"x" * 7999 + b'"'
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("channel", "payload", "said"),
    [
        ("c", "ü" * 4000, "8,000 bytes of 7,999"),
        ("", "x", "channel name"),
        ("c" * 64, "x", "channel 64 of 63"),
        ("c", "a\0b", "NUL"),
        ("c", "\udcff", "invalid byte sequence"),
    ],
)
async def test_notify_says_what_postgresql_does_not_take(
    postgres: PostgresServer, channel: str, payload: str, said: str
) -> None:
    with pytest.raises(BridgeError, match=said) as caught:
        await notify(postgres.url(), channel, ["fine", payload] if len(channel) == 1 else [payload])
    assert type(caught.value) is BridgeError
    assert "\n" not in str(caught.value)


async def test_terms_rise_over_time_and_stay_in_64_bits(postgres: PostgresServer) -> None:
    terms = []
    for _ in range(3):
        async with session(postgres.url()) as listening:
            terms.append(listening.term)
        await trio.sleep(0.011)  # PostgreSQL's clock counts in 10 ms
    assert all(older < newer < 2**63 for older, newer in pairwise(terms))


async def test_probes_relate_an_older_session_to_a_newer_one(postgres: PostgresServer) -> None:
    """The newer one never heard the older one's marker; two probes that both hear say how they count."""
    async with session(postgres.url(), probe_seconds=60) as older:
        for number in range(3):
            send(postgres, "match_change", str(number))
        await hear(older, 3)
        async with session(postgres.url(), probe_seconds=60) as newer, trio.open_nursery() as nursery:
            nursery.start_soon(until_lost, older)
            nursery.start_soon(until_lost, newer)
            learned: list[tuple[Position, Position]] = []
            with trio.fail_after(30):
                while not learned:
                    learned += newer.learned()
                    await trio.testing.wait_all_tasks_blocked(0.01)
            ((one, other),) = learned
            assert (one.term, other.term) == (older.term, newer.term)
            assert one.seq - other.seq == 4, "three notifications and the newer session's marker"
            nursery.cancel_scope.cancel()
