"""What to do when a connection has ended: come back, and when, or tell the user. Pure.

| what ended it | what follows |
|---|---|
| any other close, a dead peer, an unreachable one, HTTP 408, 425, 429, 5xx | come back, after a growing delay |
| 1001, 4013 with ``retry=SECONDS``; HTTP with ``Retry-After: SECONDS`` | come back after so long |
| 4001, HTTP 401 | come back with another token, where one can be had; else BridgeError |
| 1008, HTTP 403 and other 4xx | BridgeError |
| HTTP 400, 404 and redirections | SettingsError: it would be the same for ever |
| a message that is longer than allowed | BridgeError: it would come again |
"""

import re
from collections.abc import Collection
from typing import Final

import msgspec

from bridge.client.conversation import Broken, Closed, End, Rejected
from bridge.core.wire import POLICY_VIOLATION, TOKEN_EXPIRED, TOO_LARGE
from bridge.errors import BridgeError, SettingsError
from bridge.redaction import without_tokens

LONGEST_RETRY_SECONDS: Final = 60.0
"""A bridge that sends clients away says when they may come back, and is believed up to this."""

_RETRY = re.compile(r"retry=([0-9]{1,9})")
_SECONDS = re.compile(r" *([0-9]{1,9}) *")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_LONGEST_TEXT = 500


class Lost(Exception):
    """A connection that is worth another attempt. The text says on one line what happened to it."""

    def __init__(
        self, problem: str, retry_seconds: float | None = None, without_token: BridgeError | None = None
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.retry_seconds = retry_seconds
        """When to come back, where the bridge has said so; then above 0."""
        self.without_token = without_token
        """Only with another token is it worth another attempt; without one, this is to be raised."""


def judge(end: End, secrets: Collection[str] = ()) -> Lost | BridgeError:
    """What to raise for this end. Its text holds none of the secrets, also where the peer has said them back."""
    match end:
        case Rejected():
            return _judge_answer(end, secrets)
        case Closed(code=code):
            problem = f"closed with {_printable(str(end), secrets)}"
            if code == TOKEN_EXPIRED:
                advice = "give as `token` a function that returns a fresh one, to go on"
                return Lost(problem, without_token=BridgeError(f"The bridge has {problem}; {advice}"))
            if code == POLICY_VIOLATION:
                return BridgeError(f"The bridge has {problem}")
            return Lost(problem, _believed(_RETRY.fullmatch(end.reason)))
        case Broken(code=code) if code == TOO_LARGE:
            return BridgeError(f"The bridge has sent {end.problem}; give a larger `message_bytes`")
        case Broken():
            return Lost(_printable(end.problem, secrets))


def text_of(error: BaseException) -> str:
    """The error's text on one line, with that of its cause where it says nothing of its own."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    own = " ".join(str(error).split())
    parts = [own, *([text_of(cause)] if cause is not None else [])]
    return _printable(": ".join(filter(None, parts)) or type(error).__name__)


def _judge_answer(answer: Rejected, secrets: Collection[str]) -> Lost | BridgeError:
    status = answer.status
    said = f"HTTP {status}: {_printable(_message_of(answer.body), secrets) or 'no reason given'}"
    if status == 401:
        return Lost(said, without_token=BridgeError(f"The bridge refused with {said}"))
    if status in (400, 404):
        return SettingsError(f"The bridge refused with {said}")
    if 300 <= status < 400:
        return SettingsError(f"The bridge is elsewhere; give the URL that this one leads to. It answers {said}")
    if 400 <= status < 500 and status not in (408, 425, 429):
        return BridgeError(f"The bridge refused with {said}")
    return Lost(said, _believed(_SECONDS.fullmatch(answer.headers.get("retry-after", ""))))


def _believed(hint: re.Match[str] | None) -> float | None:
    return min(float(hint[1]), LONGEST_RETRY_SECONDS) or None if hint else None


def _message_of(body: bytes) -> str:
    """What an HTTP refusal says: the `message` or `error` of its JSON, else its text."""
    text = body.decode(errors="replace")
    try:
        said = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        text = str(said.get("message") or said.get("error") or text)
    return text


def _printable(text: str, secrets: Collection[str] = ()) -> str:
    """On one line, not too long, and nothing in it that a terminal would obey or that only the user may know."""
    for secret in secrets:
        text = text.replace(secret, "***")
    line = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))
    return without_tokens(line)[:_LONGEST_TEXT]
