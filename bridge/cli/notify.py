"""`notify`: send NOTIFYs, from the command line or from standard input."""

import sys
from collections.abc import Iterable, Iterator
from functools import partial

from bridge.announcement import newest
from bridge.cli.options import Flags
from bridge.cli.signals import run_trio
from bridge.errors import SettingsError
from bridge.settings import Settings, channel_problem, load


def run_notify(flags: Flags, channel: str, payload: str) -> None:
    """Send one payload, or with ``-`` each line of standard input as it comes."""
    settings = load(flags)
    if problem := channel_problem(channel):
        raise SettingsError(f"CHANNEL: {problem}")
    conninfo = _conninfo(settings)
    if channel not in settings.channels:
        print(
            f"Warning: {channel} is not among BRIDGE_CHANNELS, so bridges with these settings do not listen to it",
            file=sys.stderr,
        )
    payloads: Iterable[str] = _lines() if payload == "-" else [payload]

    from bridge.links.postgres import notify

    run_trio(partial(notify, conninfo, channel, payloads))


def _conninfo(settings: Settings) -> str:
    if not settings.embedded:
        return settings.conninfo()
    bridge = newest()
    if bridge is None:
        raise SettingsError("DATABASE_URL and DB_HOST are not set, and no embedded bridge of this user is running")
    return bridge.database_url


def _lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        yield line.removesuffix(b"\n").removesuffix(b"\r").decode(errors="surrogateescape")
