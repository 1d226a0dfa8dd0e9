"""Endpoints for Starlette and FastAPI applications, on the feed of their own process, on asyncio and trio.

request ─▶ Door ─▶ Stay ─▶ hub ─▶ inbox ─▶ WebSocket, EventStream
           │       └── Desk: who is here, how many there may be
           └── origin, URL, token: by the rules of `bridge.server`
"""

try:
    import starlette as starlette
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "bridge.asgi needs Starlette, which comes with FastAPI or with: pip install starlette",
        name=error.name,
    ) from error

from bridge.asgi.door import Authorize, FeedSource, allow, feed_of
from bridge.asgi.draining import draining
from bridge.asgi.endpoints import (
    event_stream,
    lifespan,
    routes,
    serve_websocket,
    sse_endpoint,
    websocket_endpoint,
)
from bridge.asgi.manager import MatchDataWebSocketManager
from bridge.core.grants import BadToken, Forbidden, Grant

__all__ = [
    "Authorize",
    "BadToken",
    "FeedSource",
    "Forbidden",
    "Grant",
    "MatchDataWebSocketManager",
    "allow",
    "draining",
    "event_stream",
    "feed_of",
    "lifespan",
    "routes",
    "serve_websocket",
    "sse_endpoint",
    "websocket_endpoint",
]
