"""NATS with WebSockets: the server of Debian, one subject, and a publisher on a plain TCP connection.

Messages do not come from PostgreSQL: something else would have to bring them. A burst is one `sendall` of PUB lines.
"""

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.lib.bridge import Servers
from benchmarks.lib.machine import command_version
from benchmarks.lib.processes import tree
from benchmarks.lib.publisher import PAYLOAD_BYTES, payload
from benchmarks.lib.receiver import ClientForm
from benchmarks.lib.system import Running, System
from benchmarks.peers.common import daemon, free_port, without

SUBJECT = "m"
UNIT = len(f"MSG {SUBJECT} 1 {PAYLOAD_BYTES}\r\n") + PAYLOAD_BYTES + 2
CONFIGURATION = """
host: 127.0.0.1
port: {port}
ping_interval: "1h"
websocket {{ host: 127.0.0.1, port: {websocket}, no_tls: true, compression: false }}
"""


def masked(text: bytes) -> bytes:
    """One binary frame of a client, masked with zeros. Raises ValueError above 125 bytes."""
    if len(text) > 125:
        raise ValueError("too long")
    return b"\x82%c\0\0\0\0%b" % (0x80 | len(text), text)


HELLO = masked(b'CONNECT {"verbose":false,"protocol":1}\r\n') + masked(f"SUB {SUBJECT} 1\r\nPING\r\n".encode())
FORM = ClientForm("/", ready="PONG", hello=HELLO, unit=UNIT)


def publication(number: int) -> bytes:
    return f"PUB {SUBJECT} {PAYLOAD_BYTES}\r\n{payload(number)}\r\n".encode()


@contextlib.contextmanager
def start(_: Servers) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as directory:
        port, websocket = free_port(), free_port()
        configuration = Path(directory, "nats.conf")
        configuration.write_text(CONFIGURATION.format(port=port, websocket=websocket))
        command: list[str | Path] = ["nats-server", "-c", configuration]
        with (
            daemon(command, websocket, Path(directory, "log")) as pid,
            socket.create_connection(("127.0.0.1", port), 10) as connection,
        ):
            connection.recv(65536)
            connection.sendall(b'CONNECT {"verbose":false}\r\n')
            yield Running(
                websocket,
                FORM,
                lambda: tree(pid),
                lambda count: connection.sendall(b"".join(map(publication, range(count)))),
                lambda number: connection.sendall(publication(number)),
            )


SYSTEM = System(
    "NATS",
    "peer",
    start,
    promises="at most once: lost while away, and nobody says so",
    source="PUB on a TCP connection",
    missing=lambda: without("nats-server"),
    versions=lambda: {"NATS": command_version("nats-server", "--version") or "unknown"},
)
