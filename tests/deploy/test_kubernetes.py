"""deploy/kubernetes.yaml: by Kubernetes' own schemas, by the bridge's settings, and by what the file says of itself."""

import re
import signal
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from bridge.server.drain import LAST_SECONDS
from bridge.settings import Settings, load, variable
from tests.support.postgres import PostgresServer, free_port
from tests.support.process import BridgeProcess, bridge, wait_until

FILE = Path(__file__).parents[2] / "deploy" / "kubernetes.yaml"
TEXT = FILE.read_text()
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all(TEXT))
VERSIONS = ("1.30", "1.33", "1.37")
SPARE_SECONDS = 5.0
"""Of the grace period, at least."""

SECRETS = {
    "DATABASE_URL": "postgresql://bridge:secret@postgres.example:5432/app",
    "REDIS_URL": "redis://:secret@redis.example:6379",
    "BRIDGE_JWT_KEY": "k" * 48,
}


def names(kind: str) -> list[str]:
    return [document["metadata"]["name"] for document in DOCUMENTS if document["kind"] == kind]


def document(kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in DOCUMENTS if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = document("Deployment", name)["spec"]["template"]["spec"]
    return spec


def container(deployment: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in pod(deployment)["containers"] if each["name"] == name)
    assert isinstance(found, dict)
    return found


BRIDGES = [("notify-bridge", "server"), ("notify-bridge-listener", "listener"), ("backend", "notify-listener")]
SERVER, LISTENER, SIDECAR = BRIDGES


def environment(deployment: str, name: str) -> dict[str, str]:
    """What the container gets, with examples of secrets."""
    found = container(deployment, name)
    values: dict[str, str] = {}
    for source in found.get("envFrom", ()):
        (kind, reference), *others = source.items()
        assert (reference, others) == ({"name": "notify-bridge"}, [])
        values |= SECRETS if kind == "secretRef" else document("ConfigMap", "notify-bridge")["data"]
    for entry in found.get("env", ()):
        key = entry.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
        values[entry["name"]] = entry["value"] if key is None else SECRETS.get(key, "example")
    return values


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("number", range(len(DOCUMENTS)))
def test_every_document_fits_the_schema(number: int, version: str) -> None:
    kubernetes_validate.validate(DOCUMENTS[number], version, strict=True)


def test_the_schema_refuses_what_is_wrong() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(document("Deployment", "notify-bridge")))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_both_forms_are_there() -> None:
    assert names("Deployment") == ["notify-bridge", "notify-bridge-listener", "backend"]
    assert names("PodDisruptionBudget") == ["notify-bridge", "notify-bridge-listener", "backend"]
    forms = {(each["kind"], each["metadata"]["name"]): each["metadata"]["labels"]["form"] for each in DOCUMENTS}
    assert {key for key, form in forms.items() if form == "sidecar"} == {
        ("Deployment", "backend"),
        ("PodDisruptionBudget", "backend"),
    }
    assert set(forms.values()) == {"plain", "sidecar"}
    assert "-l form!=sidecar" in TEXT
    assert "-l form=sidecar" in TEXT


def test_selectors_find_their_pods_and_no_others() -> None:
    pods = {
        name: document("Deployment", name)["spec"]["template"]["metadata"]["labels"] for name in names("Deployment")
    }

    def selected(labels: dict[str, str]) -> list[str]:
        return [name for name, has in pods.items() if labels.items() <= has.items()]

    for name in pods:
        spec = document("Deployment", name)["spec"]
        assert selected(spec["selector"]["matchLabels"]) == [name]
        assert selected(document("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"]) == [name]
        assert spec["replicas"] == 2
        for constraint in spec["template"]["spec"].get("topologySpreadConstraints", ()):
            assert selected(constraint["labelSelector"]["matchLabels"]) == [name]
    service = document("Service", "notify-bridge")["spec"]
    assert selected(service["selector"]) == ["notify-bridge"]
    assert service["ports"][0]["targetPort"] in {port["name"] for port in container(*SERVER)["ports"]}
    for name in ("notify-bridge", "notify-bridge-listener"):
        keys = {constraint["topologyKey"] for constraint in pod(name)["topologySpreadConstraints"]}
        assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}


@pytest.mark.parametrize("place", BRIDGES, ids=lambda place: place[1])
def test_the_environment_is_made_of_settings_and_they_fit(
    place: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment(*place)
    assert given.keys() <= {variable(field) for field in Settings.model_fields}
    monkeypatch.chdir(tmp_path)
    for name in map(variable, Settings.model_fields):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    serves = container(*place)["args"][0] == "serve"
    settings = load(default_port=8000 if serves else 8001, serves_clients=serves)
    assert not settings.embedded
    assert not settings.loopback  # the kubelet comes from outside the pod
    assert settings.use_redis_notifier or not serves
    (port,) = container(*place)["ports"]
    assert port["containerPort"] == settings.port
    if serves:
        assert settings.authenticates
    else:
        assert not settings.has_jwt_key


def test_what_is_secret_is_referenced_and_its_making_is_told() -> None:
    assert "Secret" not in {each["kind"] for each in DOCUMENTS}
    for deployment, name in BRIDGES:
        for entry in container(deployment, name).get("env", ()):
            if "PASSWORD" in entry["name"] or entry["name"] == "DATABASE_URL":
                assert "value" not in entry
    commands = re.sub(r"\\\n# *", " ", TEXT)
    for reference in re.findall(r"secretKeyRef: {name: ([a-z-]+), key: (\w+)}", TEXT):
        secret, key = reference
        assert re.search(rf"kubectl create secret generic {secret} .*--from-literal={key}=", commands)
    for key in SECRETS:
        assert f"--from-literal={key}=" in commands


@pytest.mark.parametrize("place", BRIDGES, ids=lambda place: place[1])
def test_nothing_may_be_done_that_need_not(place: tuple[str, str]) -> None:
    whole, part = pod(place[0])["securityContext"], container(*place)["securityContext"]
    both = whole | part
    assert both == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(place[0])["enableServiceLinks"] is False
    resources = container(*place)["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert set(resources["limits"]) == {"memory"}


def path(place: tuple[str, str], probe: str) -> str | None:
    found = container(*place).get(f"{probe}Probe")
    if found is None:
        return None
    (port,) = container(*place)["ports"]
    assert found["httpGet"]["port"] == port["name"]
    return str(found["httpGet"]["path"])


def test_probes() -> None:
    for place in (SERVER, LISTENER):
        assert [path(place, probe) for probe in ("startup", "readiness", "liveness")] == [
            "/health",
            "/ready",
            "/health",
        ]
    assert [path(SIDECAR, probe) for probe in ("startup", "readiness", "liveness")] == [None, None, "/health"]


def test_the_grace_period_holds_the_drain() -> None:
    drain_seconds = float(environment(*SERVER)["BRIDGE_DRAIN_SECONDS"])
    waits_seconds = container(*SERVER)["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace_seconds = pod("notify-bridge")["terminationGracePeriodSeconds"]
    assert grace_seconds >= waits_seconds + drain_seconds + LAST_SECONDS + SPARE_SECONDS


def given(deployment: str, name: str, **changes: str) -> dict[str, str]:
    """The container's environment, but for the servers, and the port that others may use."""
    return environment(deployment, name) | {"BRIDGE_HOST": "127.0.0.1", "BRIDGE_PORT": "0"} | changes


def answers(process: BridgeProcess) -> tuple[int, int]:
    return process.get("/health")[0], process.get("/ready")[0]


@pytest.mark.parametrize("place", [LISTENER, SERVER, SIDECAR], ids=lambda place: place[1])
def test_nothing_is_restarted_while_both_servers_are_away(place: tuple[str, str]) -> None:
    nowhere = {
        "DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/x",
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}",
    }
    with bridge(given(*place, **nowhere), *container(*place)["args"]) as process:
        wait_until(lambda: "Connection error" in process.log(), process.log)
        assert answers(process) == (200, 503)
        assert process.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(("place", "ready"), [(SERVER, 200), (LISTENER, 503)], ids=["server", "listener"])
def test_without_redis_servers_stay_ready(postgres: PostgresServer, place: tuple[str, str], ready: int) -> None:
    servers = {"DATABASE_URL": postgres.url(), "REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    with bridge(given(*place, **servers), *container(*place)["args"]) as process:
        wait_until(lambda: process.get("/ready")[0] == ready and "PostgreSQL" in process.log(), process.log)
        assert answers(process) == (200, ready)
