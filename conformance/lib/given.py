"""What the environment says of the deployment to check. conformance/README.md explains every variable."""

import os
import shlex
from dataclasses import dataclass, field

DEFAULT_CHANNELS = (
    "matchdata_change,match_change,scoreboard_change,playclock_change,"
    "gameclock_change,football_event_change,player_match_change"
)


@dataclass(frozen=True)
class Place:
    """A process of the deployment: what commands call it, and where it answers (empty where it is not reachable)."""

    name: str
    url: str = ""


@dataclass(frozen=True)
class Given:
    """A deployment that is there already. Everything that is empty is not known, and what needs it is skipped."""

    servers: tuple[Place, ...]
    listeners: tuple[Place, ...] = ()
    psql: tuple[str, ...] = ()
    redis_cli: tuple[str, ...] = ()
    redis_name: str = "redis"
    postgres_name: str = "postgres"
    kill: str = ""
    start: str = ""
    stop: str = ""
    logs: str = ""
    jwt_key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    prefix: str = "pg_notify"
    channels: tuple[str, ...] = ()


def given() -> Given | None:
    """The deployment that the environment names; None for one of our own."""
    servers = _places("CONFORMANCE_URLS", "server")
    if not servers:
        return None
    return Given(
        servers,
        _places("CONFORMANCE_LISTENERS", "listener"),
        _command("CONFORMANCE_PSQL", "psql", os.environ.get("DATABASE_URL", "")),
        _command("CONFORMANCE_REDIS_CLI", "redis-cli -u", os.environ.get("REDIS_URL", "")),
        os.environ.get("CONFORMANCE_REDIS", "redis"),
        os.environ.get("CONFORMANCE_POSTGRES", "postgres"),
        os.environ.get("CONFORMANCE_KILL", ""),
        os.environ.get("CONFORMANCE_START", ""),
        os.environ.get("CONFORMANCE_STOP", ""),
        os.environ.get("CONFORMANCE_LOGS", ""),
        os.environ.get("CONFORMANCE_JWT_KEY", ""),
        os.environ.get("CONFORMANCE_TOKEN", ""),
        os.environ.get("BRIDGE_REDIS_PREFIX", "") or "pg_notify",
        tuple((os.environ.get("BRIDGE_CHANNELS", "") or DEFAULT_CHANNELS).split(",")),
    )


def _places(variable: str, kind: str) -> tuple[Place, ...]:
    """`name=URL`, a URL or a name each, separated by commas."""
    places = []
    for number, text in enumerate(filter(None, os.environ.get(variable, "").split(",")), 1):
        name, sign, url = text.strip().partition("=")
        if sign and "://" not in name:
            places.append(Place(name, url.rstrip("/")))
        elif "://" in text:
            places.append(Place(f"{kind}{number}", text.strip().rstrip("/")))
        else:
            places.append(Place(text.strip()))
    return tuple(places)


def _command(variable: str, program: str, url: str) -> tuple[str, ...]:
    """A whole command from the environment, or this program with the URL, or nothing."""
    if command := os.environ.get(variable, ""):
        return tuple(shlex.split(command))
    return (*program.split(), url) if url else ()
