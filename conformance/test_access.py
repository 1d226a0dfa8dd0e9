"""Who may listen: tokens three ways, their claims, origins, the Host header. On a server of its own with a key."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from conformance.lib import tokens
from conformance.lib.clients import Refused
from conformance.lib.deployment import Deployment
from conformance.lib.face import KINDS, Open
from conformance.lib.given import Place
from conformance.lib.processes import Nursery, nursery
from conformance.lib.sse import stream
from conformance.lib.web import Answer, handshake, request

pytestmark = pytest.mark.anywhere

PAGE = "https://app.example"
SHORT_SECONDS = 30
"""How long a token lasts that is to expire while it is used: a busy machine has to open all clients in that time."""


class Guarded:
    """A server that wants tokens, and its key."""

    def __init__(self, place: Place, key: str) -> None:
        self.place = place
        self._key = key

    def token(self, **claims: object) -> str:
        return tokens.token(self._key, **claims)

    def refusal(self, path: str, **claims: object) -> int:
        """The status with which a handshake with such a token is refused."""
        return handshake(self.place.url, path, {"Authorization": f"Bearer {self.token(**claims)}"}).status


@pytest.fixture(scope="module")
def guarded(deployment: Deployment) -> Iterator[Guarded]:
    """The deployment's first server where its key is given (CONFORMANCE_JWT_KEY); locally one beside it."""
    if not deployment.is_local:
        if not deployment.jwt_key:
            pytest.skip("this makes tokens, which needs CONFORMANCE_JWT_KEY")
        yield Guarded(deployment.servers[0], deployment.jwt_key)
        return
    settings = {
        "BRIDGE_PORT": "0",
        "BRIDGE_JWT_KEY": tokens.SECRET,
        "BRIDGE_ALLOWED_ORIGINS": f"{PAGE},https://*.wild.example",
    }
    with nursery() as processes:
        process = processes.start("serve", "--no-listener", **deployment.settings, **settings).listening().healthy()
        yield Guarded(Place("guarded", process.url), tokens.SECRET)


def test_without_a_token(guarded: Guarded) -> None:
    """Before the handshake: 401 where a token is wanted and there is none."""
    answer = handshake(guarded.place.url, "/ws")
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert request(guarded.place.url, "/sse").status == 401


@pytest.mark.parametrize(
    "bad", ["garbage", "a.b.c", tokens.unsigned(), tokens.token("another key of 32 bytes and some more")]
)
def test_a_bad_token(guarded: Guarded, bad: str) -> None:
    """401 for a bad token: garbage, unsigned, signed by another key; each way of giving it."""
    ways: list[tuple[str, dict[str, str]]] = [
        ("/ws", {"Authorization": f"Bearer {bad}"}),
        ("/ws", {"Sec-WebSocket-Protocol": f"bridge.v1, bearer.{bad}"}),
        (f"/ws?token={bad}", {}),
    ]
    for path, headers in ways:
        assert handshake(guarded.place.url, path, headers).status == 401


@pytest.mark.parametrize(
    "claims", [{"exp": 1}, {"nbf": 9e9}, {"aud": "somebody"}, {"channels": 7}, {"where": {"m": {"a": 1}}}, {"exp": "x"}]
)
def test_claims_that_make_a_token_bad(guarded: Guarded, claims: dict[str, object]) -> None:
    """Claims `exp`, `nbf`, `aud` that do not fit, or of a wrong type: 401."""
    assert guarded.refusal("/ws", **claims) == 401


@pytest.mark.parametrize("kind", ["python", "node", "browser"])
def test_tokens_three_ways(deployment: Deployment, guarded: Guarded, open_client: Open, run: str, kind: str) -> None:
    """Tokens: `Authorization: Bearer`, or the subprotocol pair `bridge.v1, bearer.TOKEN`, or `?token=`."""
    path, token = f"/ws?where.run={run}", guarded.token(exp=time.time() + 3600)
    ways: list[tuple[str, dict[str, object]]] = [
        (path, {"protocols": ["bridge.v1", f"bearer.{token}"]}),
        (f"{path}&token={token}", {}),
    ]
    if kind != "browser":  # which cannot set headers
        ways.append((path, {"headers": {"Authorization": f"Bearer {token}"}}))
    clients = []
    for way, options in ways if deployment.is_local else ways[1:2]:
        clients.append(open_client(guarded.place, way, kind, **options))
        assert clients[-1].protocol == ("bridge.v1" if "protocols" in options else None)
    deployment.notify("match_change", {"run": run})
    for client in clients:
        assert client.payloads(1) == [{"run": run}]


def test_a_token_for_a_stream(deployment: Deployment, guarded: Guarded, run: str) -> None:
    """The same tokens at `/sse`, in the header and in the URL."""
    token = guarded.token()
    for path, headers in [("/sse", {"Authorization": f"Bearer {token}"}), (f"/sse?token={token}", {})]:
        with stream(guarded.place.url, path, headers) as opened:
            assert opened.message().event == "subscribed"


def test_the_claim_channels(guarded: Guarded, open_client: Open) -> None:
    """Claim `channels`: names and `*` wildcards; what it does not allow is 403, before the handshake and later."""
    claims: dict[str, object] = {"channels": ["match_*", "playclock_change"]}
    assert guarded.refusal("/ws/scoreboard_change", **claims) == 403
    assert guarded.refusal("/ws?channel=match_change&channel=gameclock_change", **claims) == 403
    assert guarded.refusal("/ws", channels=[]) == 403
    client = open_client(guarded.place, "/ws", headers={"Authorization": f"Bearer {guarded.token(**claims)}"})
    assert client.subscribed["channels"] == ["match_change", "playclock_change"]
    client.send(type="subscribe", channels=["scoreboard_change"], sub="x")
    assert client.until("error")["code"] == "forbidden"


def test_the_claim_where(deployment: Deployment, guarded: Guarded, open_client: Open, run: str) -> None:
    """Claim `where`: a field to a scalar or a list, any of them; a request that contradicts it is 403."""
    claims: dict[str, object] = {"where": {"team": [1, "2"], "run": run}}
    assert guarded.refusal("/ws?where.team=3", **claims) == 403
    headers = {"Authorization": f"Bearer {guarded.token(**claims)}"}
    client = open_client(guarded.place, "/ws", headers=headers)
    one = open_client(guarded.place, "/ws?where.team=1", headers=headers)
    deployment.notify("match_change", *[{"run": run, "team": team} for team in (3, 1, 2)], {"run": run})
    assert [payload["team"] for payload in client.payloads(2)] == [1, 2]
    assert one.payloads(1) == [{"run": run, "team": 1}]
    client.silent(0.1)


def test_an_expired_token(guarded: Guarded, open_client: Open, browser: Browser, node_modules: Path) -> None:
    """4001: the token expired; SSE: the stream ends. The same token is then refused with 401."""
    token = guarded.token(exp=int(time.time()) + SHORT_SECONDS)  # when all that clients need is there
    clients = [open_client(guarded.place, f"/ws?token={token}", kind) for kind in KINDS]
    with stream(guarded.place.url, f"/sse?token={token}") as opened:
        opened.message()
        opened.end()
    assert [client.closed().code for client in clients] == [4001] * len(KINDS)
    assert handshake(guarded.place.url, f"/ws?token={token}").status == 401
    assert request(guarded.place.url, f"/sse?token={token}").status == 401


def test_audience_and_issuer(deployment: Deployment, processes: Nursery, open_client: Open) -> None:
    """`BRIDGE_JWT_AUDIENCE` and `BRIDGE_JWT_ISSUER`: `aud` and `iss` must fit."""
    settings = {
        "BRIDGE_JWT_KEY": tokens.SECRET,
        "BRIDGE_JWT_AUDIENCE": "bridge",
        "BRIDGE_JWT_ISSUER": "me",
        "BRIDGE_PORT": "0",
    }
    process = processes.start("serve", "--no-listener", **deployment.settings, **settings).listening().healthy()
    server = Guarded(Place("strict", process.url), tokens.SECRET)
    for claims in (
        {},
        {"aud": "bridge"},
        {"iss": "me"},
        {"aud": "other", "iss": "me"},
        {"aud": "bridge", "iss": "you"},
    ):
        assert server.refusal("/ws", **claims) == 401
    good = server.token(aud=["other", "bridge"], iss="me")
    open_client(server.place, "/ws", headers={"Authorization": f"Bearer {good}"})


def test_tokens_are_not_logged(deployment: Deployment, processes: Nursery, open_client: Open) -> None:
    """A request's token is in no log, at any level, and in no answer."""
    settings = {"BRIDGE_JWT_KEY": tokens.SECRET, "BRIDGE_LOG_LEVEL": "debug", "BRIDGE_PORT": "0"}
    process = processes.start("serve", "--no-listener", **deployment.settings, **settings).listening().healthy()
    good, bad = tokens.token(sub="somebody"), tokens.token("another key of 32 bytes and some more", sub="else")
    open_client(Place("noisy", process.url), f"/ws?token={good}")
    answers = [
        handshake(process.url, f"/ws?token={bad}"),
        handshake(process.url, "/ws", {"Authorization": f"Bearer {bad}"}),
    ]
    process.end()
    for secret in (good, bad, good.split(".")[1], bad.split(".")[1], tokens.SECRET):
        assert secret not in process.log()
        assert all(secret not in answer.text for answer in answers)


def _origin(place: Place, path: str, origin: str, host: str | None = None, token: str = "") -> Answer:
    headers = {"Origin": origin} | ({"Host": host} if host else {})
    if path.startswith("/sse"):
        with stream(place.url, f"{path}?token={token}" if token else path, headers) as opened:
            return Answer(opened.status, opened.headers, b"")
    return handshake(place.url, path, headers)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "nonsense"])
def test_foreign_origins(deployment: Deployment, open_client: Open, origin: str) -> None:
    """403 for an origin that is neither the same nor listed, for WebSockets and streams."""
    for path in ("/ws", "/sse"):
        assert _origin(deployment.servers[0], path, origin).status == 403


def test_the_same_origin(deployment: Deployment, open_client: Open) -> None:
    """The same origin is welcome, and so is a client without any `Origin` header."""
    place = deployment.servers[0]
    open_client(place, "/ws", origin=place.url)
    open_client(place, "/ws")


def test_listed_origins(deployment: Deployment, guarded: Guarded, open_client: Open) -> None:
    """`BRIDGE_ALLOWED_ORIGINS` with wildcards in the host; listed origins get CORS headers on `/sse`."""
    if not deployment.is_local:
        pytest.skip("which origins are listed is not known of a given deployment")
    token = guarded.token()
    for origin in (PAGE, "https://a.wild.example"):
        open_client(guarded.place, f"/ws?token={token}", origin=origin)
        answer = _origin(guarded.place, "/sse", origin, token=token)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
    for origin in ("http://app.example", "https://wild.example.evil", "https://app.example:444"):
        with pytest.raises(Refused) as refused:
            open_client(guarded.place, f"/ws?token={token}", origin=origin)
        assert refused.value.status == 403


def test_foreign_hosts(deployment: Deployment) -> None:
    """With auth `none`, `Host` must be loopback or listed but for WebSockets (DNS rebinding)."""
    if deployment.has_auth:
        pytest.skip("this deployment wants tokens")
    place = deployment.servers[0]
    for path in ("/health", "/status", "/metrics", "/sse", "/"):
        assert request(place.url, path, {"Host": "evil.example"}).status == 403
    assert request(place.url, "/health", {"Host": "localhost"}).status == 200
    foreign = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert handshake(place.url, "/ws", foreign).status == 403
