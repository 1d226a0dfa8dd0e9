#!/opt/bridge/bin/python
"""Ask the bridge in this container how it is: `healthcheck [PATH]` exits with 0 where the answer is 200, else with 1.

PATH is ``/health`` by default; ``/ready`` also wants a live source. The port is `BRIDGE_PORT`, else that default which
answers, 8000 of `serve` or 8001 of `listen`. The image has no curl.
"""

import os
import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection

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
        except (OSError, HTTPException) as error:
            return complain(f"port {candidate}: {error}")
        return 0 if status == 200 else complain(f"{path} answers {status}")
    return complain("nothing listens" + (f" on port {port}" if port else ""))


def ask(port: int, path: str) -> int:
    """The status of the answer. Raises OSError or HTTPException."""
    host = os.environ.get("BRIDGE_HOST", "")
    host = "127.0.0.1" if host in EVERYWHERE else host
    if os.environ.get("BRIDGE_TLS_CERT"):
        context = ssl._create_unverified_context()  # noqa: S323, the name in the certificate is not this one
        connection: HTTPConnection = HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)
    else:
        connection = HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def complain(what: str) -> int:
    print(what, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
