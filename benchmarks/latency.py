"""How long a notification takes to a WebSocket client, beside a bare LISTEN on the same server in the same run.

    python benchmarks/latency.py [--url ws://127.0.0.1:8000/ws] [--count 1000] [--per-second 100] DATABASE_URL

Needs a running bridge. Every notification carries the time at which it was sent; the bare LISTEN is psycopg in a
process of its own, as bare as Python can be.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from urllib.parse import urlencode

import psycopg
import websockets.sync.client

CHANNEL = "match_change"


def bare_listen(database_url: str, count: int, result: Connection) -> None:
    """LISTEN until `count` have come; send their latencies in seconds."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'LISTEN "{CHANNEL}"'.encode())
        result.send("ready")
        latencies = []
        for notify in connection.notifies():
            latencies.append(time.monotonic() - float(json.loads(notify.payload)["sent"]))
            if len(latencies) == count:
                break
        result.send(latencies)


def websocket(url: str, count: int, result: Connection) -> None:
    """Follow the bridge until `count` have come; send their latencies in seconds."""
    query = urlencode({"channel": CHANNEL})
    with websockets.sync.client.connect(f"{url}?{query}", proxy=None, compression=None) as connection:
        assert json.loads(connection.recv())["type"] == "subscribed"
        result.send("ready")
        latencies = []
        while len(latencies) < count:
            message = json.loads(connection.recv())
            if message["type"] == "notification":
                latencies.append(time.monotonic() - float(message["payload"]["sent"]))
        result.send(latencies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database_url", metavar="DATABASE_URL")
    parser.add_argument("--url", default="ws://127.0.0.1:8000/ws")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--per-second", type=float, default=100)
    options = parser.parse_args()
    readers = {}
    for name, target, address in (
        ("bare LISTEN", bare_listen, options.database_url),
        ("bridge", websocket, options.url),
    ):
        here, there = multiprocessing.Pipe()
        multiprocessing.Process(target=target, args=(address, options.count, there), daemon=True).start()
        if here.recv() != "ready":
            raise SystemExit(f"{name} did not start")
        readers[name] = here
    with psycopg.connect(options.database_url, autocommit=True) as connection:
        due = time.monotonic()
        for number in range(options.count):
            due += 1 / options.per_second
            time.sleep(max(0.0, due - time.monotonic()))
            payload = json.dumps({"match_id": number, "sent": f"{time.monotonic():.6f}"})
            connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
    print(f"{options.count} notifications, {options.per_second:g} a second; milliseconds")
    for name, reader in readers.items():
        cuts = [1000 * cut for cut in statistics.quantiles(reader.recv(), n=1000)]
        print(f"{name:12} median {cuts[499]:6.2f}   p99 {cuts[989]:6.2f}   p99.9 {cuts[998]:6.2f}")


if __name__ == "__main__":
    main()
