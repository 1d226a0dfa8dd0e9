"""`deploy/healthcheck.py`, which engines run in the image, against a server that answers as the bridge does."""

import os
import runpy
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.redis import Certificates, make_certificates

SCRIPT = Path(__file__).parents[2] / "deploy/healthcheck.py"


class Bridge(BaseHTTPRequestHandler):
    """Works, but is not ready."""

    def do_GET(self) -> None:
        self.send_response({"/health": 200, "/ready": 503}.get(self.path, 404))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def bridge(certificates: Certificates | None = None) -> Iterator[int]:
    """The port of a bridge, with TLS if there are certificates."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Bridge) as server:
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates.certificate, certificates.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(5)


def check(port: int, *arguments: str, **settings: str) -> tuple[int, str]:
    """The exit code and what it says."""
    environment = {"PATH": os.environ["PATH"], "BRIDGE_PORT": str(port), "BRIDGE_HOST": "0.0.0.0"} | settings
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr.strip()


def test_what_works_is_healthy() -> None:
    with bridge() as port:
        assert check(port) == (0, "")
        assert check(port, "/health") == (0, "")


def test_what_is_not_ready_says_so() -> None:
    with bridge() as port:
        assert check(port, "/ready") == (1, "/ready answers 503")


def test_what_is_not_there_says_so() -> None:
    with bridge() as port:
        pass
    assert check(port) == (1, f"nothing listens on port {port}")


def test_with_tls_any_certificate_will_do(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with bridge(certificates) as port:
        assert check(port, BRIDGE_TLS_CERT=str(certificates.certificate)) == (0, "")
        assert check(port)[0] == 1


def test_without_a_port_both_defaults_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRIDGE_PORT", raising=False)
    monkeypatch.delenv("BRIDGE_HOST", raising=False)
    monkeypatch.delenv("BRIDGE_TLS_CERT", raising=False)
    main = runpy.run_path(str(SCRIPT))["main"]
    with bridge() as closed:
        pass
    with bridge() as port:
        monkeypatch.setitem(main.__globals__, "DEFAULT_PORTS", (str(closed), str(port)))
        assert main() == 0
        assert main("/ready") == 1
