"""Starlette with broadcaster on PostgreSQL.

One subscriber of our own is always there: when several come first at the same time, broadcaster fails.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broadcaster import Broadcast
from serving import serve
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

broadcast = Broadcast(os.environ["DATABASE_URL"])


async def follow(websocket: WebSocket) -> None:
    async with broadcast.subscribe(channel="match_change") as subscriber:
        await websocket.accept()
        async for event in subscriber:
            await websocket.send_text(event.message)


async def ignore(subscriber: AsyncIterator[object]) -> None:
    async for _ in subscriber:
        pass


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with broadcast, broadcast.subscribe(channel="match_change") as subscriber:
        task = asyncio.create_task(ignore(subscriber))
        yield
        task.cancel()


serve(Starlette(routes=[WebSocketRoute("/match_change", follow)], lifespan=lifespan))
