"""`MatchDataWebSocketManager`: WebSockets by match, as the bridge's predecessor had them, on the feed of a process."""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

import anyio
import trio
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute
from starlette.websockets import WebSocket

from bridge.asgi import endpoints
from bridge.asgi.desk import NoPlace
from bridge.asgi.door import Authorize, hide_token
from bridge.asgi.draining import draining
from bridge.asgi.websocket import send_away
from bridge.errors import BridgeError
from bridge.inprocess import EventFeed, open_feed
from bridge.stream import Mode
from bridge.telemetry import log

STARTUP_SECONDS = 5.0
"""How long `startup` waits for a source; then it goes on trying while the application serves."""

NOT_RUNNING = "the manager does not run: call startup() first, or use it as a context manager"


class MatchDataWebSocketManager:
    """The feed of one process, and its WebSocket clients by match.

        manager = MatchDataWebSocketManager(db_url=pg_url, use_redis=True, redis_url="redis://localhost:6379")
        await manager.startup()                            # or, on asyncio and trio: async with manager:
        await manager.handle(websocket, match_id)          # in an endpoint of the application
        await manager.shutdown()

    With `use_redis` it follows the log that the listener writes, and falls back to PostgreSQL itself while Redis is
    away; without, it listens to PostgreSQL. What is not given comes from the environment, as for `open_feed`.
    """

    def __init__(
        self,
        db_url: str | None = None,
        use_redis: bool = False,
        redis_url: str | None = None,
        *,
        channels: Iterable[str] | None = None,
        **settings: object,
    ) -> None:
        self._open = partial(
            open_feed, db_url, use_redis=use_redis, redis_url=redis_url, channels=channels, after=None, **settings
        )
        self._feed: EventFeed | None = None
        self._stack: AsyncExitStack | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop: asyncio.Event | None = None
        self._told = False

    @property
    def feed(self) -> EventFeed:
        """The feed while it runs. Raises BridgeError where it does not."""
        if self._feed is None:
            raise BridgeError(NOT_RUNNING)
        return self._feed

    @property
    def is_connected(self) -> bool:
        """Whether a source feeds this process now."""
        return self.mode != "none"

    @property
    def mode(self) -> Mode:
        """Where events come from now: ``redis``, ``direct``, or ``none``."""
        return "none" if self._feed is None else self._feed.mode

    async def startup(self) -> None:
        """Begin to follow the events, in a task that this manager owns; asyncio only. Nothing is done if it runs.

        Waits for a source for `STARTUP_SECONDS` at most. Where both servers are away, the application starts
        nevertheless: clients are taken, and hear from when a source is there. SIGTERM and SIGINT send all clients away,
        as with `draining`, so that the server can end. Raises SettingsError, and BridgeError on trio.
        """
        if trio.lowlevel.in_trio_run():
            raise BridgeError("startup() runs on asyncio only: on trio, use the manager as a context manager")
        if self._task is not None:
            return
        self._stop = asyncio.Event()
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(opened, self._stop), name="MatchDataWebSocketManager")
        try:
            await opened
            await self._wait_live()
        except BaseException:
            await self._end()
            raise

    async def shutdown(self) -> None:
        """Send all clients away (1001), and close all connections. Harmless if it does not run."""
        await self._end()

    async def __aenter__(self) -> Self:
        if self._feed is not None or self._task is not None:
            raise BridgeError("the manager runs already")
        async with AsyncExitStack() as stack:
            feed = await stack.enter_async_context(self._open())
            stack.callback(self._closed)
            self._feed = feed
            stack.enter_context(draining(feed))
            await self._wait_live()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.__aexit__(kind, error, traceback)

    async def handle(self, websocket: WebSocket, match_id: int | str) -> None:
        """Serve a client that wants the events of one match, until it has gone: it hears no others, whatever it asks.

        Whom the endpoint calls this for is the application's decision; pages of other origins are refused
        (`BRIDGE_ALLOWED_ORIGINS`). Cancelling closes the WebSocket with 1001. While this does not run, clients are told
        to come back.
        """
        if self._feed is None:
            hide_token(websocket)
            await send_away(websocket, self._no_feed())
        else:
            await endpoints.serve_websocket(websocket, self._feed, where={"match_id": match_id})

    def routes(
        self, *, authorize: Authorize | None = None, allowed_origins: Iterable[str] | None = None, path: str = ""
    ) -> list[BaseRoute]:
        """All endpoints of the bridge (`bridge.asgi.routes`), to be made before or after `startup`."""

        def feed(_: HTTPConnection) -> EventFeed:
            if self._feed is None:
                raise self._no_feed()
            return self._feed

        return endpoints.routes(feed, authorize=authorize, allowed_origins=allowed_origins, path=path)

    async def _run(self, opened: asyncio.Future[None], stop: asyncio.Event) -> None:
        try:
            async with self._open() as feed:
                self._feed = feed
                try:
                    with draining(feed):
                        if not opened.done():  # else startup() was cancelled
                            opened.set_result(None)
                        await stop.wait()
                finally:
                    self._closed()
        except Exception as error:
            if opened.cancelled():
                log.warning("startup() was cancelled, and the manager's feed has failed: %s", error)
                return
            if opened.done():
                log.exception("The manager's feed has failed, which should not happen")
                raise
            opened.set_exception(error)

    async def _wait_live(self) -> None:
        with anyio.move_on_after(STARTUP_SECONDS):
            await self.feed.wait_live()
            return
        log.warning(
            "No events can be heard yet (%s); the application starts, and this is tried again", self.feed.reason
        )

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None and self._stop is not None:
            self._stop.set()
            await task

    def _closed(self) -> None:
        self._feed = None
        self._told = False

    def _no_feed(self) -> NoPlace:
        if not self._told:  # they come back again and again
            self._told = True
            log.warning("Clients are sent away: %s", NOT_RUNNING)
        return NoPlace("closed")
