"""How many clients connect per second to one bridge process, and what each of them costs.

    python benchmarks/handshakes.py [--clients 5000] [--stay SECONDS]

Starts `python -m bridge serve` with embedded servers, without Redis, and a child process that opens all connections at
once, as after a deploy: raw sockets, one `epoll`, a handshake counted when `subscribed` has come. The same child does
the same to a bare loop that accepts, reads, and answers 101 without a look: the ratio says what the bridge adds to what
this machine can do at this moment. With `--stay` all clients stay that long, and those still connected are counted.
"""

import argparse
import contextlib
import multiprocessing
import os
import re
import resource
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext

HEAD = (
    b"GET /ws?channel=match_change HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SUBSCRIBED = b'"subscribed"'
BARE_ANSWER = b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + SUBSCRIBED
BACKLOG = 4096
CONNECTS_A_TURN = 64
AT_ONCE = 4000
"""The kernel's queue holds 4096 (somaxconn); whom it drops comes back a second later, whatever the server does."""
SECONDS = 120.0
PING, PONG, CLOSE = b"\x89\x00", b"\x8a\x80\0\0\0\0", 0x88
SPAWN: SpawnContext = multiprocessing.get_context("spawn")


def raise_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connect_all(port: int, count: int, control: Connection) -> None:
    """Connect so many clients at once; send when each was told `subscribed`, in seconds since the first connect.

    Then they stay and answer pings; for every message on `control`, send how many are still connected.
    """
    raise_limit()
    poll = select.epoll()
    clients: dict[int, socket.socket] = {}
    received: dict[int, bytes] = {}
    times: list[float] = []
    started = time.monotonic()
    while len(times) < count and time.monotonic() < started + SECONDS:
        room = AT_ONCE - (len(clients) - len(times))
        for _ in range(min(CONNECTS_A_TURN, count - len(clients), room)):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            clients[client.fileno()] = client
            poll.register(client, select.EPOLLOUT)
        for number, events in poll.poll(0 if room > 0 and len(clients) < count else 1.0, 512):
            client = clients[number]
            if events & select.EPOLLOUT:
                client.send(HEAD)
                poll.modify(number, select.EPOLLIN)
                continue
            data = received.get(number, b"") + client.recv(65536)
            received[number] = data
            if SUBSCRIBED in data:
                times.append(time.monotonic() - started)
                poll.unregister(number)
            elif not data or b" 101 " not in data:
                raise SystemExit(f"refused: {data!r}")
    control.send(times)
    for number in clients:
        poll.register(number, select.EPOLLIN)
    poll.register(control.fileno(), select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            if number == control.fileno():
                control.recv()
                control.send(len(clients))
            elif not answer(clients[number]):
                poll.unregister(number)
                clients.pop(number).close()


def answer(client: socket.socket) -> bool:
    """Read what has come and answer a ping; False where the connection has ended."""
    try:
        data = client.recv(65536)
        if PING in data:
            client.send(PONG)
    except OSError:
        return False
    return bool(data) and data[0] != CLOSE


def serve_bare(ready: Connection) -> None:
    """Accept, read, answer; nothing else."""
    raise_limit()
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.setblocking(False)
    ready.send(listener.getsockname()[1])
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        client, _ = listener.accept()
                        client.setblocking(False)
                        clients[client.fileno()] = client
                        poll.register(client, select.EPOLLIN)
            elif clients[number].recv(65536):
                clients[number].send(BARE_ANSWER)
            else:
                poll.unregister(number)
                clients.pop(number).close()


@contextlib.contextmanager
def bare_server() -> Iterator[int]:
    """The port of the bare loop."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=serve_bare, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def bridge(clients: int) -> Iterator[tuple[int, int]]:
    """Port and process id of a bridge that takes so many clients."""
    ours = re.compile(r"BRIDGE_|DB_|DATABASE_URL$|REDIS_URL$|PG")
    environment = {key: value for key, value in os.environ.items() if not ours.match(key)}
    environment |= {"USE_REDIS_NOTIFIER": "false", "BRIDGE_LOG_LEVEL": "warning", "BRIDGE_DRAIN_SECONDS": "0"}
    arguments = ["--port", "0", "--max-clients", str(clients)]
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", "serve", *arguments], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert process.stdout is not None
        found = re.search(rb":(\d+)\n", process.stdout.readline())
        if found is None:
            raise SystemExit("the bridge did not start")
        time.sleep(1.0)  # it has found its source
        yield int(found[1]), process.pid
    finally:
        process.terminate()
        process.wait(30)


def storm(port: int, count: int, stay_seconds: float = 0.0, pid: int | None = None) -> list[float]:
    """Times of a storm against this port; of a bridge, prints what it costs."""
    before = resident_bytes(pid) if pid else 0
    here, there = SPAWN.Pipe()
    child = SPAWN.Process(target=connect_all, args=(port, count, there), daemon=True)
    child.start()
    try:
        times: list[float] = here.recv()
        if pid:
            print(f"memory per client: {(resident_bytes(pid) - before) / count / 1024:.1f} KiB of the server")
        if stay_seconds:
            time.sleep(stay_seconds)
            here.send("how many?")
            print(f"after {stay_seconds:g} s {here.recv()} of {count} are connected")
    finally:
        child.kill()
        child.join()
    return times


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def report(name: str, times: list[float], count: int) -> float:
    if len(times) < count:
        raise SystemExit(f"{name}: only {len(times)} of {count} connected within {SECONDS:g} s")
    rate = count / times[-1]
    cuts = statistics.quantiles(times, n=100)
    print(f"{name:10} {rate:8.0f} handshakes/s   all after {times[-1]:.2f} s, half after {cuts[49]:.2f} s")
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--stay", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    with bare_server() as port:
        bare = report("bare loop", storm(port, options.clients), options.clients)
    with bridge(options.clients) as (port, pid):
        times = storm(port, options.clients, options.stay, pid)
        rate = report("bridge", times, options.clients)
    print(f"the bridge makes {rate / bare:.0%} of the bare loop's handshakes")


if __name__ == "__main__":
    main()
