#!/opt/bridge/bin/python -IS
"""Ask the bridge in this container how it is: `healthcheck [PATH]` exits with 0 where the answer is 200, else with 1.

PATH is ``/health`` by default; ``/ready`` also wants a live source. The port is `BRIDGE_PORT`, else that default which
answers, 8000 of `serve` or 8001 of `listen`. It runs every few seconds in every container, beside a bridge that may be
starting, so it imports next to nothing: Python's HTTP client takes five times as long. The image has no curl.
"""

import os
import socket
import sys

DEFAULT_PORTS = ("8000", "8001")
TIMEOUT_SECONDS = 3.0
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104


def main(path: str = "/health") -> int:
    """The exit code; says on standard error what is wrong."""
    port = os.environ.get("BRIDGE_PORT")
    for candidate in (port,) if port else DEFAULT_PORTS:
        try:
            status = ask(int(candidate), path)
        except ConnectionRefusedError:
            continue
        except OSError as error:
            return complain(f"port {candidate}: {error}")
        return 0 if status == "200" else complain(f"{path} answers {status or 'nothing'}")
    return complain("nothing listens" + (f" on port {port}" if port else ""))


def ask(port: int, path: str) -> str:
    """The status of the answer, empty without one. Raises OSError."""
    host = os.environ.get("BRIDGE_HOST", "")
    connection = socket.create_connection(("127.0.0.1" if host in EVERYWHERE else host, port), TIMEOUT_SECONDS)
    with with_tls(connection) if os.environ.get("BRIDGE_TLS_CERT") else connection as stream:
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        with stream.makefile("rb") as answer:
            return answer.readline(100).decode("latin-1")[9:12]


def with_tls(connection: socket.socket) -> socket.socket:
    """The same through TLS, whatever the certificate: its name is not that of the loopback address."""
    import ssl

    return ssl._create_unverified_context().wrap_socket(connection)  # noqa: S323


def complain(what: str) -> int:
    print(what, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
