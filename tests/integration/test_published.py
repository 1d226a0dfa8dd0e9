"""What applications publish, from Redis to clients: beside the log, through whole processes."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import redis
import trio

from bridge.core import events
from bridge.core.events import Published
from bridge.errors import RedisUnusable
from bridge.links.redis import RedisLink
from bridge.links.redis_log import RedisLog
from bridge.settings import DEFAULT_CHANNELS, Settings
from tests.support.pod_process import pod
from tests.support.process import BridgeProcess, bridge
from tests.support.redis import RedisServer
from tests.support.redis_log import heard, linked, log_through
from tests.support.redis_log import link as link
from tests.support.redis_log import log as log
from tests.support.redis_log import prefix as prefix
from tests.support.redis_log import subscriber as subscriber
from tests.support.sse import EventSource
from tests.support.stack import Stack
from tests.support.workers import clients, send
from tests.support.workers import settings as settings

DIGEST = Settings(channels=DEFAULT_CHANNELS).digest
GARBAGE = [
    b"",
    b"\xff\x00",
    b"not json",
    b"[" * 100_000,
    events.published("elsewhere", b"1").data,
    b'{"type":"marker","id":"9-9"}',
    b'{"type":"notification","id":"9999999999999999-1","channel":"match_change","payload":1}',
    b'{"type":"notification","id":null,"channel":"match_change","payload":"' + b"x" * 8000 + b'"}',
]


async def test_one_call_says_it_on_both_channels(log: RedisLog, subscriber: RedisLink) -> None:
    said = events.published("match_change", b'{"a":[1,2]}')
    assert await log.publish(said) == 0
    await subscriber.subscribe(log.events_channel, log.published_channel)
    assert await log.publish(said) == 1
    assert sorted(await heard(subscriber, 2)) == sorted(
        (channel.encode(), b'{"type":"notification","id":null,"channel":"match_change","payload":{"a":[1,2]}}')
        for channel in (log.events_channel, log.published_channel)
    )
    assert await log.read(None) == []


async def test_the_right_to_publish_there_is_enough(redis_server: RedisServer, prefix: str) -> None:
    channels = f"&{prefix}:events", f"&{prefix}:*:published"
    redis_server.command("ACL", "SETUSER", "app", "on", ">geheim", "resetchannels", *channels, "+publish")
    async with linked(redis_server, "app:geheim@") as link:
        assert await log_through(link, prefix, database=None).publish(events.published("c", b"1")) == 0


async def test_without_the_right_to_publish_there_it_says_so(redis_server: RedisServer, prefix: str) -> None:
    redis_server.command("ACL", "SETUSER", "reader", "on", ">geheim", f"~{prefix}:*", "resetchannels", "+@all")
    async with linked(redis_server, "reader:geheim@") as link:
        with pytest.raises(RedisUnusable, match="ACL rules must allow"):
            await log_through(link, prefix, database=None).publish(events.published("c", b"1"))


def publish(stack: Stack, settings: dict[str, str], *said: Published) -> int:
    """How many workers got the last one."""

    async def publish_all() -> int:
        async with linked(stack.redis) as link:
            log = RedisLog(link, settings["BRIDGE_REDIS_PREFIX"], DIGEST, 1)
            return [await log.publish(one) for one in said][-1]

    return trio.run(publish_all)


def publication(number: int, channel: str = "match_change", **fields: object) -> Published:
    return events.published(channel, json.dumps({"n": number, **fields}).encode())


@contextmanager
def sse(running: BridgeProcess, path: str) -> Iterator[tuple[http.client.HTTPResponse, EventSource]]:
    """A stream that has been told `subscribed`."""
    connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=30)
    try:
        connection.request("GET", path)
        response, source = connection.getresponse(), EventSource()
        read(response, source, 1)
        yield response, source
    finally:
        connection.close()


def read(response: http.client.HTTPResponse, source: EventSource, count: int) -> None:
    while len(source.blocks) < count:
        data = response.read1()
        assert data
        source.feed(data)


def test_clients_get_it_with_their_own_cursor_and_everybody_sees_it(stack: Stack, settings: dict[str, str]) -> None:
    with (
        redis.Redis(port=stack.redis.port, protocol=2, socket_timeout=30) as connection,
        connection.pubsub(ignore_subscribe_messages=True) as everybody,
        bridge(settings, "serve") as running,
    ):
        everybody.subscribe(f"{settings['BRIDGE_REDIS_PREFIX']}:events")
        running.wait_until_ready()
        with (
            running.client() as whole,
            running.client("/ws/match/7/stats") as seven,
            sse(running, "/sse/match/7/stats") as (response, source),
        ):
            send(stack, '{"n": 0, "match_id": 7}')
            first = whole.next()
            assert publish(stack, settings, publication(1, match_id=7), publication(2, match_id=8)) == 1
            published = whole.take(2)
            assert published == [
                {
                    "type": "notification",
                    "id": None,
                    "channel": "match_change",
                    "payload": {"n": n, "match_id": 6 + n},
                    "cursor": first["id"],
                }
                for n in (1, 2)
            ]
            send(stack, '{"n": 3, "match_id": 7}')
            assert [message["payload"]["n"] for message in seven.take(3)] == [0, 1, 3]
            read(response, source, 4)
            assert [json.loads(block.data)["payload"]["n"] for block in source.blocks[1:]] == [0, 1, 3]
            assert source.blocks[2].last_event_id == first["id"]
            assert source.blocks[2].type == "message"
            last = whole.next()
            with running.client(f"/ws?after={published[-1]['cursor']}") as resumed:
                assert resumed.next()["id"] == last["id"]
        heard_there = everybody.listen()
        seen = [json.loads(next(heard_there)["data"]) for _ in range(4)]
        assert [message["payload"]["n"] for message in seen] == [0, 1, 2, 3]
        assert [message["id"] is None for message in seen] == [False, True, True, False]
        assert "WARNING" not in running.log()


def test_garbage_harms_nothing(stack: Stack, settings: dict[str, str]) -> None:
    where = f"{settings['BRIDGE_REDIS_PREFIX']}:{DIGEST}:published"
    with bridge(settings, "serve") as running:
        running.wait_until_ready()
        with running.client() as client:
            for number in range(5):
                for message in GARBAGE:
                    assert stack.redis.command("PUBLISH", where, message) == 1
                send(stack, str(number))
                publish(stack, settings, publication(number))
            got = client.take(10)
        payloads = [message["payload"] for message in got]
        assert sorted(payload for payload in payloads if isinstance(payload, int)) == list(range(5))
        assert [payload["n"] for payload in payloads if isinstance(payload, dict)] == list(range(5))
        assert running.status()["mode"] == "redis"
        assert json.loads(running.get("/health")[1])["status"] == "ok"
        assert running.log().count("WARNING") == 1
        assert "Traceback" not in running.log()


def test_every_worker_of_a_pod_gives_it_to_its_clients_once(stack: Stack, settings: dict[str, str]) -> None:
    with pod(settings) as running, clients(running.running, 4) as connected:
        assert publish(stack, settings, publication(1)) == 2
        send(stack, "2")
        for client in connected:
            assert [message["payload"] for message in client.take(2)] == [{"n": 1}, 2]
