"""The commands: what they print, how they end, and what `notify`, `tail` and `doctor` do. Run as `python -m bridge`."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.lib.deployment import Deployment
from conformance.lib.face import Open
from conformance.lib.processes import Nursery, Process, environment
from conformance.lib.processes import run as run_command
from conformance.lib.wait import wait_for
from tests.support.ports import free_port

pytestmark = pytest.mark.anywhere

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", ["serve", "listen"])
def test_serve_and_listen(deployment: Deployment, processes: Nursery, command: str, number: signal.Signals) -> None:
    """`serve` and `listen` print `Listening on http://HOST:PORT` once they accept connections, log to standard error,
    and exit with 0 after SIGTERM or SIGINT; a port of 0 gets a free one."""
    process = processes.start(command, **deployment.settings, BRIDGE_PORT="0").listening()
    assert process.url.startswith("http://127.0.0.1:")
    assert not process.url.endswith(":0")
    assert process.get("/health").status == 200
    process.healthy()
    assert process.end(number) == 0
    assert process.rest() == ""
    assert "INFO" in process.log()
    assert "Traceback" not in process.log()


@pytest.mark.parametrize(("command", "port"), [("serve", 8000), ("listen", 8001)])
def test_default_ports(deployment: Deployment, processes: Nursery, command: str, port: int) -> None:
    """`serve` takes port 8000, and `listen` 8001 (or says that it is taken, and exits with 1)."""
    process = processes.start(command, **deployment.settings)
    line = process.line()
    if line:
        assert line == f"Listening on http://127.0.0.1:{port}"
    else:
        assert process.wait() == 1
        assert str(port) in process.log()


def test_a_port_that_is_taken(deployment: Deployment, tmp_path: Path) -> None:
    """Exit code 1 for what is neither an end by signal nor a bad setting: one line, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command(tmp_path, ["serve", "--port", str(port)], **deployment.settings)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_waits_for_what_is_not_there_yet(processes: Nursery, deployment: Deployment) -> None:
    """Without PostgreSQL and Redis `serve` works, is `down` and not ready, attempts again, and exits with 0."""
    assert deployment.settings
    port = free_port()
    settings = {
        "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{port}/none",
        "REDIS_URL": f"redis://127.0.0.1:{port}",
        "USE_REDIS_NOTIFIER": "true",
        "BRIDGE_PORT": "0",
    }
    process = processes.start("serve", **settings).listening()
    assert process.get("/health").status == 200
    assert (process.get("/health").json()["status"], process.get("/health").json()["mode"]) == ("down", "none")
    assert process.get("/ready").status == 503
    wait_for(lambda: len(re.findall(r"ERROR +Connection error: ", process.log())) >= 2, "a second attempt")
    assert process.end() == 0


def test_notify(deployment: Deployment, open_client: Open, run: str, tmp_path: Path) -> None:
    """`notify CHANNEL PAYLOAD` sends one NOTIFY, and exits with 0."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    payload = json.dumps({"run": run, "quote": "it's"})
    done = run_command(tmp_path, ["notify", "match_change", payload], **deployment.settings)
    assert (done.returncode, done.stdout) == (0, "")
    assert client.payloads(1) == [{"run": run, "quote": "it's"}]


def test_notify_from_standard_input(deployment: Deployment, open_client: Open, run: str, tmp_path: Path) -> None:
    """`notify CHANNEL -` reads payloads from standard input, one a line."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    lines = [json.dumps({"run": run, "n": n}) for n in range(5)]
    done = run_command(tmp_path, ["notify", "match_change", "-"], given="\n".join(lines), **deployment.settings)
    assert done.returncode == 0
    assert [payload["n"] for payload in client.payloads(5)] == list(range(5))


@pytest.mark.parametrize("number", SIGNALS)
def test_tail(deployment: Deployment, processes: Nursery, run: str, number: signal.Signals) -> None:
    """`tail [CHANNEL…] --url --where k=v --json`: one event a line, as a client gets it; 0 after SIGTERM or SIGINT."""
    tail = processes.start(
        "tail", "match_change", "--json", "--where", f"run={run}", "--url", deployment.servers[0].url,
        **deployment.settings,
    )  # fmt: skip
    first = json.loads(tail.line())
    assert (first["type"], first["channels"], first["where"]) == ("subscribed", ["match_change"], {"run": run})
    deployment.notify("scoreboard_change", {"run": run, "n": 1})
    deployment.notify("match_change", {"run": "none", "n": 2}, {"run": run, "n": 3})
    assert json.loads(tail.line())["payload"] == {"run": run, "n": 3}
    assert tail.end(number) == 0
    assert "Traceback" not in tail.log()


def test_tail_after_a_cursor(deployment: Deployment, open_client: Open, processes: Nursery, run: str) -> None:
    """`tail --after CURSOR` goes on after it."""
    client = open_client(deployment.servers[0], f"/ws?where.run={run}")
    deployment.notify("match_change", *[{"run": run, "n": n} for n in range(3)])
    first = client.next()
    arguments = ["--json", "--where", f"run={run}", "--after", first["id"], "--url", deployment.other_server.url]
    tail = processes.start("tail", *arguments, **deployment.settings)
    assert json.loads(tail.line())["type"] == "subscribed"
    assert [json.loads(tail.line())["payload"]["n"] for _ in range(2)] == [1, 2]


def test_tail_without_json(deployment: Deployment, processes: Nursery, run: str) -> None:
    """`tail` shows events for people: channel and payload."""
    tail = processes.start("tail", "--where", f"run={run}", "--url", deployment.servers[0].url, **deployment.settings)
    wait_for(lambda: "Connected" in tail.log(), "tail says that it is connected")
    deployment.notify("match_change", {"run": run})
    line = tail.line()
    while run not in line or "match_change" not in line:
        line = tail.line()


def test_tail_that_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    """`tail` of a channel that the bridge does not know: exit code 2 and one line, as for any bad argument."""
    arguments = ["tail", "no_such_channel", "--url", deployment.servers[0].url]
    done = run_command(tmp_path, arguments, **deployment.settings)
    assert done.returncode == 2
    assert "no_such_channel" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_script(tmp_path: Path) -> None:
    """A bridge installed as a script is called `notify-bridge`."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which("notify-bridge", path=places)
    if program is None:
        pytest.skip("the bridge is not installed, it only lies here")
    done = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=60, check=False, env=environment(tmp_path, {})
    )
    assert done.returncode == 0
    assert done.stdout.startswith("notify-bridge ")


@pytest.fixture
def direct(deployment: Deployment, processes: Nursery) -> Callable[..., Process]:
    """Starts `serve` on the deployment's database alone."""

    def start(**settings: str) -> Process:
        given = {"DATABASE_URL": deployment.settings["DATABASE_URL"], "BRIDGE_PORT": "0", **settings}
        return processes.start("serve", **given).listening().healthy()

    return start


def test_logs_as_json(direct: Callable[..., Process]) -> None:
    """`BRIDGE_LOG_FORMAT=json`: one object a line, with the same levels and texts."""
    process = direct(BRIDGE_LOG_FORMAT="json")
    process.end()
    lines = [json.loads(line) for line in process.log().splitlines()]
    assert any(line["level"] == "INFO" and line["message"].startswith("Connected to PostgreSQL") for line in lines)


def test_log_levels(direct: Callable[..., Process]) -> None:
    """`BRIDGE_LOG_LEVEL=error`: nothing below is logged."""
    process = direct(BRIDGE_LOG_LEVEL="error")
    process.end()
    assert "INFO" not in process.log()
