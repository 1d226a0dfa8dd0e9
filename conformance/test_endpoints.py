"""The HTTP endpoints of servers and listeners: statuses and shapes."""

import re

import pytest

from conformance.lib.deployment import Deployment, new_run
from conformance.lib.face import Open
from conformance.lib.wait import wait_for
from conformance.lib.web import handshake, request

MODES = ("redis", "direct", "none")


def test_health(whole: Deployment) -> None:
    """`GET /health`: 200 while the process works, JSON with `status` ok|degraded|down and `mode` redis|direct|none."""
    for place in whole.servers:
        answer = whole.get(place, "/health")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("application/json")
        assert (answer.json()["status"], answer.json()["mode"]) == ("ok", "redis")


def test_ready(deployment: Deployment) -> None:
    """`GET /ready`: 200 when a live source feeds this process and it is not draining."""
    for place in deployment.servers:
        assert deployment.get(place, "/ready").status == 200


def test_status(deployment: Deployment) -> None:
    """`GET /status`: mode and since when, both links with what their probes saw, position, rates, clients, switches and
    gaps."""
    for place in deployment.servers:
        status = deployment.get(place, "/status").json()
        assert status["mode"] in MODES
        assert set(status["links"]) == {"postgres", "redis"}
        assert {"since", "position", "rates", "clients", "switches", "gaps"} <= set(status)
        assert re.match(r"\d{4}-\d\d-\d\dT", status["since"])
        assert isinstance(status["clients"], int)


def test_status_counts_clients(deployment: Deployment, open_client: Open) -> None:
    """`/status` says how many clients there are."""
    place = deployment.servers[0]

    def clients() -> int:
        count: int = deployment.get(place, "/status").json()["clients"]
        return count

    if deployment.is_local:
        wait_for(lambda: clients() == 0, "those of other checks have gone")
    before = clients()
    open_client(place)
    assert clients() == before + 1


def test_metrics_can_be_parsed(deployment: Deployment) -> None:
    """`GET /metrics`: Prometheus text, every line of it."""
    sample = r"[a-zA-Z_:][\w:]*(\{(\w+=\"([^\"\\]|\\.)*\",?)*\})? (-?[\d.]+(e[+-]?\d+)?|[+-]Inf|NaN)( -?\d+)?"
    for place in deployment.servers:
        answer = deployment.get(place, "/metrics")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = answer.text.splitlines()
        assert any(line.startswith("notify_bridge_") for line in lines)
        for line in lines:
            assert re.fullmatch(rf"# (HELP|TYPE) .*|{sample}", line), line


def test_metrics_count_what_is_delivered(deployment: Deployment, open_client: Open, run: str) -> None:
    """`/metrics` counts events and deliveries."""
    place = deployment.servers[0]
    client = open_client(place, f"/ws?where.run={run}")
    before = _metric(deployment, "notify_bridge_deliveries_total")
    deployment.notify("match_change", *[{"run": run, "n": n} for n in range(10)])
    client.payloads(10)
    wait_for(lambda: _metric(deployment, "notify_bridge_deliveries_total") >= before + 10, "ten deliveries more")


def test_neither_status_nor_metrics_hold_payloads_or_tokens(deployment: Deployment, open_client: Open) -> None:
    """`/status` and `/metrics` hold neither payloads nor tokens."""
    secret, place = new_run(), deployment.servers[0]
    wrong = f"token-{secret}"
    handshake(place.url, f"/ws?token={wrong}")
    handshake(place.url, "/ws", {"Authorization": f"Bearer {wrong}"})
    client = open_client(place, f"/ws?where.run={secret}")
    deployment.notify("match_change", {"run": secret})
    client.payloads(1)
    for path in ("/health", "/ready", "/status", "/metrics"):
        assert secret not in deployment.get(place, path).text


def test_head_is_answered_as_get_without_a_body(deployment: Deployment) -> None:
    """HEAD is answered as GET is, without a body."""
    for path in ("/health", "/ready", "/status", "/metrics"):
        answer = deployment.get(deployment.servers[0], path, method="HEAD")
        assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("path", ["/ws", "/ws/match_change", "/ws/match/7/stats"])
def test_plain_http_at_a_websocket_path(deployment: Deployment, path: str) -> None:
    """`GET /ws…`: plain HTTP gets 426."""
    answer = deployment.get(deployment.servers[0], path)
    assert answer.status == 426
    assert answer.headers["upgrade"].lower() == "websocket"


@pytest.mark.parametrize("path", ["/nothing", "/ws/match/7", "/ws/a/b/c/d", "/sse/match/7", "/healthy", "/status/x"])
def test_no_such_path(deployment: Deployment, path: str) -> None:
    """404 for a path that is none, also for a handshake."""
    assert deployment.get(deployment.servers[0], path).status == 404
    assert handshake(deployment.servers[0].url, path).status == 404


@pytest.mark.parametrize(
    "query",
    ["channel=no_such_channel", "chanel=match_change", "where=7", "after=a&after=b", "where.m=1&where.m=2", "x=1"],
)
def test_unknown_channels_and_parameters(deployment: Deployment, query: str) -> None:
    """Before the handshake 400 for an unknown channel or parameter, under `/ws` and under `/sse`."""
    url = deployment.servers[0].url
    assert handshake(url, deployment.path(f"/ws?{query}")).status == 400
    assert request(url, deployment.path(f"/sse?{query}")).status == 400
    assert handshake(url, deployment.path("/ws/no_such_channel")).status == 400


def test_the_page(deployment: Deployment) -> None:
    """`GET /`: the page, with a strict Content-Security-Policy."""
    answer = deployment.get(deployment.servers[0], "/")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    directives = dict(
        part.strip().partition(" ")[::2]
        for part in answer.headers["content-security-policy"].split(";")
        if part.strip()
    )
    assert directives.get("default-src") in ("'none'", "'self'")
    assert not any(weak in value for value in directives.values() for weak in ("unsafe", "*", "http:", "https:"))


def test_notify_over_http_is_for_embedded_mode_only(deployment: Deployment) -> None:
    """`POST /notify`: embedded mode only."""
    if deployment.get(deployment.servers[0], "/status").json().get("embedded"):
        pytest.skip("this deployment is embedded")
    body = b'{"channel":"match_change","payload":{}}'
    headers = {"Content-Type": "application/json", "Origin": deployment.servers[0].url}
    answer = request(deployment.servers[0].url, "/notify", headers, method="POST", body=body)
    assert 400 <= answer.status < 500


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_listeners_say_how_they_are(deployment: Deployment, path: str) -> None:
    """`listen` serves `/health`, `/ready` and `/metrics`."""
    places = [place for place in deployment.listeners if place.url]
    if not places:
        pytest.skip("CONFORMANCE_LISTENERS names no URL")
    for place in places:
        answer = deployment.get(place, path)
        assert answer.status == 200
        if path == "/health":
            assert (answer.json()["status"], answer.json()["mode"]) == ("ok", "redis")


def _metric(deployment: Deployment, name: str) -> float:
    text = deployment.get(deployment.servers[0], "/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))
