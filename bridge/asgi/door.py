"""A client's request, judged before anything is promised: it gets what it asks for, or is told why not.

In the order of the bridge's own server, by the same rules: the origin (403), the URL (400), the token (401), whether
the channels exist (400), whether they are allowed (403). Whether there is a place is asked last (`bridge.asgi.desk`).
"""

import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl, quote_plus, unquote_to_bytes, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from bridge.core.grants import BadToken, Forbidden, Grant
from bridge.core.target import BadTarget, Target, check_channels, parse_target
from bridge.core.topics import Subscription
from bridge.errors import SettingsError
from bridge.inprocess import EventFeed
from bridge.inprocess.options import Scalar, read_names, read_where
from bridge.origins import OriginPattern
from bridge.server.auth import Authenticator
from bridge.server.guard import Guard
from bridge.server.http import Request
from bridge.settings import Settings
from bridge.telemetry.metrics import Refusal

FeedSource = EventFeed | Callable[[HTTPConnection], EventFeed]
"""A feed, or what gives it to a request: an application is made before its feed is open."""

Authorize = Callable[[HTTPConnection], Grant | Awaitable[Grant]]
"""What a request may hear. Raises BadToken (401) or Forbidden (403), or Starlette's HTTPException."""

Values = Scalar | Iterable[Scalar]

_Allowed = Callable[[HTTPConnection, Request, Target], Grant | Awaitable[Grant]]

_REASONS: Mapping[int, Refusal] = {401: "auth", 403: "forbidden"}
_CHALLENGE: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}
_HIDDEN = b"token=***"
_SUBPROTOCOLS = b"sec-websocket-protocol"


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that may become a client: what it is to hear, and all that it may ask for later."""

    feed: EventFeed
    subscription: Subscription
    grant: Grant
    after: str | None
    """A cursor, unread."""


class Refused(Exception):
    """A request that is not served: the HTTP status, one line for the client, and headers of the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        reason: Refusal | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.reason: Refusal = reason or _REASONS.get(status, "bad_request")


def feed_of(connection: HTTPConnection) -> EventFeed:
    """The feed that the lifespan has left for requests: the state's ``feed``, or else the application's.

    Raises RuntimeError where there is none.
    """
    feed = connection.scope.get("state", {}).get("feed")
    if feed is None and "app" in connection.scope:
        feed = getattr(connection.app.state, "feed", None)
    if not isinstance(feed, EventFeed):
        raise RuntimeError('there is no feed: open one in the lifespan (open_feed), and yield {"feed": feed} there')
    return feed


def allow(
    *,
    channels: Iterable[str] | None = None,
    where: Mapping[str, Values] | None = None,
    expires_at: float | None = None,
) -> Grant:
    """What a client may hear, for `authorize`: whatever it subscribes to is narrowed to this.

    `channels`: names, and patterns with ``*``; None is all of them, and an empty list none. `where`: fields of the
    payload with the value, or the values, that each may have; an empty list is none. `expires_at`: seconds since 1970,
    when the connection is closed. Raises SettingsError for what is none of these.
    """
    names = None if channels is None else read_names(channels)
    return Grant(names, read_where(where), expires_at)


class Door:
    """The rules for the clients of one feed.

    `authorize` None is a token by the settings (`BRIDGE_AUTH`, `BRIDGE_JWT_…`). `allowed_origins` None is
    `BRIDGE_ALLOWED_ORIGINS`. Raises SettingsError.
    """

    def __init__(self, feed: EventFeed, authorize: Authorize | None, allowed_origins: Iterable[str] | None) -> None:
        self.feed = feed
        settings = feed.settings
        if (origins := checked_origins(allowed_origins)) is not None:
            settings = settings.model_copy(update={"allowed_origins": origins})
        self.guard = Guard(settings, authenticates=settings.authenticates or authorize is not None)
        self._allowed = _by_settings(settings) if authorize is None else _by_application(authorize)

    async def judge(self, connection: HTTPConnection, *, lenient: bool = False) -> Visit:
        """What this request may hear. Raises Refused.

        Parameters of the path count like those of the query: ``channel``, and any other one as ``where.NAME``. Where
        the path is the application's own (`lenient`) only the query counts, and what is unknown there is ignored.

        A token in the URL is hidden in the scope, from which servers write their access logs.
        """
        try:
            return await self._judged(connection, lenient)
        except Refused as error:
            self.feed.metrics.refused.labels(error.reason).inc()
            raise
        finally:
            hide_token(connection)

    async def _judged(self, connection: HTTPConnection, lenient: bool) -> Visit:
        websocket = connection.scope["type"] == "websocket"
        request = as_request(connection)
        refusal = self.guard.refusal(request, websocket=websocket)
        if refusal is not None:
            raise Refused(403, refusal, reason="origin")
        try:
            target = _read(connection, "ws" if websocket else "sse", lenient)
            found = self._allowed(connection, request, target)
            grant = await found if inspect.isawaitable(found) else found
            if grant.expires_at is not None and grant.expires_at <= time.time():
                raise BadToken("the token has expired")
            check_channels(target.channels, self.feed.channels)
            subscription = grant.subscription(target.channels, target.where, self.feed.channels)
        except BadToken as error:
            raise Refused(error.status, str(error), _CHALLENGE if error.status == 401 else None) from None
        except BadTarget as error:
            raise Refused(error.status, str(error)) from None
        except Forbidden as error:
            raise Refused(403, str(error)) from None
        except HTTPException as error:
            raise Refused(error.status_code, error.detail, error.headers) from None
        after = target.after if websocket else request.header(b"last-event-id") or target.after
        return Visit(self.feed, subscription, grant, after)


def as_request(connection: HTTPConnection) -> Request:
    """The request as the bridge's own rules read it. Not every server leaves the subprotocols among the headers."""
    scope = connection.scope
    headers = list(scope["headers"])
    if all(name != _SUBPROTOCOLS for name, _ in headers):
        headers += [(_SUBPROTOCOLS, name.encode("latin-1", "replace")) for name in scope.get("subprotocols", ())]
    return Request(scope.get("method", "GET"), scope["path"], headers)


def checked_origins(origins: Iterable[str] | None) -> tuple[str, ...] | None:
    """Origins as an operator may list them. Raises SettingsError."""
    if origins is None:
        return None
    found = (origins,) if isinstance(origins, str) else tuple(origins)
    for origin in found:
        try:
            OriginPattern.parse(origin)
        except ValueError as error:
            raise SettingsError(f"allowed_origins: {origin!r} is not allowed: {error}") from None
    return found


def _by_settings(settings: Settings) -> _Allowed:
    authenticator = Authenticator(settings)
    return lambda _, request, target: authenticator.grant(request, target)


def _by_application(authorize: Authorize) -> _Allowed:
    return lambda connection, _request, _target: authorize(connection)


def hide_token(connection: HTTPConnection) -> None:
    """Take the token out of the URL, in place: the scope is what servers write into their logs."""
    query = cast(bytes, connection.scope["query_string"])
    if b"token" in query or b"%" in query:
        parts = query.split(b"&")
        connection.scope["query_string"] = b"&".join(_HIDDEN if _names_token(part) else part for part in parts)


def _names_token(part: bytes) -> bool:
    return unquote_to_bytes(part.partition(b"=")[0]) == b"token"


def _read(connection: HTTPConnection, protocol: str, lenient: bool) -> Target:
    """What the URL says. Raises BadTarget."""
    try:
        query = cast(bytes, connection.scope["query_string"]).decode("ascii")
        if lenient:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
            query = urlencode([(name, value) for name, value in pairs if _is_ours(name)])
    except ValueError:
        raise BadTarget(400, "the URL cannot be read: percent-encoded UTF-8 is expected") from None
    if not lenient:
        named = [
            f"{'' if name == 'channel' else 'where.'}{quote_plus(name)}={quote_plus(str(value))}"
            for name, value in connection.path_params.items()
        ]
        query = "&".join([*named, query])
    return parse_target(f"/{protocol}?{query}")


def _is_ours(name: str) -> bool:
    return name in ("channel", "after") or name.startswith("where.")
