"""What clients that have stopped reading cost the others: latencies to 900 clients while 100 more are stalled.

    python benchmarks/stalled.py [--clients 1000] [--stalled 100] [--per-second 20] [--seconds 15]

Starts `python -m bridge serve` with embedded servers and a child process that holds all clients. Three phases in one
run: everybody reads; some are stalled, with full sockets, and the bridge buffers for them; they are gone. The readers
are the same in all phases. A latency goes from before the NOTIFY to after the client's read.
"""

import argparse
import json
import re
import select
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from multiprocessing.connection import Connection

from handshakes import HEAD, SPAWN, SUBSCRIBED, bridge, raise_limit

CHANNEL = "match_change"
PING = b"\x89\x00"
PONG = b"\x8a\x80\0\0\0\0"
FILLER_BYTES = 7000
FILLERS = 600
ARRIVE_SECONDS = 30
SENT = re.compile(rb'"sent": ?([0-9.]+)')


def hold_clients(port: int, readers: int, stalled: int, control: Connection) -> None:
    """Connect all; for a ``True`` on `control` send the latencies since the last one; ``False`` ends the stalled."""
    raise_limit()
    poll = select.epoll()
    reading = {client.fileno(): client for client in (connect(port) for _ in range(readers))}
    lame = [connect(port, stalled=True) for _ in range(stalled)]
    for number in reading:
        poll.register(number, select.EPOLLIN)
    poll.register(control.fileno(), select.EPOLLIN)
    control.send("ready")
    latencies: list[float] = []
    while True:
        for number, _ in poll.poll():
            if number != control.fileno():
                data = reading[number].recv(1 << 20)
                now = time.monotonic()
                if not data:
                    raise SystemExit("a reader was disconnected")
                if PING in data:
                    reading[number].send(PONG)
                latencies += [now - float(sent) for sent in SENT.findall(data)]
            elif control.recv():
                control.send(latencies)
                latencies = []
            else:
                for client in lame:
                    client.close()
                lame.clear()


def connect(port: int, *, stalled: bool = False) -> socket.socket:
    """A client that was told `subscribed`."""
    client = socket.socket()
    if stalled:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(HEAD)
    received = b""
    while SUBSCRIBED not in received:
        received += client.recv(65536)
    return client


class Notifier:
    """Sends notifications through `python -m bridge notify`, which finds the embedded server by itself."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bridge", "notify", CHANNEL, "-"], stdin=subprocess.PIPE, text=True
        )

    def send(self, payload: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(payload) + "\n")
        self._process.stdin.flush()

    def paced(self, per_second: float, seconds: float) -> None:
        """So many a second, each with the time at which it was sent."""
        due = time.monotonic()
        for _ in range(int(per_second * seconds)):
            due += 1 / per_second
            time.sleep(max(0.0, due - time.monotonic()))
            self.send({"sent": round(time.monotonic(), 6)})

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def buffered_bytes(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        found = re.search(rb"^notify_bridge_buffered_bytes (\S+)", answer.read(), re.MULTILINE)
    return int(float(found[1])) if found else 0


def report(name: str, latencies: list[float], expected: int) -> float:
    """Print one phase; its p99 in seconds."""
    if len(latencies) != expected:
        raise SystemExit(f"{name}: {len(latencies)} deliveries, expected {expected}")
    cuts = statistics.quantiles(latencies, n=1000)
    print(f"{name:22} median {cuts[499] * 1000:7.2f} ms   p99 {cuts[989] * 1000:7.2f}   p99.9 {cuts[998] * 1000:7.2f}")
    return cuts[989]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--stalled", type=int, default=100)
    parser.add_argument("--per-second", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=15)
    options = parser.parse_args()
    readers = options.clients - options.stalled
    expected = readers * int(options.per_second * options.seconds)
    with bridge(options.clients) as (port, _):
        here, there = SPAWN.Pipe()
        child = SPAWN.Process(target=hold_clients, args=(port, readers, options.stalled, there), daemon=True)
        child.start()
        here.recv()
        notifier = Notifier()

        def phase(name: str) -> float:
            notifier.paced(options.per_second, options.seconds)
            latencies: list[float] = []
            for _ in range(ARRIVE_SECONDS):
                here.send(True)
                latencies += here.recv()
                if len(latencies) >= expected:
                    break
                time.sleep(1)
            return report(name, latencies, expected)

        try:
            notifier.paced(options.per_second, 2)  # everything is warm
            time.sleep(2)
            here.send(True)
            here.recv()
            alone = phase("nobody's socket is full")
            for _ in range(FILLERS):
                notifier.send({"filler": "x" * FILLER_BYTES})
                time.sleep(0.02)
            time.sleep(2)
            held = buffered_bytes(port)
            beside = phase(f"{options.stalled} are stalled")
            print(f"buffered for the stalled: {held:,} bytes before, {buffered_bytes(port):,} after (shared ones once)")
            here.send(False)
            after = phase("the stalled are gone")
        finally:
            notifier.close()
            child.kill()
            child.join()
    print(f"p99 beside stalled clients: {beside / statistics.mean([alone, after]):.2f} times that without them")


if __name__ == "__main__":
    main()
