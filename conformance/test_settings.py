"""Settings: refused in one line that names them, read from flags, the environment and `.env`, with their defaults."""

import ssl
import urllib.request
from pathlib import Path

import pytest

from conformance.lib.clients import PythonClient
from conformance.lib.deployment import Deployment
from conformance.lib.given import DEFAULT_CHANNELS
from conformance.lib.processes import Nursery, run
from conformance.lib.wait import wait_for
from tests.support.redis import make_certificates

pytestmark = pytest.mark.anywhere

BAD = {
    "BRIDGE_PORT": "eight",
    "USE_REDIS_NOTIFIER": "perhaps",
    "REDIS_URL": "http://localhost",
    "DATABASE_URL": "mysql://localhost/x",
    "DB_PORT": "99999",
    "BRIDGE_CHANNELS": "x" * 64,
    "BRIDGE_HOST": "not a host",
    "BRIDGE_REDIS_PREFIX": "with space",
    "BRIDGE_RETRY_SECONDS": "-1",
    "BRIDGE_REDIS_TIMEOUT_SECONDS": "0",
    "BRIDGE_HEARTBEAT_TIMEOUT_SECONDS": "soon",
    "BRIDGE_PROBE_SECONDS": "nan",
    "BRIDGE_HISTORY_ENTRIES": "1.5",
    "BRIDGE_BACKLOG_BYTES": "1GB",
    "BRIDGE_CLIENT_BUFFER_BYTES": "few",
    "BRIDGE_BUFFERS_TOTAL_BYTES": "-5",
    "BRIDGE_SLOW_CLIENT": "wait",
    "BRIDGE_MAX_CLIENTS": "0",
    "BRIDGE_AUTH": "basic",
    "BRIDGE_JWT_KEY": "short",
    "BRIDGE_JWT_KEY_FILE": "/nowhere/key.pem",
    "BRIDGE_JWKS_FILE": "/nowhere/jwks.json",
    "BRIDGE_ALLOWED_ORIGINS": "not an origin",
    "BRIDGE_TRUSTED_PROXIES": "proxy",
    "BRIDGE_DRAIN_SECONDS": "-1",
    "BRIDGE_TLS_CERT": "/nowhere/cert.pem",
    "BRIDGE_TLS_KEY": "/nowhere/key.pem",
    "BRIDGE_LOG_FORMAT": "xml",
    "BRIDGE_LOG_LEVEL": "loud",
}
NO_FLAG_NEEDED = {"BRIDGE_JWT_AUDIENCE", "BRIDGE_JWT_ISSUER", "DB_HOST", "DB_USER", "DB_PASSWORD", "DB_NAME"}
DATABASE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "BRIDGE_PORT": "0"}


def _refused(home: Path, *arguments: str, **settings: str) -> str:
    """The one line of a refusal."""
    done = run(home, arguments, **settings)
    assert (done.returncode, done.stdout) == (2, ""), done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("variable", BAD)
def test_a_bad_setting(deployment: Deployment, tmp_path: Path, variable: str) -> None:
    """Exit code 2 for a bad setting: one line on standard error that names it, no traceback."""
    assert deployment.settings
    assert variable in _refused(tmp_path, "serve", **(DATABASE | {variable: BAD[variable]}))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "serve"),
        (["sing"], "sing"),
        (["serve", "--no-such-flag"], "--no-such-flag"),
        (["serve", "--port", "eight"], "--port"),
        (["serve", "more"], "more"),
        (["notify"], "CHANNEL"),
        (["notify", "match_change", "x" * 8000], "7,999"),
        (["tail", "--where", "x"], "--where"),
        (["tail", "--url", "nonsense"], "--url"),
    ],
)
def test_bad_arguments(deployment: Deployment, tmp_path: Path, arguments: list[str], named: str) -> None:
    """Exit code 2 for bad arguments: one line on standard error that names what is wrong."""
    assert deployment.settings
    assert named in _refused(tmp_path, *arguments, DATABASE_URL=DATABASE["DATABASE_URL"])


def test_every_setting_has_a_flag(deployment: Deployment, tmp_path: Path) -> None:
    """Every setting has a flag: `BRIDGE_PORT` is `--port`."""
    assert deployment.settings
    shown = run(tmp_path, ["serve", "--help"], COLUMNS="200").stdout
    for variable in {*BAD, *NO_FLAG_NEEDED}:
        flag = "--" + variable.removeprefix("BRIDGE_").lower().replace("_", "-")
        assert flag in shown
        assert variable in shown


def test_flags_win_over_the_environment_and_it_over_a_file(deployment: Deployment, tmp_path: Path) -> None:
    """A `.env` file is read; the environment wins over it, and flags win over both."""
    assert deployment.settings
    (tmp_path / ".env").write_text("BRIDGE_HISTORY_ENTRIES=from-the-file\nBRIDGE_LOG_LEVEL=from-the-file\n")
    assert "from-the-file" in _refused(tmp_path, "serve", **DATABASE)
    line = _refused(tmp_path, "serve", **DATABASE, BRIDGE_HISTORY_ENTRIES="5", BRIDGE_LOG_LEVEL="from-the-environment")
    assert "from-the-environment" in line
    line = _refused(
        tmp_path, "serve", "--log-level=from-a-flag", **DATABASE, BRIDGE_HISTORY_ENTRIES="5", BRIDGE_LOG_LEVEL="info"
    )
    assert "--log-level" in line


def test_passwords_are_not_shown(deployment: Deployment, processes: Nursery, tmp_path: Path) -> None:
    """A password is in no refusal and in no log."""
    assert deployment.settings
    secret = "pass-of-conformance"
    line = _refused(tmp_path, "serve", DATABASE_URL=f"mysql://user:{secret}@host/db")
    assert secret not in line
    assert secret not in _refused(tmp_path, "serve", **DATABASE, REDIS_URL=f"http://user:{secret}@host")
    process = processes.start("serve", DATABASE_URL=f"postgresql://u:{secret}@127.0.0.1:1/x", BRIDGE_PORT="0")
    process.listening()
    wait_for(lambda: "Connection error" in process.log(), "a failure is logged")
    process.end()
    assert secret not in process.log()


def test_the_database_in_parts(deployment: Deployment, processes: Nursery) -> None:
    """`DB_HOST` `DB_PORT` `DB_USER` `DB_PASSWORD` `DB_NAME` in place of `DATABASE_URL`, as the predecessor has it."""
    url = deployment.settings["DATABASE_URL"]
    port = url.rpartition(":")[2].partition("/")[0]
    parts = {
        "DB_HOST": "127.0.0.1",
        "DB_PORT": port,
        "DB_USER": "postgres",
        "DB_PASSWORD": "any",
        "DB_NAME": "postgres",
    }
    process = processes.start("serve", **parts, BRIDGE_PORT="0").listening().healthy()
    assert process.get("/health").json()["mode"] == "direct"


def test_several_hosts(deployment: Deployment, processes: Nursery) -> None:
    """`DATABASE_URL` is any libpq URL, several hosts too."""
    url = deployment.settings["DATABASE_URL"].replace("@", "@127.0.0.1:1,")
    processes.start("serve", DATABASE_URL=url, BRIDGE_PORT="0").listening().healthy()


def test_seven_channels_are_the_default(deployment: Deployment, processes: Nursery) -> None:
    """`BRIDGE_CHANNELS` defaults to the predecessor's seven channels, and `USE_REDIS_NOTIFIER` to `false`."""
    settings = {"DATABASE_URL": deployment.settings["DATABASE_URL"], "BRIDGE_PORT": "0"}
    process = processes.start("serve", **settings).listening().healthy()
    assert process.get("/health").json()["mode"] == "direct"
    client = PythonClient(process.url.replace("http", "ws", 1) + "/ws")
    assert set(client.next()["channels"]) == set(DEFAULT_CHANNELS.split(","))
    client.close()


def test_channels_are_exact_in_case(deployment: Deployment, processes: Nursery, run: str) -> None:
    """Channel names are exact in case, and may hold quotes, spaces and any letters, up to 63 bytes."""
    names = ["Case", "with \"quotes\" 'and' spaces", "ü" * 31 + "x"]
    settings = deployment.settings | {"USE_REDIS_NOTIFIER": "false", "BRIDGE_CHANNELS": ",".join(names)}
    process = processes.start("serve", **(settings | {"BRIDGE_PORT": "0"})).listening().healthy()
    client = PythonClient(process.url.replace("http", "ws", 1) + f"/ws?where.run={run}")
    client.next()
    for name in ("case", *names):
        deployment.notify(name, {"run": run})
    assert [client.next()["channel"] for _ in names] == names
    client.close()


def test_open_addresses_need_a_word(deployment: Deployment, processes: Nursery, tmp_path: Path) -> None:
    """Auth `none` is refused on an address that is not loopback unless it is set explicitly."""
    assert "BRIDGE_AUTH" in _refused(tmp_path, "serve", **DATABASE, BRIDGE_HOST="0.0.0.0")
    process = processes.start("serve", **DATABASE, BRIDGE_HOST="0.0.0.0", BRIDGE_AUTH="none")
    assert process.line().startswith("Listening on http://0.0.0.0:")


def test_redis_on_a_unix_socket(deployment: Deployment, processes: Nursery) -> None:
    """`REDIS_URL` may be `unix://`."""
    path = deployment.redis_cli.run("CONFIG", "GET", "unixsocket")[1]
    settings = deployment.settings | {"REDIS_URL": f"unix://{path}", "BRIDGE_PORT": "0"}
    process = processes.start("serve", "--no-listener", **settings).listening().healthy()
    assert process.get("/health").json()["mode"] == "redis"


def test_tls(deployment: Deployment, processes: Nursery, tmp_path: Path, run: str) -> None:
    """`BRIDGE_TLS_CERT` and `BRIDGE_TLS_KEY`: https and wss on the same port."""
    files = make_certificates(tmp_path)
    settings = deployment.settings | {"BRIDGE_TLS_CERT": str(files.certificate), "BRIDGE_TLS_KEY": str(files.key)}
    process = processes.start("serve", "--no-listener", **(settings | {"BRIDGE_PORT": "0"})).listening()
    assert process.url.startswith("https://")
    context = ssl.create_default_context(cafile=str(files.authority))
    with urllib.request.urlopen(f"{process.url}/health", timeout=60, context=context) as answer:
        assert answer.status == 200
    client = PythonClient(process.url.replace("http", "ws", 1) + f"/ws?where.run={run}", tls=context)
    client.next()
    deployment.notify("match_change", {"run": run})
    assert client.until("notification")["payload"] == {"run": run}
    client.close()
