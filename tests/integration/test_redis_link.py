"""A link to real servers: what it speaks, whom it believes, and that every failure is one clear error in time."""

import socket
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

import anyio
import anyio.abc
import pytest
import trio

from bridge.errors import LogRefused, RedisLost, RedisUnusable
from bridge.links.redis import RedisLink, RedisReplyError
from bridge.links.redis_url import RedisTarget
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.redis import (
    BINARIES,
    TLS_BINARIES,
    Binary,
    Certificates,
    RedisServer,
    answering,
    free_port,
    make_certificates,
    name_of,
    running_redis,
    running_tls_redis,
)
from tests.support.redis_link import TIMEOUT_SECONDS, opening, refused

IDLE_TIMEOUT_SECONDS = 2.0
"""Of subscribers that are quiet for longer: a busy Redis answers a PING in that time, and a test does not take long."""
HELLO = (
    b"*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n%b\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:1\r\n"
    b"$4\r\nmode\r\n$%d\r\n%b\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
)


# What it speaks


async def test_it_names_the_server_and_itself(redis_server: RedisServer) -> None:
    async with opening(redis_server.url) as link:
        assert link.server.startswith(redis_server.binary.name.split("-")[0] + " ")
        assert link.role == "master"
        assert await link.execute("CLIENT", "GETNAME") == b"the-tests"


async def test_packets_are_not_held_back(redis_server: RedisServer) -> None:
    async with opening(redis_server.url) as link:
        raw = link._stream.extra(anyio.abc.SocketAttribute.raw_socket)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_databases_are_apart(redis_server: RedisServer) -> None:
    async with opening(f"{redis_server.url}/3") as third, opening(f"unix://{redis_server.socket_path}?db=4") as fourth:
        await third.execute("SET", "apart", "third")
        assert await fourth.execute("GET", "apart") is None
        assert await third.execute("GET", "apart") == b"third"


async def test_a_database_that_does_not_exist(redis_server: RedisServer) -> None:
    assert "database 99" in str(await refused(f"{redis_server.url}/99"))


async def test_a_pipeline_gives_errors_among_its_replies(redis_server: RedisServer) -> None:
    async with opening(redis_server.url) as link:
        replies = await link.pipeline([("SET", "p", 1), ("LPUSH", "p", "x"), ("GET", b"p"), ("MGET", "p", "none")])
        assert [replies[0], *replies[2:]] == [b"OK", b"1", [b"1", None]]
        assert isinstance(replies[1], RedisReplyError)
        assert replies[1].code == "WRONGTYPE"
        with pytest.raises(RedisReplyError, match="WRONGTYPE"):
            await link.execute("LPUSH", "p", "x")
        assert await link.pipeline([]) == []


async def test_large_commands_and_replies(redis_server: RedisServer) -> None:
    value = bytes(range(256)) * 40_000
    async with opening(redis_server.url) as link:
        await link.execute("SET", "large", value)
        assert await link.execute("GET", "large") == value


def test_it_also_runs_on_asyncio(redis_server: RedisServer) -> None:
    async def main() -> list[tuple[bytes, bytes]]:
        async with opening(redis_server.url) as link, opening(redis_server.url, IDLE_TIMEOUT_SECONDS) as subscriber:
            await subscriber.subscribe("news")
            with anyio.move_on_after(1.2 * IDLE_TIMEOUT_SECONDS):
                await subscriber.messages()
            await link.execute("PUBLISH", "news", "x")
            return await subscriber.messages()

    assert anyio.run(main, backend="asyncio") == [(b"news", b"x")]


# Whom it believes


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=TLS_BINARIES, ids=name_of)
def tls_server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[RedisServer]:
    with running_tls_redis(request.param, certificates) as server:
        yield server


async def test_tls(tls_server: RedisServer, certificates: Certificates) -> None:
    url = f"rediss://localhost:{tls_server.tls_port}/1?ssl_ca_certs={certificates.authority}"
    async with opening(url) as link, opening(url, IDLE_TIMEOUT_SECONDS) as subscriber:
        await subscriber.subscribe("news")
        with anyio.move_on_after(1.2 * IDLE_TIMEOUT_SECONDS):
            await subscriber.messages()
        await link.execute("PUBLISH", "news", b"x" * 100_000)
        assert await subscriber.messages() == [(b"news", b"x" * 100_000)]


async def test_tls_believes_no_unknown_authority(tls_server: RedisServer) -> None:
    error = await refused(f"rediss://localhost:{tls_server.tls_port}")
    assert isinstance(error, RedisUnusable)
    assert "certificate" in str(error)
    async with opening(f"rediss://localhost:{tls_server.tls_port}?ssl_cert_reqs=none") as link:
        assert await link.execute("PING") == b"PONG"


async def test_tls_checks_the_name(tls_server: RedisServer, certificates: Certificates) -> None:
    url = f"rediss://127.0.0.2:{tls_server.tls_port}?ssl_ca_certs={certificates.authority}"
    with tls_server.configured(bind="127.0.0.1 127.0.0.2"):
        assert "127.0.0.2" in str(await refused(url))
        async with opening(f"{url}&ssl_check_hostname=false") as link:
            assert await link.execute("PING") == b"PONG"


async def test_tls_and_plain_mixed_up(tls_server: RedisServer) -> None:
    plain = str(await refused(f"redis://127.0.0.1:{tls_server.tls_port}"))
    assert "protocol" in plain or "rediss://" in plain  # its alert arrives, or is overtaken by a reset
    assert "TLS" in str(await refused(f"rediss://127.0.0.1:{tls_server.port}", 2))


async def test_a_password(redis_server: RedisServer) -> None:
    with redis_server.configured(requirepass="right"):
        redis_server.admin_password = "right"
        place = f"127.0.0.1:{redis_server.port}"
        wanted, wrong = await refused(redis_server.url), await refused(f"redis://:wrong@{place}")
        assert isinstance(wanted, RedisUnusable)
        assert "REDIS_URL" in str(wanted)
        assert isinstance(wrong, RedisUnusable)
        async with opening(f"redis://:right@{place}/2") as link:
            assert await link.execute("PING") == b"PONG"
    redis_server.admin_password = None


async def test_users_and_their_rights(redis_server: RedisServer) -> None:
    rules = ("on", ">pass", "~mine:*", "resetchannels", "&mine:*", "-@all", "+get", "+subscribe", "+ping")
    redis_server.command("ACL", "SETUSER", "worker", *rules)
    async with opening(f"redis://worker:pass@127.0.0.1:{redis_server.port}") as link:
        assert await link.execute("GET", "mine:1") is None
        for forbidden in (("GET", "yours"), ("SET", "mine:1", "x")):
            with pytest.raises(RedisUnusable, match="NOPERM"):
                await link.execute(*forbidden)
        with pytest.raises(RedisUnusable, match="NOPERM"):
            await link.subscribe("yours")
    assert "WRONGPASS" in str(await refused(f"redis://worker:other@127.0.0.1:{redis_server.port}"))


# Servers that answer and cannot serve


async def test_a_replica_takes_no_writes(redis_server: RedisServer) -> None:
    redis_server.command("REPLICAOF", "127.0.0.1", free_port())
    try:
        async with opening(redis_server.url) as link:
            assert link.role == "replica"
            with pytest.raises(RedisLost, match="replica"):
                await link.execute("SET", "k", "v")
    finally:
        redis_server.command("REPLICAOF", "NO", "ONE")


async def test_out_of_memory(redis_server: RedisServer) -> None:
    async with opening(redis_server.url) as link:
        with redis_server.configured(maxmemory=1), pytest.raises(LogRefused, match="memory"):
            await link.execute("SET", "k", "v")
        await link.execute("SET", "k", "v")


async def test_too_few_replicas(redis_server: RedisServer) -> None:
    async with opening(redis_server.url) as link:
        with redis_server.configured(min_replicas_to_write=1), pytest.raises(LogRefused, match="replicas"):
            await link.execute("SET", "k", "v")


async def test_loading_is_lost_for_now() -> None:
    async with answering(b"-LOADING Redis is loading the dataset in memory\r\n") as port:
        error = await refused(f"redis://127.0.0.1:{port}")
    assert not isinstance(error, RedisUnusable)
    assert "loading" in str(error)


@pytest.mark.parametrize("binary", BINARIES, ids=name_of)
async def test_a_cluster_is_refused(binary: Binary) -> None:
    with running_redis(binary, "cluster-enabled yes") as server:
        error = await refused(server.url)
    assert isinstance(error, RedisUnusable)
    assert "Cluster" in str(error)


@pytest.mark.parametrize(
    ("hello", "says"),
    [
        (HELLO % (b"6.0.9", 10, b"standalone"), "6.2 or later"),
        (HELLO % (b"7.0.9", 8, b"sentinel"), "Sentinel"),
        (b"-ERR unknown command 'HELLO'\r\n", "6.2 or later"),
        (b"+OK\r\n", "no Redis"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol"),
        (b"SSH-2.0-OpenSSH\r\n", "protocol"),
    ],
)
async def test_other_servers_on_the_port(hello: bytes, says: str) -> None:
    async with answering(hello) as port:
        error = await refused(f"redis://127.0.0.1:{port}")
    assert says in str(error)
    assert str(port) in str(error)


# No answer


async def test_nobody_on_the_port(tmp_path: Path) -> None:
    assert "refused" in str(await refused(f"redis://127.0.0.1:{free_port()}"))
    assert "refused" in str(await refused(f"redis://localhost:{free_port()}"))
    assert "No such file" in str(await refused(f"unix://{tmp_path}/none.sock"))
    assert "no-such-host.invalid" in str(await refused("redis://no-such-host.invalid"))


async def test_a_port_that_says_nothing() -> None:
    async with answering() as port:
        error = await refused(f"redis://127.0.0.1:{port}", 2)
        assert "no answer" in str(error)
        assert "2 s" in str(error)
        assert "no TLS handshake" in str(await refused(f"rediss://127.0.0.1:{port}", 2))


async def test_a_port_that_hangs_up() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, hang_up, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        for scheme in ("redis", "rediss"):
            assert not isinstance(await refused(f"{scheme}://127.0.0.1:{port}"), RedisUnusable)
        nursery.cancel_scope.cancel()


async def test_no_reply_in_time(redis_server: RedisServer) -> None:
    async with opening(redis_server.url) as link:
        link.timeout_seconds = 0.2
        with redis_server.paused(), pytest.raises(RedisLost, match=r"within 0\.2 s"):
            await link.execute("PING")
        with pytest.raises(RedisLost, match="cut short"):
            await link.execute("PING")


async def test_no_room_for_a_command_in_time(redis_server: RedisServer) -> None:
    async with opening(redis_server.url) as link:
        link.timeout_seconds = 0.2
        with redis_server.paused(), pytest.raises(RedisLost, match="took no data"):
            await link.execute("SET", "large", bytes(30_000_000))


async def test_a_cancelled_command_spoils_the_link(redis_server: RedisServer) -> None:
    async with opening(redis_server.url) as link:
        with redis_server.paused(), trio.move_on_after(0.05) as scope:
            await link.execute("ECHO", "first")
        assert scope.cancelled_caught
        with pytest.raises(RedisLost, match="cut short"):
            await link.execute("ECHO", "second")


@pytest.mark.parametrize("binary", BINARIES, ids=name_of)
async def test_a_server_that_goes(binary: Binary) -> None:
    with running_redis(binary) as server:
        async with opening(server.url) as link, opening(server.url) as subscriber:
            await subscriber.subscribe("news")
            server.kill()
            with pytest.raises(RedisLost, match=str(server.port)):
                await link.execute("PING")
            with pytest.raises(RedisLost, match=f"{server.port} (closed|failed)"), trio.fail_after(30):
                await subscriber.messages()


# The subscriber


async def test_messages_come_complete_and_in_order(redis_server: RedisServer) -> None:
    sent = [b"%d:" % n + b"x" * (n * 37 % 5000) for n in range(2000)]
    async with opening(redis_server.url) as link, opening(redis_server.url) as subscriber:
        await subscriber.subscribe("one", "two")
        await link.pipeline([("PUBLISH", ("one", "two")[n % 2], data) for n, data in enumerate(sent)])
        heard: list[tuple[bytes, bytes]] = []
        with trio.fail_after(30):
            while len(heard) < len(sent):
                heard += await subscriber.messages()
    assert heard == [((b"one", b"two")[n % 2], data) for n, data in enumerate(sent)]


async def test_cancelling_messages_loses_none(redis_server: RedisServer) -> None:
    heard: list[tuple[bytes, bytes]] = []

    async def publish(link: RedisLink) -> None:
        for number in range(300):
            await link.execute("PUBLISH", "news", b"%d" % number + b"x" * 3000)

    async with opening(redis_server.url) as link, opening(redis_server.url) as subscriber:
        await subscriber.subscribe("news")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, link)
            with trio.fail_after(30):
                while len(heard) < 300:
                    with trio.move_on_after(0.0002):
                        heard += await subscriber.messages()
    assert [int(data.rstrip(b"x")) for _, data in heard] == list(range(300))


async def test_an_idle_subscriber_stays(redis_server: RedisServer) -> None:
    async with opening(redis_server.url) as link, opening(redis_server.url, IDLE_TIMEOUT_SECONDS) as subscriber:
        await subscriber.subscribe("news")
        with trio.move_on_after(1.5 * IDLE_TIMEOUT_SECONDS):
            await subscriber.messages()
        await link.execute("PUBLISH", "news", "still here")
        assert await subscriber.messages() == [(b"news", b"still here")]


async def test_a_silent_server_is_lost_in_time(redis_server: RedisServer) -> None:
    async with opening(redis_server.url) as subscriber:
        subscriber.timeout_seconds = 0.4
        start = trio.current_time()
        await subscriber.subscribe("news")
        with redis_server.paused():
            with pytest.raises(RedisLost, match=r"silent for 0\.4 s"):
                await subscriber.messages()
            assert 0.35 < trio.current_time() - start < TIMEOUT_SECONDS


async def test_a_pause_of_this_process_is_no_silence(redis_server: RedisServer) -> None:
    async with opening(redis_server.url, 1.0) as subscriber:
        await subscriber.subscribe("news")
        with trio.move_on_after(0.5):
            await subscriber.messages()
        for _ in range(3):
            time.sleep(1.1)  # noqa: ASYNC251
            with trio.move_on_after(0.02):
                await subscriber.messages()
        with trio.move_on_after(1.1):
            await subscriber.messages()


async def test_a_subscriber_that_is_thrown_out(redis_server: RedisServer) -> None:
    async with opening(redis_server.url) as subscriber:
        await subscriber.subscribe("news")
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        with pytest.raises(RedisLost, match="closed the connection"):
            await subscriber.messages()


async def test_the_connection_is_closed_with_its_block(redis_server: RedisServer) -> None:
    def open_connections() -> int:
        return str(redis_server.command("CLIENT", "LIST")).count("the-tests")

    before = open_connections()

    async def fail() -> NoReturn:
        async with opening(redis_server.url) as link:
            await link.execute("PING")
            assert open_connections() == before + 1
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await fail()
    with trio.fail_after(30):
        while open_connections() > before:  # noqa: ASYNC110
            await trio.sleep(0.01)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_is_reset_at_once_is_lost_like_any_other(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop may have let go of the socket before anybody looks at it."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            async def connect_and_be_reset(target: RedisTarget) -> anyio.abc.SocketStream:
                stream = await anyio.connect_tcp("127.0.0.1", server.getsockname()[1])
                connection, _ = server.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
                await anyio.wait_all_tasks_blocked()
                return stream

            monkeypatch.setattr("bridge.links.redis._connect", connect_and_be_reset)
            with pytest.raises(RedisLost, match=r"^the connection to Redis|closed the connection"):
                async with opening("redis://127.0.0.1:1"):
                    pass

    run_on(loop, main)
