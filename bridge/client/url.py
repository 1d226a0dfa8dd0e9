"""The URL at which a bridge is asked for events: built, moved on to a cursor, and shown without its secrets. Pure."""

import json
import string
from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, quote, unquote_plus, urlencode, urlsplit

import idna

from bridge.errors import SettingsError
from bridge.redaction import redacted, without_tokens

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_KEPT = string.ascii_letters + string.digits + string.punctuation


def websocket_url(url: str, channels: Iterable[str], where: Iterable[tuple[str, str]], *, name: str = "url") -> str:
    """The URL to subscribe at: ``/ws`` unless the URL has a path; what it asks for already is kept.

    `name` is what the user knows the URL by. Raises SettingsError.
    """
    parts = _split(_text(name, url, "text is expected, not {}"), name)
    channels = [_text("channels", one, "a name is text, not {}; give one argument for each") for one in channels]
    try:
        added = urlencode(
            [("channel", channel) for channel in channels] + [(f"where.{field}", value) for field, value in where]
        )
    except UnicodeEncodeError:
        raise SettingsError("channels and where must be Unicode, without lone surrogates") from None
    query = "&".join(filter(None, [parts.query, added]))
    path = parts.path if parts.path.strip("/") else "/ws"
    asked = parts._replace(scheme=_SCHEMES[parts.scheme], path=path, query=query, fragment="")
    return quote(asked.geturl(), safe=_KEPT)


def conditions(where: object) -> list[tuple[str, str]]:
    """Fields and values of `where` as the URL has them: strings as they are, other scalars as JSON writes them.

    Raises SettingsError for what cannot be compared.
    """
    if not isinstance(where, Mapping):
        raise SettingsError(f"where: give fields and their values, as {{'match_id': 7}}, not {type(where).__name__}")
    found = []
    for field, value in where.items():
        if not field or not isinstance(field, str):
            raise SettingsError(f"where: {field!r} is no name of a field")
        if isinstance(value, str):
            found.append((field, value))
        elif value is None or isinstance(value, bool | int | float):
            found.append((field, json.dumps(value)))
        else:
            kind = type(value).__name__
            raise SettingsError(f"where: {field!r} is compared with a string, number, bool or None, not with a {kind}")
    return found


def resumed(url: str, cursor: str) -> str:
    """The URL that goes on after this cursor."""
    parts = urlsplit(url)
    kept = [pair for pair in parts.query.split("&") if pair and not _is_parameter(pair, "after")]
    return parts._replace(query="&".join([*kept, f"after={quote(cursor, safe='')}"])).geturl()


def shown(url: str) -> str:
    """The URL without what it is no use to see, or not for everybody's eyes."""
    parts = urlsplit(url)
    kept = [pair for pair in parts.query.split("&") if not _is_parameter(pair, "after", "token")]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="&".join(kept)).geturl()


def tokens(url: str) -> set[str]:
    """The tokens that are given in the URL, as they are written and as they are meant."""
    found = [pair.partition("=")[2] for pair in urlsplit(url).query.split("&") if _is_parameter(pair, "token")]
    return {form for token in found if token for form in (token, unquote_plus(token))}


def _is_parameter(pair: str, *names: str) -> bool:
    return unquote_plus(pair.partition("=")[0]) in names


def _text(name: str, value: object, problem: str) -> str:
    if isinstance(value, str):
        return value
    raise SettingsError(f"{name}: {problem.format(type(value).__name__)}")


def _in_dns(netloc: str) -> str:
    """The same with the host's name in the form that DNS and certificates have. Raises UnicodeError."""
    userinfo, at, address = netloc.rpartition("@")
    if address.startswith("["):  # an address of IPv6
        return netloc
    host, colon, port = address.partition(":")
    if host.isascii():
        host.encode("idna")  # as it is sent
        return netloc
    return f"{userinfo}{at}{idna.encode(host, uts46=True).decode()}{colon}{port}"


def _split(url: str, name: str) -> SplitResult:
    told = without_tokens(redacted(url))
    try:
        parts = urlsplit(url)
        parts = parts._replace(netloc=_in_dns(parts.netloc))
        if parts.scheme in _SCHEMES and parts.hostname and parts.port != 0:
            return parts
    except UnicodeError:
        problem = "its host is no name for DNS (IDNA 2008): letters, digits and hyphens, at most 63 between two dots"
        raise SettingsError(f"{name}: {told!r} is not allowed; {problem}") from None
    except ValueError:
        pass
    raise SettingsError(f"{name}: {told!r} is not allowed; give a URL such as http://127.0.0.1:8000")
