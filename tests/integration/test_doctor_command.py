"""`doctor` as a user runs it: exit codes, what is printed, which servers it finds, and no secret anywhere."""

import json
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from bridge.doctor.running import ask, judge, named
from tests.support.cli import command, environment, run
from tests.support.postgres import free_port
from tests.support.process import bridge, wait_until
from tests.support.redis import running_redis
from tests.support.stack import Stack

PASSWORD = "ge5heim"


def settings(stack: Stack, prefix: str, **more: str) -> dict[str, str]:
    return {
        "DATABASE_URL": stack.postgres.url().replace("postgres@", f"postgres:{PASSWORD}@"),
        "USE_REDIS_NOTIFIER": "true",
        "REDIS_URL": stack.redis.url,
        "BRIDGE_CHANNELS": "a,b",
        "BRIDGE_REDIS_PREFIX": prefix,
        **more,
    }


def examined(home: Path, code: int, *arguments: str, **given: str) -> list[dict[str, Any]]:
    """The findings of one run with this exit code. It asks no bridge of this machine but the one that is meant."""
    if given:
        given = {"BRIDGE_PORT": str(free_port()), **given}
    done = run(home, ["doctor", "--json", *arguments], **given)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout
    assert PASSWORD not in done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


def texts(findings: list[dict[str, Any]], subject: str, *levels: str) -> list[str]:
    return [each["text"] for each in findings if each["subject"] == subject and each["level"] in levels]


def test_all_is_well_but_for_a_bridge_that_does_not_run(stack: Stack, tmp_path: Path) -> None:
    port = str(free_port())
    findings = examined(tmp_path, 0, **settings(stack, "quiet", BRIDGE_PORT=port))
    subjects = list(dict.fromkeys(finding["subject"] for finding in findings))
    assert subjects == ["settings", "PostgreSQL", "Redis", "clocks", "listeners", "bridge"]
    assert [finding["subject"] for finding in findings if finding["level"] != "good"] == ["listeners", "bridge"]
    (unreached,) = texts(findings, "bridge", "warning")
    assert unreached.startswith(f"http://127.0.0.1:{port} was not reached: Connection refused")
    findings = examined(tmp_path, 1, "--url", f"http://127.0.0.1:{port}", **settings(stack, "quiet"))
    assert texts(findings, "bridge", "bad") == [unreached]


def test_running_bridges(stack: Stack, tmp_path: Path) -> None:
    given = settings(stack, "running", BRIDGE_PORT="0")
    server = ("serve", "--no-listener")
    with bridge(given, "listen") as one, bridge(given, "listen") as two, bridge(given, *server) as three:
        for each in (one, two, three):
            each.wait_until_ready()
        stack.postgres.execute("SELECT pg_notify('a', '1')")
        wait_until(lambda: stack.redis.command("XLEN", log_of(stack, "running")) > 1, lambda: "nothing is appended")
        findings = examined(tmp_path, 0, *[f"--url={each.url}" for each in (one, two, three)], **given)
    assert [finding for finding in findings if finding["level"] != "good"] == []
    said = texts(findings, "listeners", "good")
    assert said[0].startswith("2 listener sessions in PostgreSQL, from 127.0.0.1 (process ")
    assert said[1].startswith("2 listeners beat; the one that appends is at 127.0.0.1, process ")
    assert said[1].endswith("; 1 server follows the log")
    bridges = texts(findings, "bridge", "good")
    assert sorted(text.partition(" ")[2] for text in bridges if "log" in text) == [
        "appends to the log",
        "follows the log, and would step in",
    ]
    assert any(text.startswith(f"{three.url} is ok, mode redis, 0 clients, version ") for text in bridges)


def log_of(stack: Stack, prefix: str) -> str:
    (key,) = stack.redis.command("KEYS", f"{prefix}:*:log")
    return str(key, "ascii")


def test_a_bridge_whose_redis_is_away(stack: Stack, tmp_path: Path) -> None:
    given = settings(stack, "lonely", BRIDGE_PORT="0", REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:{free_port()}")
    with bridge(given, "serve") as running:
        running.wait_until_ready()
        findings = examined(tmp_path, 1, "--url", running.url, **given)
    assert "cannot connect to Redis" in texts(findings, "Redis", "bad")[0]
    assert " is degraded, mode direct" in texts(findings, "bridge", "bad")[0]
    assert "trouble with redis" in texts(findings, "bridge", "bad")[1]


def test_a_log_of_another_database(stack: Stack, tmp_path: Path) -> None:
    given = settings(stack, "theirs", BRIDGE_PORT="0")
    with bridge(given, "listen") as listener:
        listener.wait_until_ready()
        meta = log_of(stack, "theirs").removesuffix("log") + "meta"
        assert stack.redis.command("HSET", meta, "database", "1/2") == 0
        findings = examined(tmp_path, 1, **given)
    assert "belongs to database 1/2" in texts(findings, "listeners", "bad")[0]


def test_without_redis(stack: Stack, tmp_path: Path) -> None:
    url = stack.postgres.url()
    findings = examined(tmp_path, 0, DATABASE_URL=url, REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    assert texts(findings, "Redis", "unseen") == ["left out: USE_REDIS_NOTIFIER is false"]
    assert texts(findings, "clocks", "good")[0].startswith("PostgreSQL and this machine agree within")


def test_what_hangs_is_given_up(stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    stack.postgres.pause()
    request.addfinalizer(stack.postgres.resume)
    with stack.redis.paused():
        findings = examined(tmp_path, 1, **settings(stack, "hung"))  # within the 30 s of `run`
    assert texts(findings, "PostgreSQL", "bad")
    assert texts(findings, "Redis", "bad")


def test_what_serve_would_refuse(stack: Stack, tmp_path: Path) -> None:
    findings = examined(tmp_path, 0, DATABASE_URL=stack.postgres.url(), BRIDGE_HOST="0.0.0.0")
    assert "serve would refuse them: BRIDGE_HOST=0.0.0.0" in texts(findings, "settings", "warning")[0]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"BRIDGE_PORT": "abc"}, "BRIDGE_PORT"),
        ({"USE_REDIS_NOTIFIER": "1", "REDIS_URL": f"redis://:{PASSWORD}@h/name"}, "REDIS_URL"),
        ({"BRIDGE_JWKS_FILE": "/nowhere/keys.json"}, "BRIDGE_JWKS_FILE"),
        ({"BRIDGE_TLS_CERT": "/nowhere/cert.pem", "BRIDGE_TLS_KEY": "/nowhere/key.pem"}, "BRIDGE_TLS_CERT"),
    ],
)
def test_bad_settings(tmp_path: Path, given: dict[str, str], named: str) -> None:
    done = run(tmp_path, ["doctor"], DATABASE_URL="postgresql://h/x", **given)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert named in line
    assert PASSWORD not in line


def test_for_people(stack: Stack, tmp_path: Path) -> None:
    given = settings(stack, "people", BRIDGE_PORT=str(free_port()), REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    done = run(tmp_path, ["doctor"], **given)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[-1] == "Not well: 1 thing to mend, and 1 warning."
    at = next(index for index, line in enumerate(lines) if line.startswith("✗ Redis      cannot connect to Redis at"))
    assert lines[at + 1].startswith("             → start it, or correct REDIS_URL")
    assert "\x1b" not in done.stdout
    assert PASSWORD not in done.stdout
    plain = run(tmp_path, ["doctor"], **given, PYTHONIOENCODING="latin-1")
    assert plain.stdout.isascii()
    assert "\nx Redis      cannot connect" in plain.stdout


def test_the_embedded_bridge_of_this_machine_is_found(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("serve", "--port=0"),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("Listening on ").strip()
            wait_until(lambda: not texts(examined_anyhow(tmp_path), "bridge", "bad"), lambda: "it is not well")
            findings = examined(tmp_path, 0)
            assert any(text.startswith(f"{url} is ok") for text in texts(findings, "bridge", "good"))
        finally:
            process.terminate()


def examined_anyhow(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(home, ["doctor", "--json"]).stdout.splitlines()]


def test_a_redis_that_is_stopped_and_started(stack: Stack, tmp_path: Path) -> None:
    with running_redis(stack.redis.binary) as redis:
        given = settings(stack, "stopped", REDIS_URL=redis.url)
        redis.stop()
        assert "Connection refused" in texts(examined(tmp_path, 1, **given), "Redis", "bad")[0]
        redis.start()
        assert texts(examined(tmp_path, 0, **given), "Redis", "bad") == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no bridge (if it wants TLS"),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello",
            "or lets nobody ask: HTTP 404 hello",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[{]}", "or lets nobody ask: HTTP 200 [{]}"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000,
            "no bridge (if it wants TLS",
        ),
        (b"", "no answer within 0.5 s"),
    ],
)
async def test_what_is_no_bridge(said: bytes, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not said:
        monkeypatch.setattr("bridge.doctor.running.ASK_SECONDS", 0.5)

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some()
            await stream.send_all(said)
            await trio.sleep(0 if said else 5)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        (finding,) = judge(await ask(named(url)))
        nursery.cancel_scope.cancel()
    assert finding.level == "bad"
    assert reason in finding.text
