"""The /status of a pod: the keys of one process, from what its processes say. Pure.

Clients, bytes and rates are added up. One worker speaks for all where a sum has no meaning (position, since when and
why, the switches): of those in the mode that the pod has, the one that runs longest. The listener speaks for
PostgreSQL and for what goes into the log, as it does in a process that has one of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from bridge.feed.delivery import RECENT
from bridge.pod.merge_metrics import merged_mode

Json = dict[str, Any]
State = Literal["up", "starting", "silent"]

_SUMMED: Final = ("buffered_bytes", "slow_disconnects")
_RATES_OF_ONE: Final = frozenset({"events_per_second"})
"""Every worker gets the same events."""
_WORST_FIRST: Final = ("refusing", "lost", "unknown", "unproven", "suspect", "away", "proven", "live", "closed", "off")


@dataclass(frozen=True)
class Part:
    """One process. `status` is the last that it said; None where it has not said anything yet."""

    name: str
    role: Literal["listener", "worker"]
    pid: int | None
    restarts: int
    state: State
    status: Mapping[str, Any] | None


def merge_status(parts: Sequence[Part], uptime_seconds: float) -> Json:
    """The whole; `{}` where no worker has said anything yet."""
    workers = [part for part in parts if part.role == "worker"]
    told = [part.status for part in workers if part.status is not None]
    if not told:
        return {}
    mode = merged_mode(status["mode"] for status in told)
    speaker = max((each for each in told if each["mode"] == mode), key=_uptime, default=told[0])
    listener = next((part for part in parts if part.role == "listener"), None)
    whole = dict(speaker)
    for name in ("reason", "draining"):
        whole.pop(name, None)
        if found := next((each[name] for each in told if each.get(name)), None):
            whole[name] = found
    whole |= {
        "status": _status(mode, parts),
        "mode": mode,
        "clients": sum(each["clients"] for each in told),
        **{name: sum(each[name] for each in told) for name in _SUMMED},
        "links": _links(told, listener),
        "uptime_seconds": round(uptime_seconds, 1),
        "rates": _rates([part.status for part in parts if part.status is not None]),
        "latency": _latency([each["latency"] for each in told]),
        "gaps": _gaps(told),
        "processes": [_process(part) for part in parts],
    }
    return whole


def _uptime(status: Mapping[str, Any]) -> float:
    return float(status.get("uptime_seconds", 0.0))


def _status(mode: str, parts: Iterable[Part]) -> str:
    if mode == "none":
        return "down"
    return "ok" if all(_health(part) == "ok" for part in parts) else "degraded"


def _health(part: Part) -> str:
    """What a process says of itself; what is not there or does not answer says nothing."""
    if part.state != "up" or part.status is None:
        return part.state if part.state != "up" else "starting"
    return str(part.status["status"])


def _process(part: Part) -> Json:
    status = part.status or {}
    shown: Json = {"name": part.name, "pid": part.pid, "role": part.role, "status": _health(part)}
    shown |= {"mode": status.get("mode", "none"), "restarts": part.restarts}
    if part.role == "worker":
        shown["clients"] = status.get("clients", 0)
    shown["uptime_seconds"] = status.get("uptime_seconds", 0.0)
    return shown


def _links(told: Sequence[Mapping[str, Any]], listener: Part | None) -> Json:
    """Each link as the worst of the workers sees it; as the listener does, where there is one."""
    links = [each["links"] for each in told]
    postgres = _worst([each["postgres"] for each in links], "state")
    redis = _worst([each["redis"] for each in links], "log")
    if listener is None:
        return {"postgres": postgres, "redis": redis}
    heard = (listener.status or {}).get("links", {})
    nothing = {"state": "unknown", "error": None}
    return {"postgres": heard.get("postgres", nothing), "redis": redis | heard.get("redis", nothing)}


def _worst(links: Sequence[Json], part: str) -> Json:
    def rank(link: Json) -> int:
        state = link.get(part)
        return _WORST_FIRST.index(state) if state in _WORST_FIRST else len(_WORST_FIRST)

    return min(links, key=rank)


def _rates(told: Sequence[Mapping[str, Any]]) -> Json:
    rates = [each["rates"] for each in told]
    return {
        name: round((max if name in _RATES_OF_ONE else sum)(each.get(name, 0.0) for each in rates), 1)
        for name in rates[0]
    }


def _latency(told: Sequence[Json]) -> Json:
    """The median of the worker in the middle, by samples; the slowest 99th hundredth of all."""
    busiest = max(told, key=lambda each: int(each["samples"]))
    same = [each for each in told if each["leg"] == busiest["leg"] and each["samples"]]
    if not same:
        return busiest
    samples = sum(each["samples"] for each in same)
    passed, median = 0, same[0]["p50_ms"]
    for each in sorted(same, key=lambda each: float(each["p50_ms"])):
        median, passed = each["p50_ms"], passed + each["samples"]
        if passed * 2 >= samples:
            break
    return {
        "p50_ms": median,
        "p99_ms": max(each["p99_ms"] for each in same),
        "samples": samples,
        "leg": busiest["leg"],
    }


def _gaps(told: Sequence[Mapping[str, Any]]) -> list[Json]:
    """All that were announced, each once, the newest last."""
    found: dict[tuple[Any, ...], Json] = {}
    for gap in sorted((gap for each in told for gap in each["gaps"]), key=lambda gap: str(gap["at"])):
        found.setdefault((gap["after"], gap["before"], gap["reason"]), gap)
    return list(found.values())[-RECENT:]
