"""The log for single calls of many tasks, such as to publish: one connection, opened when one is needed.

Nobody is told when it fails but whoever calls: the next call opens another one. A command that is cut short leaves a
reply behind that would be taken for that of the next one, so its connection is dropped.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio

from bridge.core.events import Published
from bridge.core.position import Position
from bridge.errors import RedisLost
from bridge.links.redis import RedisLink, open_redis, parse_redis_url
from bridge.links.redis_log import RedisLog
from bridge.settings import Settings


class SharedLog:
    """The log that the settings name, to be used by tasks of one event loop. `name` is what CLIENT LIST shows.

    Calls go one after the other, each within the timeout of the settings (and that of a connection, where one has to be
    opened). Every method raises RedisLost, also where the connection is closed meanwhile. SettingsError for a Redis URL
    that cannot be used.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._target = parse_redis_url(settings.redis_url)
        self._turn = anyio.Lock()
        self._closed = False
        self._link: RedisLink | None = None
        self._opened: AbstractAsyncContextManager[RedisLink] | None = None

    async def connect(self) -> None:
        """Open the connection, if there is none, also after `close`."""
        self._closed = False
        async with self._log():
            pass

    async def publish(self, event: Published) -> int:
        """Say this to all who hear now; how many workers that were.

        Where this raises or is cancelled, they may have heard it, or not.
        """
        async with self._log() as log:
            return await log.publish(event)

    async def tail(self) -> Position | None:
        """Where the log ends now; None where there is none."""
        async with self._log() as log:
            return (await log.state()).tail

    async def close(self) -> None:
        """Close the connection, at once; what needs one fails from now on, until `connect`."""
        self._closed = True
        await self._drop()

    async def _drop(self) -> None:
        opened, self._opened, self._link = self._opened, None, None
        if opened is not None:
            await opened.__aexit__(None, None, None)

    @asynccontextmanager
    async def _log(self) -> AsyncIterator[RedisLog]:
        settings = self._settings
        async with self._turn:
            try:
                link = await self._connected()
                yield RedisLog(link, settings.redis_prefix, settings.digest, settings.history_entries)
            except BaseException:
                await self._drop()
                raise

    async def _connected(self) -> RedisLink:
        if self._link is not None and self._link.ended:
            await self._drop()
        if self._link is None and not self._closed:
            opening = open_redis(self._target, timeout_seconds=self._settings.redis_timeout_seconds, name=self._name)
            self._link = await opening.__aenter__()
            self._opened = opening
        if self._link is None or self._closed:
            raise RedisLost(f"the connection to Redis at {self._target} has been closed here; connect again")
        return self._link
