"""`tail`: follow a running bridge, print what it sends, connect again when it is lost."""

import math
import os
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import SplitResult, urlencode, urlsplit

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    ConnectionTimeout,
    DisconnectionTimeout,
    HandshakeError,
    WebSocketConnection,
    open_websocket_url,
)

from bridge.announcement import newest
from bridge.cli.options import Flags
from bridge.cli.printing import message_of, printer
from bridge.core.backoff import Backoff
from bridge.errors import BridgeError, SettingsError
from bridge.settings import Settings, load
from bridge.telemetry import error_text

IDLE_SECONDS = 30.0
"""Silence after which the bridge is pinged."""
PONG_SECONDS = 10.0
HEALTHY_SECONDS = 5.0
"""A connection that lasted so long makes the next delay short again."""
LONGEST_MESSAGE_BYTES = 2**24
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what others bind to, replaced here

Print = Callable[[str], None]


def run_tail(flags: Flags, *, url: str | None, channels: Sequence[str], where: Sequence[str], as_json: bool) -> None:
    """Print events until SIGINT, SIGTERM, a refusal by the bridge (BridgeError) or the end of whoever reads."""
    settings = load(flags)
    target = websocket_url(url or _default_url(settings), channels, where)
    try:
        trio.run(partial(_follow, target, printer(as_json=as_json), Backoff(settings.retry_seconds)))
    except* BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at exit


def websocket_url(url: str, channels: Sequence[str], where: Sequence[str]) -> str:
    """The URL to subscribe at: ``/ws`` unless the URL has a path. Raises SettingsError."""
    parts = _split(url)
    conditions = [condition.partition("=") for condition in where]
    for condition, (field, sign, _value) in zip(where, conditions, strict=True):
        if not field or not sign:
            raise SettingsError(f"--where: {condition!r} is not allowed; give FIELD=VALUE")
    added = urlencode(
        [("channel", channel) for channel in channels] + [(f"where.{field}", value) for field, _, value in conditions]
    )
    query = "&".join(filter(None, [parts.query, added]))
    path = parts.path if parts.path.strip("/") else "/ws"
    return parts._replace(scheme=_SCHEMES[parts.scheme], path=path, query=query, fragment="").geturl()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"--url: {url!r} is not allowed; give a URL such as http://127.0.0.1:8000")
    return parts


def _default_url(settings: Settings) -> str:
    """The embedded bridge of this machine, unless settings say where to look."""
    bridge = newest(serving=True)
    if bridge is not None and bridge.url and settings.embedded and not settings.model_fields_set & {"host", "port"}:
        return bridge.url
    host = _ANY_ADDRESS.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


async def _follow(url: str, show: Print, backoff: Backoff) -> None:
    while True:
        connected_at = math.inf
        try:
            async with open_websocket_url(url, max_message_size=LONGEST_MESSAGE_BYTES) as connection:
                _say(f"Connected to {url}")
                connected_at = trio.current_time()
                await _receive(connection, show)
        except ConnectionRejected as error:
            if 400 <= error.status_code < 500:
                raise BridgeError(
                    f"The bridge refused with HTTP {error.status_code}: {message_of(error.body)}"
                ) from None
            problem = f"HTTP {error.status_code}: {message_of(error.body)}"
        except ConnectionClosed as error:
            reason = error.reason
            problem = f"closed with {reason.code} {reason.reason or reason.name}" if reason else "closed"
        except (ConnectionTimeout, DisconnectionTimeout, trio.TooSlowError):
            problem = "no answer in time"
        except BrokenPipeError:
            raise
        except (HandshakeError, OSError) as error:
            problem = error_text(error.__cause__ or error)
        if trio.current_time() - connected_at > HEALTHY_SECONDS:
            backoff.reset()
        delay_seconds = backoff.next(random.random())
        _say(f"Lost {url}: {problem}. Trying again in {delay_seconds:.1f} s")
        await trio.sleep(delay_seconds)


async def _receive(connection: WebSocketConnection, show: Print) -> None:
    while True:
        message: str | bytes | None = None
        with trio.move_on_after(IDLE_SECONDS):
            message = await connection.get_message()
        if message is None:
            with trio.fail_after(PONG_SECONDS):
                await connection.ping()
            continue
        show(message if isinstance(message, str) else message.decode(errors="replace"))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
