"""``python -m tests.support.application_process``: somebody else's application, with the bridge's endpoints in it.

It says where it listens, and what `/health` says, as the bridge does: so it can be one of a fleet.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bridge import EventFeed, open_feed
from bridge.asgi import draining, feed_of, routes
from bridge.telemetry.logs import setup_logging


async def health(request: Request) -> JSONResponse:
    mode = feed_of(request).mode
    return JSONResponse({"status": "ok" if mode == "redis" else "degraded", "mode": mode})


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, EventFeed]]:
        async with open_feed() as feed:
            with draining(feed):
                print(f"Listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
                yield {"feed": feed}

    app = Starlette(routes=[Route("/health", health), *routes()], lifespan=lifespan)
    uvicorn.Server(uvicorn.Config(app, log_config=None)).run([listener])


if __name__ == "__main__":
    setup_logging("text", "info")
    main()
