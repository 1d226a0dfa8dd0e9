"""Limits and ends: full, too slow, draining, a short history. On processes of its own with small numbers."""

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from conformance.lib.clients import Closed, Message, PythonClient, Refused, WebSocketClient
from conformance.lib.deployment import Deployment
from conformance.lib.face import Open
from conformance.lib.given import Place
from conformance.lib.processes import Nursery, Process
from conformance.lib.sse import stream
from conformance.lib.story import Story, cursor_of, problems
from conformance.lib.wait import wait_for

pytestmark = pytest.mark.anywhere

SMALL_BUFFER = "1000000"
LONG = 4000
"""Events of nearly 8,000 bytes: more than sockets between two processes hold."""
STEP = 100
"""So many of them fit into a buffer: who reads them before more are sent is never too slow."""


def _server(deployment: Deployment, processes: Nursery, **settings: str) -> Process:
    settings = {**deployment.settings, "BRIDGE_PORT": "0", **settings}
    return processes.start("serve", "--no-listener", **settings).listening().healthy()


@pytest.mark.parametrize("kind", ["python", "node"])
def test_full(deployment: Deployment, processes: Nursery, open_client: Open, kind: str) -> None:
    """`BRIDGE_MAX_CLIENTS`: more get 503 with Retry-After, and SSE 200, `retry:` and the end; a free place is taken."""
    place = Place("small", _server(deployment, processes, BRIDGE_MAX_CLIENTS="2").url)
    first, _ = open_client(place), open_client(place)
    with pytest.raises(Refused) as refused:
        open_client(place, "/ws", kind)
    assert refused.value.status == 503
    assert int(refused.value.headers["retry-after"]) >= 1
    with stream(place.url, "/sse") as opened:
        assert opened.status == 200
        (block,) = opened.end()
        assert block.data is None
        assert str(block.retry).isdecimal()
    assert deployment.get(place, "/health").status == 200
    first.close()

    def taken() -> bool:
        try:
            open_client(place, "/ws", kind)
        except Refused:
            return False
        return True

    wait_for(taken, "a free place")


@pytest.fixture
def slow_client() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _stalled(stack: ExitStack, place: Place, path: str) -> PythonClient:
    """A client that reads its first message, and then nothing until it is asked to."""
    host, _, port = place.url.removeprefix("http://").partition(":")
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect((host, int(port)))
    client = PythonClient(place.url.replace("http", "ws", 1) + path, compression=None, max_queue=1, sock=narrow)
    stack.callback(client.close)
    client.subscribed = client.next()
    return client


def _send_long(deployment: Deployment, run: str, first: int, last: int) -> None:
    payload = f"json_build_object('run', '{run}', 'n', n, 'x', repeat('x', 7900))::text"
    deployment.psql.rows(f"SELECT count(pg_notify('match_change', {payload})) FROM generate_series({first}, {last}) n")


def test_too_slow(
    deployment: Deployment, processes: Nursery, open_client: Open, slow_client: ExitStack, run: str
) -> None:
    """A client that reads too slowly is closed with 4008, and resumes with `after`; others notice nothing."""
    place = Place("narrow", _server(deployment, processes, BRIDGE_CLIENT_BUFFER_BYTES=SMALL_BUFFER).url)
    path = f"/ws?where.run={run}"
    slow, quick = _stalled(slow_client, place, path), open_client(place, path)
    last = 0
    while deployment.get(place, "/status").json()["clients"] == 2:
        assert last < LONG, "the slow client is still there"
        _send_long(deployment, run, last + 1, last + STEP)
        assert [payload["n"] for payload in quick.payloads(STEP)] == list(range(last + 1, last + STEP + 1))
        last += STEP
    numbers, cursor = [], slow.subscribed["position"]
    while isinstance(taken := slow.take(20), Message):
        message = taken.json()
        numbers.append(message["payload"]["n"])
        cursor = cursor_of(message)
    assert isinstance(taken, Closed)
    assert taken.code == 4008
    assert 0 < len(numbers) < last
    again = open_client(place, f"{path}&after={quote(cursor)}")
    numbers += [payload["n"] for payload in again.payloads(last - len(numbers), 60)]
    assert numbers == list(range(1, last + 1))


def test_too_slow_with_gaps(deployment: Deployment, processes: Nursery, slow_client: ExitStack, run: str) -> None:
    """`BRIDGE_SLOW_CLIENT=gap`: what does not fit is dropped, a `gap` (`slow_client`) says so, it stays connected."""
    settings = {"BRIDGE_CLIENT_BUFFER_BYTES": SMALL_BUFFER, "BRIDGE_SLOW_CLIENT": "gap"}
    place = Place("narrow", _server(deployment, processes, **settings).url)
    slow = _stalled(slow_client, place, f"/ws?where.run={run}")
    others = PythonClient(place.url.replace("http", "ws", 1) + f"/ws?where.run={run}&where.n={LONG}")
    slow_client.callback(others.close)
    others.next()
    _send_long(deployment, run, 1, LONG)
    others.next()  # by now all has been sent to whoever reads
    story, last = Story(), LONG
    deadline = time.monotonic() + 60
    while last not in story.numbers:
        assert time.monotonic() < deadline, f"{last} does not come"
        taken = slow.take(0.5)
        if isinstance(taken, Message):
            story.append(taken.json())
        else:  # it has read all: one more event, which fits
            assert taken is None, taken
            last += 1
            deployment.notify("match_change", {"run": run, "n": last})
    assert {gap["reason"] for gap in story.gaps} == {"slow_client"}
    assert len(story.numbers) < LONG
    assert not problems(story, last)


def test_draining(deployment: Deployment, processes: Nursery, open_client: Open, run: str) -> None:
    """SIGTERM: not ready, still healthy; no new clients; those here are closed with 1001, spread over
    `BRIDGE_DRAIN_SECONDS`, and hear events until then; exit code 0."""
    process = _server(deployment, processes, BRIDGE_DRAIN_SECONDS="30")  # the last of three goes after twenty
    place = Place("draining", process.url)
    clients = [open_client(place, f"/ws?where.run={run}") for _ in range(3)]
    with ThreadPoolExecutor(len(clients)) as threads:
        ends = [threads.submit(_to_the_end, client) for client in clients]
        process.process.send_signal(signal.SIGTERM)
        wait_for(lambda: process.get("/ready").status == 503, "not ready")
        assert process.get("/health").status == 200
        assert process.get("/health").json()["draining"] is True
        with pytest.raises(Refused) as refused:
            open_client(place)
        assert refused.value.status == 503
        assert "retry-after" in refused.value.headers
        with stream(place.url, "/sse") as opened:
            assert opened.status == 200
            assert [block.data for block in opened.end()] == [None]
        deployment.notify("match_change", {"run": run})
        ended = sorted((end.result() for end in ends), key=lambda end: end.at)
    for end in ended:
        assert end.closed.code == 1001
        assert end.closed.reason.removeprefix("retry=").isdecimal()
    assert ended[-1].at - ended[0].at > 1, ended
    assert ended[-1].heard == [{"run": run}]
    assert process.wait() == 0


@dataclass
class End:
    """What a client heard until its connection ended, how, and when."""

    heard: list[object]
    closed: Closed
    at: float


def _to_the_end(client: WebSocketClient) -> End:
    heard: list[object] = []
    while isinstance(taken := client.take(60), Message):
        heard += [message["payload"] for message in [taken.json()] if message["type"] == "notification"]
    assert taken is not None, "still open after a minute"
    return End(heard, taken, time.monotonic())


def test_a_stream_ends_with_its_server(deployment: Deployment, processes: Nursery) -> None:
    """SSE: when the server drains the stream ends; it said with `retry:` when to come back."""
    process = _server(deployment, processes, BRIDGE_DRAIN_SECONDS="0")
    with stream(process.url, "/sse") as opened:
        first = opened.block()
        assert first is not None
        assert str(first.retry).isdecimal()
        opened.message()
        assert process.end() == 0
        opened.end()


def test_a_history_that_is_too_short(deployment: Deployment, processes: Nursery, open_client: Open, run: str) -> None:
    """`BRIDGE_HISTORY_ENTRIES`: who comes back too late gets one `gap`, `history_trimmed`, and what is still there."""
    settings = {"USE_REDIS_NOTIFIER": "false", "BRIDGE_HISTORY_ENTRIES": "5"}
    place = Place("forgetful", _server(deployment, processes, **settings).url)
    first = open_client(place, f"/ws?where.run={run}")
    deployment.notify("match_change", *[{"run": run, "n": n} for n in range(20)])
    first.payloads(20)
    again = open_client(place, f"/ws?where.run={run}&after={quote(first.subscribed['position'])}")
    gap = again.next()
    assert (gap["type"], gap["reason"]) == ("gap", "history_trimmed")
    numbers = [again.next()["payload"]["n"]]
    while numbers[-1] != 19:
        numbers.append(again.next()["payload"]["n"])
    assert numbers == list(range(numbers[0], 20))
    assert len(numbers) >= 5
    again.silent(0.1)


def test_other_channels(deployment: Deployment, processes: Nursery, open_client: Open, run: str) -> None:
    """`BRIDGE_CHANNELS` changed: a cursor from before gets one `gap`, `channels_changed` or `unknown_position`."""
    before = _server(deployment, processes, USE_REDIS_NOTIFIER="false", BRIDGE_CHANNELS="match_change")
    cursor = open_client(Place("before", before.url), f"/ws?where.run={run}").subscribed["position"]
    before.end()
    after = _server(deployment, processes, USE_REDIS_NOTIFIER="false", BRIDGE_CHANNELS="match_change,More")
    client = open_client(Place("after", after.url), f"/ws?where.run={run}&after={quote(cursor)}")
    gap = client.next()
    assert (gap["type"], gap.get("pending", False)) == ("gap", False)
    assert gap["reason"] in ("channels_changed", "unknown_position")
    deployment.notify("More", {"run": run})
    assert client.payloads(1) == [{"run": run}]
