"""What a token allows: its claims, read and checked, and the subscriptions that they leave of what a client asks for.

Signatures are checked before (`bridge.server.auth`). A claim of a wrong type makes the token bad, whatever it may have
meant: nobody gets more than was certainly granted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan

import msgspec

from bridge.core.topics import MAX_ALTERNATIVES, MAX_FIELDS, Subscription, Where, alternatives
from bridge.errors import SettingsError
from bridge.wildcards import fits

NOT_BEFORE_LEEWAY_SECONDS = 5.0
"""A token that was just made is valid at once, though the clock of its issuer is a little ahead of ours.

There is no such leeway at the end: a connection is closed when its token expires, and must not come in again with it.
"""

_LONGEST_SHOWN = 80


class BadToken(Exception):
    """No token, or one that is worth nothing. The text is for the client, and never holds a part of the token.

    `status` is the HTTP status to answer with: 401, or 400 where the way the token was given is wrong.
    """

    def __init__(self, message: str, status: int = 401) -> None:
        super().__init__(message)
        self.status = status


class Forbidden(Exception):
    """The token does not allow what was asked for. The text, one line, is for the client."""


def _are_texts(given: object) -> bool:
    """Text by itself is not one of them, though it is a row of texts: each letter would count."""
    return isinstance(given, tuple) and all(isinstance(one, str) for one in given)


def _is_where(given: object) -> bool:
    if not isinstance(given, tuple):
        return False
    pairs = [pair for pair in given if isinstance(pair, tuple) and len(pair) == 2 and _are_texts(pair[1])]
    names = {name for name, _ in pairs if isinstance(name, str)}
    return len(names) == len(given)


def _is_time(given: object) -> bool:
    try:
        return isinstance(given, int | float) and not isinstance(given, bool) and not isnan(given)
    except OverflowError:  # an integer that no float holds
        return False


@dataclass(frozen=True, slots=True)
class Grant:
    """What a client may subscribe to. Raises SettingsError for arguments of other types."""

    channels: tuple[str, ...] | None
    """Names and patterns, in which ``*`` stands for any text; None allows every channel, and empty none."""
    where: Where
    """What every subscription is narrowed to. Unlike in a subscription, a field without values allows nothing."""
    expires_at: float | None
    """Seconds since 1970; None never."""

    def __post_init__(self) -> None:
        if self.channels is not None and not _are_texts(self.channels):
            raise SettingsError("channels: give a tuple of names and patterns, or None")
        if not _is_where(self.where):
            raise SettingsError("where: give a tuple of fields, each once, as ('match_id', ('7', '8'))")
        if self.expires_at is not None and not _is_time(self.expires_at):
            raise SettingsError("expires_at: give a number, seconds since 1970, or None")

    def allows(self, channel: str) -> bool:
        """Whether a channel is granted."""
        return self.channels is None or any(fits(pattern, channel) for pattern in self.channels)

    def subscription(
        self, channels: frozenset[str], where: Iterable[tuple[str, str]], known: frozenset[str]
    ) -> Subscription:
        """What is asked for, narrowed to what is granted; no channels asked for means all that are known and granted.

        `channels` are of the `known` ones, in `where` each field comes once. Raises Forbidden where a channel or a
        value that was asked for is not granted, where nothing is left, and where it is too much to compare.
        """
        if refused := sorted(channel for channel in channels if not self.allows(channel)):
            raise Forbidden(f"the token does not allow the channel {_shown(refused[0])}")
        granted = channels or frozenset(filter(self.allows, known))
        if not granted:
            raise Forbidden("the token allows none of the channels here")
        narrowed = self._narrowed(where)
        if len(narrowed) > MAX_FIELDS:
            raise Forbidden(f"more than {MAX_FIELDS} fields are to be compared, those of the token included")
        if (count := alternatives(narrowed)) > MAX_ALTERNATIVES:
            raise Forbidden(
                f"the token leaves {count} combinations of values, more than {MAX_ALTERNATIVES}; ask for one of them"
            )
        return Subscription(granted, narrowed)

    def _narrowed(self, where: Iterable[tuple[str, str]]) -> Where:
        found = dict(self.where)
        for name, value in where:
            if value not in found.get(name, (value,)):
                raise Forbidden(f"the token does not allow events where {_shown(name)} is {_shown(value)}")
            found[name] = (value,)
        for name, values in found.items():
            if not values:
                raise Forbidden(f"the token allows no value of {_shown(name)}")
        return tuple(sorted(found.items()))


EVERYTHING = Grant(None, (), None)


class _Claims(msgspec.Struct):
    """The claims that mean something here; others may be there, and a wrong type is an error."""

    exp: float | msgspec.UnsetType = msgspec.UNSET
    nbf: float | msgspec.UnsetType = msgspec.UNSET
    aud: str | list[str] | msgspec.UnsetType = msgspec.UNSET
    iss: str | msgspec.UnsetType = msgspec.UNSET
    channels: str | list[str] | msgspec.UnsetType = msgspec.UNSET
    where: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


_claims = msgspec.json.Decoder(_Claims)
_text = msgspec.json.Decoder(str)
_list = msgspec.json.Decoder(list[msgspec.Raw])


def read_grant(payload: bytes, *, now: float, audience: str | None, issuer: str | None) -> Grant:
    """What the claims of a token grant at the time `now`, in seconds since 1970. `payload` is their JSON.

    `audience` and `issuer` are demanded where they are given. A token for an audience is refused where none is given:
    it was made for somebody, and nothing says that it was for this bridge (RFC 7519, 4.1.3). Raises BadToken.
    """
    try:
        claims = _claims.decode(payload)
        where = () if claims.where is msgspec.UNSET else read_where(claims.where)
    except msgspec.ValidationError as error:  # its text names types and the place, and no values
        raise BadToken(f"a claim of the token has a wrong type: {error}") from None
    except (ValueError, RecursionError):
        raise BadToken("the token's claims cannot be read") from None
    expires_at = None if claims.exp is msgspec.UNSET else claims.exp
    if expires_at is not None and expires_at <= now:
        raise BadToken("the token has expired")
    if claims.nbf is not msgspec.UNSET and claims.nbf > now + NOT_BEFORE_LEEWAY_SECONDS:
        raise BadToken("the token is not valid yet (nbf)")
    _check_audience(claims, audience)
    if issuer is not None and claims.iss != issuer:
        raise BadToken("the token is not from the issuer that is expected (iss)")
    channels = [claims.channels] if isinstance(claims.channels, str) else claims.channels
    return Grant(None if channels is msgspec.UNSET else tuple(channels), where, expires_at)


def read_where(raw: dict[str, msgspec.Raw]) -> Where:
    """Fields to the values they may have: a scalar or a list of scalars each, as text like the payloads' own fields.

    Raises ValueError for objects and nested lists.
    """
    return tuple(sorted((name, _any_of(bytes(value))) for name, value in raw.items()))


def _any_of(raw: bytes) -> tuple[str, ...]:
    values = map(bytes, _list.decode(raw)) if raw[:1] == b"[" else [raw]
    return tuple(sorted({_scalar(value) for value in values}))


def _scalar(raw: bytes) -> str:
    if raw[:1] in (b"{", b"["):
        raise ValueError("where compares scalars")
    return _text.decode(raw) if raw[:1] == b'"' else raw.decode()


def _check_audience(claims: _Claims, audience: str | None) -> None:
    if claims.aud is msgspec.UNSET:
        if audience is not None:
            raise BadToken("the token names no audience (aud), and one is expected")
    elif audience is None:
        raise BadToken("the token is for an audience (aud), and the bridge has been given none")
    elif audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise BadToken("the token is for another audience (aud)")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")
