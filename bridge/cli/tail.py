"""`tail`: follow a running bridge, print what it sends, connect again when it is lost, and go on where it was."""

import os
import random
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import SplitResult, quote, unquote_plus, urlencode, urlsplit

import msgspec
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
LONGEST_RETRY_SECONDS = 60
"""A bridge that sends clients away says when they may come back, and is believed up to this."""
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what others bind to, replaced here

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Print = Callable[[str], None]

_RETRY = re.compile(r"retry=([0-9]{1,9})")


class _Marks(msgspec.Struct):
    """What a message says of where its client stands."""

    type: str = ""
    id: str | None = None
    cursor: str | None = None
    position: str | None = None


_marks = msgspec.json.Decoder(_Marks)


def run_tail(
    flags: Flags, *, url: str | None, channels: Sequence[str], where: Sequence[str], after: str | None, as_json: bool
) -> None:
    """Print events until SIGINT, SIGTERM, a refusal by the bridge (BridgeError) or the end of whoever reads."""
    settings = load(flags)
    target = websocket_url(url or _default_url(settings), channels, where)
    if after is not None:
        target = resumed(target, after)
    try:
        run_trio(partial(follow, target, printer(as_json=as_json), Backoff(settings.retry_seconds)))
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


def resumed(url: str, cursor: str) -> str:
    """The URL that goes on after this cursor."""
    parts = urlsplit(url)
    kept = [pair for pair in parts.query.split("&") if pair and not _is_parameter(pair, "after")]
    return parts._replace(query="&".join([*kept, f"after={quote(cursor, safe='')}"])).geturl()


def cursor_after(message: str) -> str | None:
    """The cursor that goes on after this message; None where it says nothing of that."""
    try:
        marks = _marks.decode(message)
    except (ValueError, RecursionError):
        return None
    return marks.cursor or (marks.id if marks.type == "notification" else marks.position)


def _shown(url: str) -> str:
    """The URL without what it is no use to see, or not for everybody's eyes."""
    parts = urlsplit(url)
    kept = [pair for pair in parts.query.split("&") if not _is_parameter(pair, "after", "token")]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="&".join(kept)).geturl()


def _is_parameter(pair: str, *names: str) -> bool:
    return unquote_plus(pair.partition("=")[0]) in names


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
    """The embedded bridge of this machine, unless settings say where to look. Raises SettingsError."""
    bridge = newest(serving=True)
    if bridge is not None and bridge.url and settings.embedded and not settings.model_fields_set & {"host", "port"}:
        return bridge.url
    if settings.port == 0:
        raise SettingsError("--url is needed: BRIDGE_PORT (--port) is 0, which says nothing of where a bridge listens")
    host = _ANY_ADDRESS.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


async def follow(url: str, show: Print, backoff: Backoff) -> None:
    """Give every message of a bridge to `show`, over as many connections as it takes, each event once.

    Ends by cancellation, or where `show` raises. Raises BridgeError where the bridge refuses.
    """

    def show_and_go_on(message: str) -> None:
        nonlocal url
        show(message)
        cursor = cursor_after(message)
        if cursor:
            url = resumed(url, cursor)

    while True:
        began = trio.current_time()
        retry_seconds: float | None = None
        try:
            await _session(urlsplit(url), show_and_go_on)
        except ConnectionRejected as error:
            said = f"HTTP {error.status_code}: {message_of(error.body)}"
            if 400 <= error.status_code < 500 and error.status_code != 429:
                refusal = SettingsError if error.status_code in (400, 404) else BridgeError
                raise refusal(f"The bridge refused with {said}") from None
            problem = said
        except ConnectionClosed as error:
            reason = error.reason
            problem = f"closed with {reason.code} {reason.reason or reason.name}" if reason else "closed"
            retry_seconds = _hint(reason.reason or "") if reason else None
        except trio.TooSlowError:
            problem = "no answer in time"
        except BrokenPipeError:
            raise
        except (HandshakeError, trio.BrokenResourceError, OSError) as error:
            problem = _reason(error)
        if trio.current_time() - began > HEALTHY_SECONDS:
            backoff.reset()
        delay_seconds = backoff.next(random.random()) if retry_seconds is None else retry_seconds
        _say(f"Lost {_shown(url)}: {problem}. Trying again in {delay_seconds:.1f} s")
        await trio.sleep(delay_seconds)


def _hint(reason: str) -> float | None:
    """When to come back, where the bridge says so."""
    match = _RETRY.fullmatch(reason)
    return min(float(match[1]), LONGEST_RETRY_SECONDS) if match else None


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
        stream = await trio.open_ssl_over_tcp_stream(host, url.port or 443)
        await stream.do_handshake()  # later its errors could not be told from those of the WebSocket
        return stream
    return await trio.open_tcp_stream(host, url.port or 80)


async def _converse(nursery: trio.Nursery, stream: Stream, url: SplitResult, show: Print) -> None:
    resource = url._replace(scheme="", netloc="").geturl()
    with trio.fail_after(CONNECT_SECONDS):
        connection = await wrap_client_stream(
            nursery, stream, url.netloc.rpartition("@")[2], resource, max_message_size=LONGEST_MESSAGE_BYTES
        )
    _say(f"Connected to {_shown(url.geturl())}")
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
    """The error's text, or that of its cause (TLS), and of the attempts it was made from the first."""
    cause = error.__cause__
    if cause is not None and not str(error):
        return error_text(cause)
    attempts = f": {error_text(cause.exceptions[0])}" if isinstance(cause, BaseExceptionGroup) else ""
    return error_text(error) + attempts


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
