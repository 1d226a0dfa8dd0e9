"""`tail`: follow a running bridge, print what it sends, connect again when it is lost, and go on where it was."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from bridge.announcement import newest
from bridge.cli.options import Flags
from bridge.cli.printing import printer
from bridge.cli.signals import run_trio
from bridge.client import LinkState, url
from bridge.client.follow import Follower, running
from bridge.core.backoff import Backoff
from bridge.errors import SettingsError
from bridge.settings import Settings, load

LONGEST_MESSAGE_BYTES = 2**24
WAITING_BYTES = 2**20
"""What may wait to be printed."""
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what others bind to, replaced here

Print = Callable[[str], None]


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
    follow_this = partial(follow, target, printer(as_json=as_json), Backoff(settings.retry_seconds), after)
    try:
        run_trio(follow_this)
    except* BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at exit


def websocket_url(base: str, channels: Sequence[str], where: Sequence[str]) -> str:
    """The URL to subscribe at: ``/ws`` unless the URL has a path. Raises SettingsError."""
    conditions = [condition.partition("=") for condition in where]
    for condition, (field, sign, _value) in zip(where, conditions, strict=True):
        if not field or not sign:
            raise SettingsError(f"--where: {condition!r} is not allowed; give FIELD=VALUE")
    return url.websocket_url(base, channels, [(field, value) for field, _, value in conditions], name="--url")


async def follow(target: str, show: Print, backoff: Backoff, after: str | None = None) -> None:
    """Give every message of a bridge to `show`, over as many connections as it takes, each event once.

    Ends by cancellation, or where `show` raises. Raises BridgeError where the bridge refuses.
    """
    follower = Follower(
        target,
        _read,
        backoff=backoff,
        after=after,
        on_state=_say,
        buffer_bytes=WAITING_BYTES,
        message_bytes=LONGEST_MESSAGE_BYTES,
        spread_seconds=0.0,  # a terminal is no crowd
    )
    async with running(follower) as messages:
        while True:
            show(await messages.take())


def _read(message: str) -> tuple[str, str | None]:
    """A message is shown whatever it is; the cursor that goes on after it, None where it says nothing of that."""
    try:
        marks = _marks.decode(message)
    except (ValueError, RecursionError):
        return message, None
    return message, marks.cursor or (marks.id if marks.type == "notification" else marks.position)


def _default_url(settings: Settings) -> str:
    """The embedded bridge of this machine, unless settings say where to look. Raises SettingsError."""
    bridge = newest(serving=True)
    if bridge is not None and bridge.url and settings.embedded and not settings.model_fields_set & {"host", "port"}:
        return bridge.url
    if settings.port == 0:
        raise SettingsError("--url is needed: BRIDGE_PORT (--port) is 0, which says nothing of where a bridge listens")
    host = _ANY_ADDRESS.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _say(link: LinkState) -> None:
    if link.state == "connected":
        print(f"Connected to {link.url}", file=sys.stderr, flush=True)
    elif link.state == "waiting":
        said = f"Lost {link.url}: {link.reason}. Trying again in {link.delay_seconds:.1f} s"
        print(said, file=sys.stderr, flush=True)
