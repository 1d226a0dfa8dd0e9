"""The URL of a client: which channels and events it asks for, and where it resumes.

``/ws?channel=a&channel=b&where.match_id=7&after=CURSOR&token=TOKEN``, ``/ws/CHANNEL``, ``/ws/match/ID/stats``, and the
same under ``/sse``. What a token allows of it is decided in `bridge.core.grants`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote

from bridge.core.topics import MAX_FIELDS

MAX_PARAMETERS = 256
_LONGEST_SHOWN = 80

Protocol = Literal["ws", "sse"]


class BadTarget(Exception):
    """A URL that asks for something the bridge does not have; `status` is the HTTP status to answer with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Target:
    """What the URL says."""

    protocol: Protocol
    channels: frozenset[str]
    """As named, each of them known; empty means all that the token allows."""
    where: tuple[tuple[str, str], ...] = ()
    """Fields and their values, in order, each field once."""
    after: str | None = None
    """A cursor, unread."""
    token: str | None = field(default=None, repr=False)
    """Unread; not to be shown to anyone."""


def parse_target(target: str, known: frozenset[str] | None = None) -> Target:
    """Read a request target. `known` are the configured channels; without them, `check_channels` is left to the caller.

    An `after` or `token` that is empty counts as left out, as pages write it who have none yet. Raises BadTarget: 404
    for a path, 400 for anything else. Its text never holds the value of `after` or `token`.
    """
    raw_path, _, raw_query = target.partition("?")
    try:
        path = [unquote(part, errors="strict") if "%" in part else part for part in raw_path.split("/")]
        query = _read_query(raw_query)
    except ValueError:
        raise BadTarget(400, "the URL cannot be read: percent-encoded UTF-8 is expected") from None
    protocol, channels, where = _read_path(path)
    if len(query) > MAX_PARAMETERS:
        raise BadTarget(400, f"the URL has more than {MAX_PARAMETERS} parameters")
    single: dict[str, str] = {}
    for name, value in query:
        if name == "channel":
            channels.add(value)
        elif name.startswith("where."):
            if where.setdefault(name.removeprefix("where."), value) != value:
                raise BadTarget(400, f"{_shown(name)} is given twice, and an event cannot match both")
        elif name in ("after", "token"):
            if single.setdefault(name, value) != value:
                raise BadTarget(400, f"{name} is given twice")
        else:
            raise BadTarget(400, f"unknown parameter {_shown(name)}; there are channel, where.FIELD, after and token")
    if len(where) > MAX_FIELDS:
        raise BadTarget(400, f"more than {MAX_FIELDS} fields are compared")
    if known is not None:
        check_channels(channels, known)
    after, token = (single.get(name) or None for name in ("after", "token"))
    return Target(protocol, frozenset(channels), tuple(sorted(where.items())), after, token)


def check_channels(channels: Iterable[str], known: frozenset[str]) -> None:
    """Raises BadTarget (400) where a channel is not one of the known ones, which are named then."""
    if unknown := sorted(set(channels) - known):
        raise BadTarget(400, f"unknown channel {_shown(unknown[0])}; there are {', '.join(sorted(known))}")


def _read_query(query: str) -> list[tuple[str, str]]:
    if "%" in query or "+" in query:
        return parse_qsl(query, keep_blank_values=True, errors="strict")
    pairs = [part.partition("=") for part in query.split("&") if part]
    return [(name, value) for name, _, value in pairs]


def _read_path(path: list[str]) -> tuple[Protocol, set[str], dict[str, str]]:
    match path:
        case ["", ("ws" | "sse") as protocol]:
            return protocol, set(), {}
        case ["", ("ws" | "sse") as protocol, channel] if channel:
            return protocol, {channel}, {}
        case ["", ("ws" | "sse") as protocol, "match", match_id, "stats"] if match_id:
            return protocol, set(), {"match_id": match_id}
        case _:
            raise BadTarget(404, "there is nothing at this path")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")
