"""nchan, the pub/sub module of nginx: Debian's, WebSocket subscribers, messages published over HTTP.

Publishing is pipelined on one connection that is kept open. As Debian configures it nginx has a worker a processor;
with one worker nothing has to go from one to the other.
"""

import contextlib
import select
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.lib.bridge import Servers
from benchmarks.lib.failure import BenchmarkFailed
from benchmarks.lib.machine import command_version
from benchmarks.lib.processes import tree
from benchmarks.lib.publisher import PAYLOAD_BYTES, payload
from benchmarks.lib.receiver import ClientForm
from benchmarks.lib.system import Running, System
from benchmarks.peers.common import daemon, free_port, without

NGINX, MODULE = Path("/usr/sbin/nginx"), Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
PUBLISH_SECONDS = 60.0
MOST_MESSAGES = 5000
"""It numbers the messages of one second with 15 bits; a client that is sent more than 32,767 in one hears no more."""
CONFIGURATION = """
daemon off;
user root;
load_module {module};
worker_processes {workers};
worker_rlimit_nofile 20000;
pid {directory}/pid;
error_log stderr error;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1d;
    nchan_shared_memory_size 512M;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /subscribe {{ nchan_subscriber websocket; nchan_channel_id m; }}
        location = /publish {{
            nchan_publisher http;
            nchan_channel_id m;
            nchan_message_buffer_length 100000;
            nchan_message_timeout 10s;
        }}
    }}
}}
"""
ACCEPTED = b"HTTP/1.1 20"


def publication(number: int) -> bytes:
    head = f"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {PAYLOAD_BYTES}\r\n\r\n"
    return (head + payload(number)).encode()


def publish(connection: socket.socket, requests: bytes, count: int) -> None:
    """Send all requests at once, and read the answers to all. The socket does not block."""
    left, accepted, tail = memoryview(requests), 0, b""
    while accepted < count:
        readable, writable, _ = select.select([connection], [connection] if left else [], [], PUBLISH_SECONDS)
        if not readable and not writable:
            raise BenchmarkFailed(f"nchan took {accepted} of {count} messages within {PUBLISH_SECONDS:g} s")
        if writable:
            left = left[connection.send(left[: 1 << 16]) :]
        if readable:
            data = connection.recv(1 << 16)
            if not data:
                raise BenchmarkFailed("nchan closed the publisher's connection")
            answers = tail + data
            accepted += answers.count(ACCEPTED)
            tail = answers[-len(ACCEPTED) + 1 :]


@contextlib.contextmanager
def start(workers: str) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        configuration = Path(directory, "nginx.conf")
        configuration.write_text(CONFIGURATION.format(module=MODULE, workers=workers, directory=directory, port=port))
        with (
            daemon([NGINX, "-c", configuration, "-p", directory], port, Path(directory, "log")) as pid,
            socket.create_connection(("127.0.0.1", port), 10) as connection,
        ):
            connection.setblocking(False)
            yield Running(
                port,
                ClientForm("/subscribe"),
                lambda: tree(pid),
                lambda count: publish(connection, b"".join(map(publication, range(count))), count),
                lambda number: publish(connection, publication(number), 1),
            )


def system(name: str, workers: str) -> System:
    def begin(_: Servers) -> contextlib.AbstractContextManager[Running]:
        return start(workers)

    return System(
        name,
        "peer",
        begin,
        promises="a buffer of messages to resume from; what has left it is lost, and nobody says so",
        most_messages=MOST_MESSAGES,
        source="HTTP POST on one connection",
        missing=lambda: without(NGINX, MODULE),
        versions=lambda: {"nginx": command_version(str(NGINX), "-v") or "unknown", "nchan": debian_version()},
    )


def debian_version() -> str:
    return command_version("dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan") or "unknown"


SYSTEMS = (system("nchan, one worker", "1"), system("nchan, a worker a processor", "auto"))
