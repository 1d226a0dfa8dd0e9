"""The image, the stack of compose.yaml and its monitoring, checked without an engine: what is promised there, and what
must agree between files that nobody reads side by side.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge import __version__
from bridge.server.drain import LAST_SECONDS
from bridge.settings import Settings, load, variable
from bridge.telemetry import Metrics

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "compose.yaml").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ALERTS = (ROOT / "deploy/prometheus/alerts.yml").read_text()
DASHBOARD = (ROOT / "deploy/grafana/dashboards/bridge.json").read_text()

REFERENCE = re.compile(r"(?<!\$)\$\{(\w+)(:[-?])([^}]*)\}")
"""``${NAME:-default}`` and ``${NAME:?what to do}``."""
SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "BRIDGE_AUTH"}
SIZES = {"m": 2**20, "g": 2**30, "mb": 2**20}

Service = dict[str, Any]


def interpolated(text: str, values: dict[str, str]) -> str:
    """What compose makes of it: references replaced, ``$$`` one dollar."""
    return REFERENCE.sub(lambda found: values.get(found[1]) or (found[3] if found[2] == ":-" else ""), text).replace(
        "$$", "$"
    )


def example(*, commented: bool = False) -> dict[str, str]:
    """The variables of .env.example; with those that are only shown."""
    pattern = rf"^{'#?' if commented else ''}([A-Z_0-9]+)=(.*)$"
    return {found[1]: found[2] for found in re.finditer(pattern, EXAMPLE, re.MULTILINE)}


def size(text: str) -> int:
    """Bytes of ``768m``, ``384mb``."""
    found = re.fullmatch(r"(\d+)([a-z]+)", text)
    assert found is not None, text
    return int(found[1]) * SIZES[found[2]]


SERVICES: dict[str, Service] = yaml.safe_load(interpolated(COMPOSE, example()))["services"]
BRIDGES = {name: service for name, service in SERVICES.items() if service["image"] == "notify-bridge"}


def environment(name: str) -> dict[str, str]:
    return {key: "" if value is None else str(value) for key, value in SERVICES[name]["environment"].items()}


def metric_names(text: str) -> set[str]:
    return set(re.findall(r"\b(?:notify_bridge|process)_\w+", text))


@pytest.fixture
def known_metrics() -> set[str]:
    """Every name that a bridge of this version shows."""
    shown = Metrics().text().decode()
    kinds = re.findall(r"^# TYPE (\S+) (\w+)$", shown, re.MULTILINE)
    return {
        name + suffix
        for name, kind in kinds
        for suffix in (("", "_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_and_bounded_and_can_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries", "start_period", "start_interval"} <= service["healthcheck"].keys()
    assert service["restart"] == "unless-stopped"
    assert size(service["mem_limit"]) > 0
    assert service["cpus"] > 0
    assert service["pids_limit"] > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    if name in ("postgres", "redis"):  # what their entrypoints need to become a user without any
        assert set(service["cap_add"]) == {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETPCAP", "SETUID"}
    else:
        assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert ":" in service["image"] or "build" in service, "an image without a version"


def test_only_this_machine_reaches_a_port() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"server-1", "server-2", "prometheus", "grafana"}
    ports = [port for ports in published.values() for port in ports]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_postgres_redis_and_listeners_are_in_a_network_without_a_way_out() -> None:
    assert yaml.safe_load(COMPOSE)["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "redis", "listener-1", "listener-2"):
        assert SERVICES[name]["networks"] == ["inside"]


@pytest.mark.parametrize("name", BRIDGES)
def test_the_bridge_understands_every_variable_it_is_given(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = environment(name)
    assert given.keys() <= {variable(field) for field in Settings.model_fields}
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields:
        monkeypatch.delenv(variable(field), raising=False)
    for key, value in ({"BRIDGE_HOST": "0.0.0.0"} | given).items():
        monkeypatch.setenv(key, value)
    settings = load(serves_clients=name.startswith("server"))
    assert settings.use_redis_notifier
    assert settings.db_host in SERVICES
    assert settings.redis_url.endswith("@redis:6379")
    memory = size(SERVICES[name]["mem_limit"])
    held = settings.buffers_total_bytes if name.startswith("server") else settings.backlog_bytes
    assert held <= memory / 4, "what is held is not all that a process needs"


def test_two_listeners_and_two_servers_that_do_not_listen() -> None:
    commands = {name: service["command"] for name, service in BRIDGES.items()}
    assert commands == {
        "listener-1": ["listen"],
        "listener-2": ["listen"],
        "server-1": ["serve", "--no-listener"],
        "server-2": ["serve", "--no-listener"],
    }


def test_a_server_has_the_time_to_send_its_clients_away() -> None:
    for name in ("server-1", "server-2"):
        grace = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert grace > float(environment(name)["BRIDGE_DRAIN_SECONDS"]) + LAST_SECONDS


def test_what_is_secret_has_no_default() -> None:
    kinds: dict[str, set[str]] = {}
    for name, kind, _ in REFERENCE.findall(COMPOSE):
        kinds.setdefault(name, set()).add(kind)
    assert {name for name, found in kinds.items() if found == {":?"}} == SECRETS
    assert all(len(found) == 1 for found in kinds.values())


def test_the_example_names_all_that_compose_asks_for_and_nothing_else() -> None:
    asked = {name for name, _, _ in REFERENCE.findall(COMPOSE)}
    assert example(commented=True).keys() == asked
    assert example().keys() == SECRETS


def test_redis_keeps_the_log() -> None:
    config = dict(line.split(" ", 1) for line in SERVICES["redis"]["command"][2].splitlines() if " " in line)
    assert config["maxmemory-policy"] == "noeviction"
    assert config["appendonly"] == "yes"
    assert size(config["maxmemory"]) * 2 <= size(SERVICES["redis"]["mem_limit"])
    pubsub, hard, soft, _ = config["client-output-buffer-limit"].split()
    assert pubsub == "pubsub"
    assert size(soft) < size(hard) < size(config["maxmemory"])


def test_the_image() -> None:
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE
    assert re.search(r"^ARG PYTHON=3\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^USER \d+:\d+$", DOCKERFILE, re.MULTILINE)
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[0]) == ["notify-bridge"]
    assert "HEALTHCHECK" in DOCKERFILE
    assert "embedded" not in re.sub(r"^#.*$", "", DOCKERFILE, flags=re.MULTILINE)
    copied = {
        path for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for path in line.split()[:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def alerts() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(ALERTS)["groups"]:
        yield from group["rules"]


@pytest.mark.parametrize("alert", list(alerts()), ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(alert: dict[str, Any], known_metrics: set[str]) -> None:
    assert metric_names(alert["expr"]) <= known_metrics
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"].keys() == {"summary", "description", "action"}


def test_every_alert_is_tried() -> None:
    tried = (ROOT / "tests/deploy/alerts_test.yml").read_text()
    assert {alert["alert"] for alert in alerts()} == set(re.findall(r'ALERTS{alertname="(\w+)"', tried))


def test_alerts_know_the_limits_of_the_stack() -> None:
    limits = {
        "BridgeBuffersNearLimit": environment("server-1")["BRIDGE_BUFFERS_TOTAL_BYTES"],
        "BridgeBacklogNearLimit": environment("listener-1")["BRIDGE_BACKLOG_BYTES"],
        "BridgeServerMissing": str(sum(name.startswith("server") for name in BRIDGES)),
        "BridgeListenerMissing": str(sum(name.startswith("listener") for name in BRIDGES)),
    }
    found = {alert["alert"]: alert["expr"].split()[-1] for alert in alerts() if alert["alert"] in limits}
    assert found == limits


def test_prometheus_finds_all_bridges() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job["dns_sd_configs"][0] for job in config["scrape_configs"]}
    assert {(job, name) for job, found in jobs.items() for name in found["names"]} == {
        (f"bridge-{name.partition('-')[0]}", name) for name in BRIDGES
    }
    assert (jobs["bridge-server"]["port"], jobs["bridge-listener"]["port"]) == (8000, 8001)
    named = set(re.findall(r'job="([^"]+)"', ALERTS + DASHBOARD.replace('\\"', '"')))
    assert named == jobs.keys()


def test_the_dashboard_shows_what_there_is(known_metrics: set[str]) -> None:
    dashboard = json.loads(DASHBOARD)
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in panels)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert metric_names(" ".join(expressions)) <= known_metrics
    variables = {one["name"] for one in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", DASHBOARD)) <= variables
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    taken = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken)), "panels overlap"
    assert all(place["x"] + place["w"] <= 24 for place in places)
