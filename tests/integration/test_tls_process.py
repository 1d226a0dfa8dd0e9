"""TLS from the command line: what the files must be, reading them again, and following with `tail`."""

import json
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets.sync.client
from cryptography.hazmat.primitives import serialization

from tests.support.cli import command, environment, run
from tests.support.process import BridgeProcess, bridge, wait_until
from tests.support.redis import Certificates, make_certificates
from tests.support.stack import Stack


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.fixture
def settings(stack: Stack, files: Certificates) -> dict[str, str]:
    return {
        "DATABASE_URL": stack.postgres.url(),
        "BRIDGE_CHANNELS": "match_change",
        "BRIDGE_PORT": "0",
        "BRIDGE_TLS_CERT": str(files.certificate),
        "BRIDGE_TLS_KEY": str(files.key),
    }


def certificate(running: BridgeProcess) -> bytes:
    """What a new connection is shown, in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = urlsplit(running.url).port
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_renewed_certificate_is_read_at_sighup_and_a_broken_one_is_not(
    settings: dict[str, str], files: Certificates, stack: Stack, tmp_path: Path, workers: tuple[str, ...]
) -> None:
    trust = ssl.create_default_context(cafile=files.authority)
    processes = 2 if workers else 1
    with bridge(settings, "serve", *workers) as running:
        assert running.url.startswith("https://127.0.0.1:")
        port = urlsplit(running.url).port
        with websockets.sync.client.connect(f"wss://localhost:{port}/ws", ssl=trust, proxy=None) as client:
            assert json.loads(client.recv(60))["type"] == "subscribed"
            old = certificate(running)
            (tmp_path / "new").mkdir()
            new = make_certificates(tmp_path / "new")
            files.certificate.write_bytes(new.certificate.read_bytes())
            running.process.send_signal(signal.SIGHUP)
            wait_until(lambda: running.log().count("does not belong to the certificate") == processes, running.log)
            assert certificate(running) == old
            files.key.write_bytes(new.key.read_bytes())
            running.process.send_signal(signal.SIGHUP)
            wait_until(lambda: running.log().count("The TLS certificate was read again") == processes, running.log)
            assert all(certificate(running) != old for _ in range(4))
            stack.postgres.execute("SELECT pg_notify('match_change', '1')")
            assert json.loads(client.recv(60))["payload"] == 1
        assert running.end() == 0
        assert "Traceback" not in running.log()


def test_tail_follows_over_tls(settings: dict[str, str], files: Certificates, stack: Stack, tmp_path: Path) -> None:
    with bridge(settings, "serve") as running:
        url = running.url.replace("127.0.0.1", "localhost")
        for scheme in ("https", "wss"):
            tail = subprocess.Popen(
                command("tail", "--json", "--url", url.replace("https", scheme)),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=tmp_path,
                env=environment(tmp_path, SSL_CERT_FILE=str(files.authority)),
            )
            try:
                assert tail.stdout is not None
                assert json.loads(tail.stdout.readline())["type"] == "subscribed"
                stack.postgres.execute("SELECT pg_notify('match_change', '1')")
                assert json.loads(tail.stdout.readline())["payload"] == 1
            finally:
                tail.kill()
                tail.communicate()


def test_tail_says_what_is_wrong_with_a_certificate(settings: dict[str, str], tmp_path: Path) -> None:
    with bridge(settings, "serve") as running:
        tail = subprocess.Popen(
            command("tail", "--url", running.url),
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(tmp_path),
        )
        try:
            assert tail.stderr is not None
            line = tail.stderr.readline()
        finally:
            tail.kill()
            tail.communicate()
        assert line.startswith("Lost wss://127.0.0.1:")
        assert "certificate verify failed" in line


def encrypted(files: Certificates) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def other_key(files: Certificates) -> None:
    (files.key.parent / "other").mkdir()
    files.key.write_bytes(make_certificates(files.key.parent / "other").key.read_bytes())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda files: files.key.unlink(), "BRIDGE_TLS_KEY: {key} cannot be read: No such file or directory"),
        (lambda files: files.certificate.write_text("x"), "BRIDGE_TLS_CERT: {cert} is no PEM file"),
        (lambda files: files.key.write_bytes(files.certificate.read_bytes()), "BRIDGE_TLS_KEY: {key} is no PEM file"),
        (other_key, "BRIDGE_TLS_KEY: the key in {key} does not belong to the certificate in {cert}"),
        (encrypted, "BRIDGE_TLS_KEY: the key in {key} is encrypted"),
        (
            lambda files: files.certificate.write_text(
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
            ),
            "OpenSSL cannot use it with {cert}",
        ),
    ],
)
@pytest.mark.parametrize("what", ["serve", "listen"])
def test_files_that_cannot_be_used_are_one_line(
    tmp_path: Path, files: Certificates, damage: Any, said: str, what: str
) -> None:
    damage(files)
    names = {"BRIDGE_TLS_CERT": str(files.certificate), "BRIDGE_TLS_KEY": str(files.key)}
    ended = run(tmp_path, [what], BRIDGE_PORT="0", **names)
    assert ended.returncode == 2
    assert said.format(key=files.key, cert=files.certificate) in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not ended.stdout


@pytest.mark.parametrize("name", ["BRIDGE_TLS_CERT", "BRIDGE_TLS_KEY"])
def test_one_file_alone_is_refused(tmp_path: Path, files: Certificates, name: str) -> None:
    ended = run(tmp_path, ["serve"], **{name: str(files.certificate)})
    assert ended.returncode == 2
    assert "BRIDGE_TLS_CERT" in ended.stderr
    assert "BRIDGE_TLS_KEY" in ended.stderr
    assert ended.stderr.count("\n") == 1
