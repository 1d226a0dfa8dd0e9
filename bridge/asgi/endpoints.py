"""An application's endpoints, of the same protocol as the bridge's own: all at once, one, or inside of its own.

    app = FastAPI(lifespan=lifespan(use_redis=True), routes=routes())     all, under /ws and /sse
    WebSocketRoute("/live/{match_id}", websocket_endpoint())              one, at a path of one's own
    await serve_websocket(websocket, feed, where={"match_id": 7})         inside of one's own, after its checks

What they have in common: who may come in (`bridge.asgi.door`), and what is sent to whom (the feed's hub).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from bridge.asgi.desk import NoPlace
from bridge.asgi.door import (
    Authorize,
    Door,
    FeedSource,
    Refused,
    Values,
    allow,
    as_request,
    checked_origins,
    feed_of,
    hide_token,
)
from bridge.asgi.draining import draining
from bridge.asgi.sse import EventStream, come_back_later, refusal
from bridge.asgi.websocket import converse, refuse, send_away
from bridge.core.grants import Grant
from bridge.inprocess import EventFeed, open_feed
from bridge.server.guard import Guard
from bridge.server.http import Header
from bridge.settings import Settings

_DoorOf = Callable[[HTTPConnection], Door]

PATHS = ("", "/{channel}", "/match/{match_id}/stats")
"""Under ``/ws`` and ``/sse``."""


def routes(
    feed: FeedSource = feed_of,
    *,
    authorize: Authorize | None = None,
    allowed_origins: Iterable[str] | None = None,
    path: str = "",
) -> list[BaseRoute]:
    """All endpoints, as routes for an application: WebSockets under `path` + ``/ws``, events under `path` + ``/sse``.

    `feed` is an open one, or a function that gives it to a request; by default it is what the lifespan yields as
    ``feed``. `authorize`, which may be asynchronous, says what a request may hear (`allow`); by default the settings
    do: a JWT where `BRIDGE_JWT_KEY` or the like is set, else everything to everybody whom the rules for origins let in.
    Pages of other origins than the request's own are let in where `allowed_origins` (`BRIDGE_ALLOWED_ORIGINS`) lists
    them; without any authentication pages of this machine and listed ones alone. Raises SettingsError.

    What the application demands of its own endpoints, such as FastAPI's ``dependencies``, is not asked here: that is
    what `authorize` is for. It runs in the event loop, so it must not block. `BRIDGE_MAX_CLIENTS` and
    `BRIDGE_CLIENT_BUFFER_BYTES` are limits of one process; a client that reads too slowly is disconnected (4008).
    """
    origins = checked_origins(allowed_origins)
    door_of = _doors(feed, authorize, origins)
    websocket, stream = _websocket_endpoint(door_of), _sse_endpoint(door_of, origins)
    found: list[BaseRoute] = []
    for end in PATHS:
        found.append(WebSocketRoute(f"{path}/ws{end}", websocket))
        found.append(Route(f"{path}/ws{end}", _AnyMethod(_upgrade_required), include_in_schema=False))
        found.append(Route(f"{path}/sse{end}", _AnyMethod(stream), include_in_schema=False))
    return found


def websocket_endpoint(
    feed: FeedSource = feed_of, *, authorize: Authorize | None = None, allowed_origins: Iterable[str] | None = None
) -> Callable[[WebSocket], Awaitable[None]]:
    """One endpoint, for Starlette's `WebSocketRoute`; arguments as for `routes`.

    A path parameter ``channel`` is a channel, and any other one is a field: ``/ws/match/{match_id}`` is all events
    whose ``match_id`` is that.
    """
    return _websocket_endpoint(_doors(feed, authorize, checked_origins(allowed_origins)))


def sse_endpoint(
    feed: FeedSource = feed_of, *, authorize: Authorize | None = None, allowed_origins: Iterable[str] | None = None
) -> Callable[[Request], Awaitable[Response]]:
    """One endpoint, for Starlette's `Route`; arguments and parameters of the path as for `websocket_endpoint`.

    Its methods are GET, and OPTIONS for pages of other origins.
    """
    origins = checked_origins(allowed_origins)
    return _sse_endpoint(_doors(feed, authorize, origins), origins)


async def serve_websocket(
    websocket: WebSocket,
    feed: EventFeed,
    *,
    channels: Iterable[str] | None = None,
    where: Mapping[str, Values] | None = None,
    expires_at: float | None = None,
    allowed_origins: Iterable[str] | None = None,
) -> None:
    """Serve a client whom the application has let in, from inside of its own endpoint; returns when it has gone.

    The client hears no more than `channels` and `where` allow, whatever it asks for (`allow`); of the URL, `channel`,
    ``where.FIELD`` and `after` count. Accepts the WebSocket if that has not been done. Pages of other origins than the
    request's own are refused unless they are listed: they would come with the user's cookies. An application that asks
    nobody who they are, and counts on not being reachable, also wants Starlette's `TrustedHostMiddleware` (DNS
    rebinding). Cancelling closes it with 1001. Raises SettingsError for what cannot be used.

    An application that accepts the WebSocket itself does so with ``subprotocol="bridge.v1"`` where that is offered: as
    by the bridge's own `client.js`, whose connection browsers and Node break off where that is not taken up.
    """
    grant = allow(channels=channels, where=where, expires_at=expires_at)
    await _serve_websocket(websocket, Door(feed, _always(grant), allowed_origins), lenient=True)


async def event_stream(
    request: Request,
    feed: EventFeed,
    *,
    channels: Iterable[str] | None = None,
    where: Mapping[str, Values] | None = None,
    expires_at: float | None = None,
    allowed_origins: Iterable[str] | None = None,
) -> Response:
    """The response, for the application's own endpoint to return, that streams events; as `serve_websocket`."""
    grant = allow(channels=channels, where=where, expires_at=expires_at)
    return await _event_stream(request, Door(feed, _always(grant), allowed_origins), lenient=True)


def lifespan(
    db_url: str | None = None,
    *,
    use_redis: bool | None = None,
    redis_url: str | None = None,
    channels: Iterable[str] | None = None,
    **settings: object,
) -> Callable[[Starlette], AbstractAsyncContextManager[dict[str, EventFeed]]]:
    """A lifespan for an application that has no other one: a feed (arguments as for `open_feed`) that requests find."""

    @asynccontextmanager
    async def run(_: Starlette) -> AsyncIterator[dict[str, EventFeed]]:
        async with open_feed(
            db_url, use_redis=use_redis, redis_url=redis_url, channels=channels, after=None, **settings
        ) as feed:
            with draining(feed):
                yield {"feed": feed}

    return run


def _websocket_endpoint(door_of: _DoorOf) -> Callable[[WebSocket], Awaitable[None]]:
    async def serve(websocket: WebSocket) -> None:
        try:
            door = door_of(websocket)
        except NoPlace as error:
            hide_token(websocket)
            await send_away(websocket, error)
            return
        await _serve_websocket(websocket, door)

    return serve


def _sse_endpoint(door_of: _DoorOf, origins: tuple[str, ...] | None) -> Callable[[Request], Awaitable[Response]]:
    # Where there is no feed there are no settings: what the application lists is all that is known.
    listed = Guard(Settings.model_construct(allowed_origins=origins or ()), authenticates=True)

    async def serve(request: Request) -> Response:
        try:
            door = door_of(request)
        except NoPlace:
            return _without_feed(request, listed)
        return await _event_stream(request, door)

    return serve


async def _serve_websocket(websocket: WebSocket, door: Door, *, lenient: bool = False) -> None:
    try:
        visit = await door.judge(websocket, lenient=lenient)
    except Refused as error:
        await refuse(websocket, error)
        return
    await converse(websocket, visit)


async def _event_stream(request: Request, door: Door, *, lenient: bool = False) -> Response:
    cors = _headers(door.guard.cors(as_request(request)))
    try:
        if request.method == "GET":
            return EventStream(await door.judge(request, lenient=lenient), cors)
        return _other_method(request, door.guard, cors)
    except Refused as error:
        return refusal(error, cors)


def _without_feed(request: Request, guard: Guard) -> Response:
    cors = _headers(guard.cors(as_request(request)))
    try:
        if request.method == "GET":
            hide_token(request)
            return come_back_later(cors)
        return _other_method(request, guard, cors)
    except Refused as error:
        return refusal(error, cors)


def _other_method(request: Request, guard: Guard, cors: Mapping[str, str]) -> Response:
    """The answer to a browser that asks whether it may ask. Raises Refused for whatever else is not GET."""
    hide_token(request)
    if request.method != "OPTIONS":
        raise _only_get()
    asked = as_request(request)
    reason = guard.refusal(asked, websocket=False)
    if reason is not None:
        raise Refused(403, reason)
    answer = guard.preflight(asked)
    if answer is None:
        raise _only_get()
    return Response(status_code=answer.status, headers={**_headers(answer.headers), **cors})


async def _upgrade_required(request: Request) -> Response:
    hide_token(request)
    if request.method != "GET":
        return refusal(_only_get(), {})
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    return PlainTextResponse("this path speaks WebSocket\n", 426, headers)


def _only_get() -> Refused:
    return Refused(405, "only GET is allowed here", {"Allow": "GET"})


class _AnyMethod:
    """An endpoint that answers all methods. A route of a function would answer some, and leave the token in the URL."""

    def __init__(self, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._endpoint(Request(scope, receive))
        await response(scope, receive, send)


def _doors(feed: FeedSource, authorize: Authorize | None, origins: tuple[str, ...] | None) -> _DoorOf:
    """Gives each request the door of its feed; made at once where the feed is known, so that mistakes show early."""
    if isinstance(feed, EventFeed):
        only = Door(feed, authorize, origins)
        return lambda _: only
    made: list[Door] = []

    def find(connection: HTTPConnection) -> Door:
        found = feed(connection)
        if not made or made[0].feed is not found:
            made[:] = [Door(found, authorize, origins)]
        return made[0]

    return find


def _always(grant: Grant) -> Authorize:
    return lambda _: grant


def _headers(headers: Iterable[Header]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
