"""`tail`: follow a running bridge, print what it sends, connect again when it is lost."""

import os
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import SplitResult, urlencode, urlsplit

import outcome
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, WebSocketConnection, wrap_client_stream

from bridge.announcement import newest
from bridge.cli.options import Flags
from bridge.cli.printing import message_of, printer
from bridge.cli.signals import run_trio
from bridge.core.backoff import Backoff
from bridge.errors import BridgeError, SettingsError
from bridge.settings import Settings, load
from bridge.telemetry import error_text

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 1.0
IDLE_SECONDS = 30.0
"""Silence after which the bridge is pinged."""
PONG_SECONDS = 10.0
HEALTHY_SECONDS = 5.0
"""A connection that lasted so long makes the next delay short again."""
LONGEST_MESSAGE_BYTES = 2**24
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what others bind to, replaced here

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Print = Callable[[str], None]


def run_tail(flags: Flags, *, url: str | None, channels: Sequence[str], where: Sequence[str], as_json: bool) -> None:
    """Print events until SIGINT, SIGTERM, a refusal by the bridge (BridgeError) or the end of whoever reads."""
    settings = load(flags)
    target = websocket_url(url or _default_url(settings), channels, where)
    try:
        run_trio(partial(_follow, target, printer(as_json=as_json), Backoff(settings.retry_seconds)))
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
        began = trio.current_time()
        try:
            await _session(urlsplit(url), show)
        except ConnectionRejected as error:
            said = f"HTTP {error.status_code}: {message_of(error.body)}"
            if 400 <= error.status_code < 500:
                refusal = SettingsError if error.status_code in (400, 404) else BridgeError
                raise refusal(f"The bridge refused with {said}") from None
            problem = said
        except ConnectionClosed as error:
            reason = error.reason
            problem = f"closed with {reason.code} {reason.reason or reason.name}" if reason else "closed"
        except trio.TooSlowError:
            problem = "no answer in time"
        except BrokenPipeError:
            raise
        except (HandshakeError, trio.BrokenResourceError, OSError) as error:
            problem = _reason(error)
        if trio.current_time() - began > HEALTHY_SECONDS:
            backoff.reset()
        delay_seconds = backoff.next(random.random())
        _say(f"Lost {url}: {problem}. Trying again in {delay_seconds:.1f} s")
        await trio.sleep(delay_seconds)


async def _session(url: SplitResult, show: Print) -> None:
    """One connection, until it ends with an exception.

    The stream is ours because trio-websocket does not close it where the other side closed first; what its reader task
    raises (a refusal) comes out of the nursery as a group of one.
    """
    with trio.fail_after(CONNECT_SECONDS):
        stream = await _open_stream(url)
    async with stream:
        try:
            async with trio.open_nursery() as nursery:
                ended = await outcome.acapture(_converse, nursery, stream, url, show)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
        ended.unwrap()


async def _open_stream(url: SplitResult) -> Stream:
    host = str(url.hostname)
    if url.scheme == "wss":
        return await trio.open_ssl_over_tcp_stream(host, url.port or 443)
    return await trio.open_tcp_stream(host, url.port or 80)


async def _converse(nursery: trio.Nursery, stream: Stream, url: SplitResult, show: Print) -> None:
    resource = url._replace(scheme="", netloc="").geturl()
    with trio.fail_after(CONNECT_SECONDS):
        connection = await wrap_client_stream(
            nursery, stream, url.netloc.rpartition("@")[2], resource, max_message_size=LONGEST_MESSAGE_BYTES
        )
    _say(f"Connected to {url.geturl()}")
    try:
        await _receive(connection, show)
    finally:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await connection.aclose()


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


def _reason(error: BaseException) -> str:
    """The error's text, and of the attempts it was made from the first."""
    cause = error.__cause__
    attempts = f": {error_text(cause.exceptions[0])}" if isinstance(cause, BaseExceptionGroup) else ""
    return error_text(error) + attempts


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
