"""What tests of `--workers` share: settings, crowds of clients, and numbers."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fleet import Traffic
from tests.support.pod_process import PodProcess
from tests.support.process import BridgeProcess, JsonClient, wait_until
from tests.support.stack import Stack
from tests.support.traffic import Writer
from tests.support.traffic import clients as listening_clients

LISTENING = "SELECT application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' ORDER BY 1"


@pytest.fixture
def settings(stack: Stack) -> dict[str, str]:
    return pod_settings(stack)


def pod_settings(stack: Stack) -> dict[str, str]:
    """For a pod with a log of its own."""
    return stack.environment(BRIDGE_DRAIN_SECONDS="1")


def without_redis(settings: dict[str, str]) -> dict[str, str]:
    return settings | {"USE_REDIS_NOTIFIER": "false", "REDIS_URL": "redis://127.0.0.1:1"}


def sessions(stack: Stack) -> list[str]:
    """Who listens, as the database shows it."""
    return [row[0] for row in stack.postgres.execute(LISTENING)]


def send(stack: Stack, payload: str, channel: str = "match_change") -> None:
    stack.postgres.execute("SELECT pg_notify(%s, %s)", channel, payload)


@contextmanager
def clients(running: BridgeProcess, count: int) -> Iterator[list[JsonClient]]:
    """So many clients of a pod, of whom every worker has some.

    A worker that gets no processor for some milliseconds has no turn; then one client leaves, and another one comes.
    """
    with ExitStack() as all_of_them:
        made: list[JsonClient] = []
        counts: list[int] = []

        def spread() -> bool:
            if len(made) == count:
                made.pop(0).connection.close()
            while len(made) < count:
                made.append(all_of_them.enter_context(running.client()))
            wait_until(counted, lambda: f"{counts} clients, and not {count}")
            return all(counts)

        def counted() -> bool:
            counts[:] = [one["clients"] for one in PodProcess(running).workers()]
            return sum(counts) == count

        wait_until(spread, lambda: f"one worker takes them all: {counts}")
        yield made


@contextmanager
def connections(running: BridgeProcess, count: int, *, at_once: bool) -> Iterator[None]:
    """So many clients on bare sockets; `at_once` none waits for the others."""
    parts = urlsplit(running.url)
    head = (
        f"GET /ws HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", parts.port or 80), timeout=30))
            peer.sendall(head)
            if not at_once:
                assert peer.recv(12) == b"HTTP/1.1 101"
            made.append(peer)
        if at_once:
            for peer in made:
                assert peer.recv(12) == b"HTTP/1.1 101"
        yield


@contextmanager
def traffic(stack: Stack, running: BridgeProcess, count: int = 4) -> Iterator[Traffic]:
    """A writer, and clients at all workers."""
    writer = Writer(stack.postgres.url())
    with listening_clients(*[running.url] * count) as made:
        flowing = Traffic(writer.start(), {f"client {n}": client for n, client in enumerate(made)})
        try:
            flowing.flow()
            yield flowing
        finally:
            writer.stop()


def metrics(running: BridgeProcess) -> dict[str, float]:
    """Series by name and labels, as the text shows them."""
    text = running.get("/metrics")[1].decode()
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def measured(running: BridgeProcess, condition: Callable[[dict[str, float]], object]) -> dict[str, float]:
    """Metrics of a pod of which this holds.

    A process that did not answer in time is there with what it said before, and a worker whose supervisor did not
    answer in time speaks of itself alone.
    """
    found: dict[str, float] = {}

    def holds() -> object:
        found.clear()
        found.update(metrics(running))
        return "notify_bridge_process_restarts_total{role=worker}" in found and condition(found)

    wait_until(holds, lambda: f"it stays at {found}")
    return found


def closed(client: JsonClient) -> bool:
    return client.close_code is not None
