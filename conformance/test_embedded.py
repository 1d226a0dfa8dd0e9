"""Nothing given at all: `serve` brings its own PostgreSQL and Valkey, and the other commands find them."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.lib.clients import PythonClient
from conformance.lib.deployment import Deployment
from conformance.lib.local import PATIENT
from conformance.lib.processes import Process, run
from conformance.lib.sse import stream
from conformance.lib.wait import wait_for
from conformance.lib.web import Answer, request

pytestmark = pytest.mark.anywhere


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        path = Path(name)
        path.chmod(0o755)  # PostgreSQL runs as another user where we are root
        yield path


@pytest.fixture(scope="module")
def embedded(home: Path) -> Iterator[Process]:
    process = Process(["serve"], {"BRIDGE_PORT": "0", "TMPDIR": "/tmp", **PATIENT}, home)
    try:
        yield process.listening().healthy()
    finally:
        process.end()
        process.bury()


@pytest.fixture(autouse=True)
def _locally(deployment: Deployment) -> None:
    assert deployment.settings


@contextmanager
def _another(*arguments: str) -> Iterator[Process]:
    """Another embedded bridge, whose files no other one shares."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        path = Path(name)
        path.chmod(0o755)
        process = Process(arguments, {"BRIDGE_PORT": "0", **PATIENT}, path)
        try:
            yield process.listening().healthy()
        finally:
            process.bury()


def _post(process: Process, body: object, **headers: str) -> Answer:
    given = {"Content-Type": "application/json", "Origin": process.url, **headers}
    return request(process.url, "/notify", given, method="POST", body=json.dumps(body).encode())


def test_it_says_what_it_started(embedded: Process) -> None:
    """With neither `DATABASE_URL` nor `DB_HOST`, `serve` starts PostgreSQL and Valkey, logs their
    URLs, and uses Redis mode."""
    assert re.search(r"INFO .*PostgreSQL.*postgresql://", embedded.log())
    assert re.search(r"INFO .*Valkey.*(redis|unix)://", embedded.log())
    health = embedded.get("/health").json()
    assert (health["status"], health["mode"]) == ("ok", "redis")


def test_others_find_it(embedded: Process, home: Path) -> None:
    """`notify` and `tail` on the same machine find it without settings."""
    tail = Process(["tail", "--json"], {}, home)
    try:
        assert json.loads(tail.line())["type"] == "subscribed"
        assert run(home, ["notify", "match_change", '{"match_id": 7}']).returncode == 0
        assert json.loads(tail.line())["payload"] == {"match_id": 7}
        assert tail.end() == 0
    finally:
        tail.bury()


def test_doctor_finds_it(embedded: Process, home: Path) -> None:
    """`doctor` on the same machine finds it without settings, and all is well."""

    def all_is_well() -> bool:
        done = run(home, ["doctor"])
        print(done.stdout + done.stderr)
        return done.returncode == 0

    wait_for(all_is_well, "all is well: what does not answer for seconds, as on a busy machine, is not")


def test_listen_alone() -> None:
    """`listen` with neither set starts embedded servers as well."""
    with _another("listen") as process:
        assert re.search(r"INFO .*PostgreSQL.*postgresql://", process.log())
        assert process.get("/ready").status == 200
        assert process.end() == 0


def test_the_newest_wins(embedded: Process, home: Path) -> None:
    """Where several run, `notify` and `tail` find the newest running one."""
    (home / "second").mkdir()
    settings = {**PATIENT, "BRIDGE_PORT": "0", "TMPDIR": "/tmp", "XDG_RUNTIME_DIR": str(home)}
    second = Process(["serve"], settings, home / "second")
    tail: Process | None = None
    try:
        second.listening().healthy()
        for found in (second, embedded):
            tail = Process(["tail", "--json"], {}, home)
            assert json.loads(tail.line())["type"] == "subscribed"
            wait_for(lambda found=found: found.get("/status").json()["clients"] == 1, "it is there")  # type: ignore[misc]
            tail.end()
            tail.bury()
            if found is second:
                assert second.end() == 0
    finally:
        second.bury()
        if tail is not None:
            tail.bury()


def test_only_its_user_can_read_where_it_is(embedded: Process, home: Path) -> None:
    """They find it by a file readable by the user alone, in a directory that the user owns."""
    (file,) = [path for path in home.rglob("*.json") if "redis_url" in path.read_text()]
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o022 == 0


def test_nobody_runs(tmp_path: Path) -> None:
    """Where no embedded bridge runs, `notify` says that a database is needed: exit code 2 and one line."""
    done = run(tmp_path, ["notify", "match_change", "x"])
    assert done.returncode == 2
    assert "DATABASE_URL" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_notify_over_http(embedded: Process) -> None:
    """`POST /notify` with JSON `{"channel":…,"payload":…}` from the same origin sends a NOTIFY."""
    with stream(embedded.url, "/sse/match_change?where.posted=1") as opened:
        opened.message()
        answer = _post(embedded, {"channel": "match_change", "payload": {"posted": 1}})
        assert 200 <= answer.status < 300, answer
        assert opened.message().json()["payload"] == {"posted": 1}


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_notify_over_http_from_elsewhere(embedded: Process, origin: str) -> None:
    """`POST /notify` is for the same origin alone: 403 for a page of another one."""
    assert _post(embedded, {"channel": "match_change", "payload": 1}, Origin=origin).status == 403


def test_notify_over_http_that_is_no_json(embedded: Process) -> None:
    """`POST /notify` takes JSON alone, of this shape alone."""
    assert 400 <= _post(embedded, {"channel": "match_change"}).status < 500
    assert 400 <= _post(embedded, {"channel": "no_such_channel", "payload": 1}).status < 500
    answer = _post(embedded, {"channel": "match_change", "payload": 1}, **{"Content-Type": "text/plain"})
    assert 400 <= answer.status < 500


def test_the_events_channel(embedded: Process, home: Path) -> None:
    """Events flow as everywhere: a WebSocket client gets what `notify -` sends, in order."""
    client = PythonClient(embedded.url.replace("http", "ws", 1) + "/ws/playclock_change")
    client.next()
    assert run(home, ["notify", "playclock_change", "-"], given="1\n2\ntext\n").returncode == 0
    assert client.payloads(3) == [1, 2, "text"]
    client.close()


def test_the_data_is_thrown_away() -> None:
    """The data is thrown away at exit, and the servers end with the bridge."""
    with _another("serve") as process:
        assert process.end() == 0
        wait_for(lambda: _left(process.home) == ["stderr"], f"no file is left, {_left(process.home)}")


def _left(home: Path) -> list[str]:
    return sorted(name for _, _, names in os.walk(home) for name in names)
