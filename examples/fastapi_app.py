"""A FastAPI application whose clients hear PostgreSQL's notifications, whatever fails behind it.

    python -m bridge listen                                        one listener: PostgreSQL to Redis
    uvicorn examples.fastapi_app:app --workers 4                   four workers; they hear through Redis

with the same environment for both:

    DATABASE_URL=postgresql://user@localhost/app  REDIS_URL=redis://localhost:6379  USE_REDIS_NOTIFIER=true

Open http://127.0.0.1:8000, or ``curl -N http://127.0.0.1:8000/sse``; in psql: NOTIFY match_change, '{"match_id": 7}'.
The database sees one LISTEN session, the listener's. While Redis is away each worker has one of its own, and nobody
misses anything.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket, WebSocketException
from fastapi.responses import HTMLResponse

from bridge import EventFeed, open_feed
from bridge.asgi import draining, feed_of, routes, serve_websocket

logging.basicConfig(level=logging.INFO)  # for the bridge's lines on what is lost and what is back

PAGE = """<!doctype html><meta charset="utf-8"><title>Matches</title><h1>Matches</h1><pre id="log"></pre>
<script>
  // A browser's EventSource comes back by itself, and resumes where it was: Last-Event-ID is the bridge's cursor.
  const source = new EventSource("/sse"), log = document.getElementById("log");
  const show = (event) => log.prepend(event.data + "\\n");
  for (const type of ["message", "subscribed", "gap", "filled"]) source.addEventListener(type, show);
</script>"""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, EventFeed]]:
    """One feed for this worker process, which all requests find as ``feed`` in their state."""
    async with open_feed() as feed:  # the environment says where
        with draining(feed):  # when the server is told to end, clients are told to come back elsewhere
            yield {"feed": feed}


# /ws, /ws/CHANNEL, /ws/match/ID/stats, and the same under /sse. With BRIDGE_JWT_KEY set they want a token; without,
# pages of this machine are served alone: BRIDGE_ALLOWED_ORIGINS lists others.
app = FastAPI(title="Matches", lifespan=lifespan, routes=routes())

Feed = Annotated[EventFeed, Depends(feed_of)]


def allowed_match(match_id: int) -> int:
    """The application's own check: put yours here."""
    if match_id < 1:
        raise WebSocketException(1008, "there is no such match")
    return match_id


@app.websocket("/matches/{match_id}/live")
async def live(websocket: WebSocket, match_id: Annotated[int, Depends(allowed_match)], feed: Feed) -> None:
    """An endpoint of one's own: whatever its client asks for, it hears of this match alone."""
    await serve_websocket(websocket, feed, where={"match_id": match_id})


@app.get("/health")
async def health(feed: Feed) -> dict[str, str]:
    """Where events come from. An application that serves while they are away is up, too."""
    return {"status": "ok" if feed.mode != "none" else "waiting", "mode": feed.mode, "reason": feed.reason}


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    """Something to look at."""
    return PAGE
