"""`notify`: send NOTIFYs, from the command line or from standard input."""

import os
import sys
from collections import deque
from collections.abc import AsyncIterable, Iterable
from functools import partial
from typing import Self

import trio

from bridge.announcement import newest
from bridge.cli.options import Flags
from bridge.cli.signals import run_trio
from bridge.errors import SettingsError
from bridge.settings import Settings, channel_problem, load

MAX_PAYLOAD_BYTES = 7_999
READ_BYTES = 65_536


def run_notify(flags: Flags, channel: str, payload: str) -> None:
    """Send one payload, or with ``-`` each line of standard input as it comes."""
    settings = load(flags)
    if problem := channel_problem(channel):
        raise SettingsError(f"CHANNEL: {problem}")
    size = len(payload.encode(errors="surrogateescape"))
    if size > MAX_PAYLOAD_BYTES:
        raise SettingsError(f"PAYLOAD: PostgreSQL takes at most 7,999 bytes, and this one has {size:,}")
    conninfo = _conninfo(settings)
    if channel not in settings.channels:
        print(
            f"Warning: {channel} is not among BRIDGE_CHANNELS, so bridges with these settings do not listen to it",
            file=sys.stderr,
        )
    payloads: Iterable[str] | AsyncIterable[str] = Lines() if payload == "-" else [payload]

    from bridge.links.postgres import notify

    run_trio(partial(notify, conninfo, channel, payloads))


def _conninfo(settings: Settings) -> str:
    if not settings.embedded:
        return settings.conninfo()
    bridge = newest()
    if bridge is None:
        raise SettingsError("DATABASE_URL and DB_HOST are not set, and no embedded bridge of this user is running")
    return bridge.database_url


class Lines:
    """The lines of standard input, each as soon as it is there.

    Read in a thread, and without Python's buffer, whose lock would spoil the exit of a process that still waits there.
    """

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._rest = b""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._lines:
            data = await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), READ_BYTES, abandon_on_cancel=True)
            if not data and not self._rest:
                raise StopAsyncIteration
            *lines, self._rest = (self._rest + data).split(b"\n") if data else (self._rest, b"")
            self._lines.extend(lines)
        return _text(self._lines.popleft())


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode(errors="surrogateescape")
