"""How a process opens its links: the settings, turned into functions that open one each.

Relay and feed get these as arguments, so that they can be run on links of another kind.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Literal, Protocol

from bridge.core.events import Heard, Marker
from bridge.links.postgres import DatabaseIdentity, SessionOptions, open_session
from bridge.links.redis import RedisLink, RedisTarget, open_redis
from bridge.links.redis_log import RedisLog
from bridge.settings import Settings


class Session(Protocol):
    """A LISTEN session, as `bridge.links.postgres.ListenSession` is one."""

    @property
    def term(self) -> int: ...
    @property
    def marker(self) -> Marker: ...
    @property
    def proven(self) -> bool: ...
    @property
    def last_proof(self) -> float: ...
    @property
    def round_trip_seconds(self) -> float | None: ...
    @property
    def database(self) -> DatabaseIdentity: ...
    async def receive(self) -> Sequence[Heard]: ...


class OpenSession(Protocol):
    """Opens one session whose term lies above ``floor * 2**22``; raises PostgresLost."""

    def __call__(self, *, floor: int) -> AbstractAsyncContextManager[Session]: ...


OpenLink = Callable[[], AbstractAsyncContextManager[RedisLink]]
OpenLog = Callable[[], AbstractAsyncContextManager[RedisLog]]


def session_opener(settings: Settings, role: Literal["listener", "fallback"]) -> OpenSession:
    """Opens LISTEN sessions on the configured channels."""
    options = SessionOptions(
        conninfo=settings.conninfo(),
        channels=settings.channels,
        digest=settings.digest,
        role=role,
        prefix=settings.redis_prefix,
        probe_seconds=settings.probe_seconds,
    )
    return partial(open_session, options)


def link_opener(settings: Settings, target: RedisTarget) -> OpenLink:
    """Opens links to Redis for a reader."""
    return partial(open_redis, target, timeout_seconds=settings.redis_timeout_seconds, name="bridge worker")


def log_reader(settings: Settings, target: RedisTarget) -> OpenLog:
    """Opens the log to read it, whichever database it belongs to."""

    @asynccontextmanager
    async def open_log() -> AsyncIterator[RedisLog]:
        async with link_opener(settings, target)() as link:
            yield RedisLog(link, settings.redis_prefix, settings.digest, settings.history_entries)

    return open_log


@asynccontextmanager
async def open_log_writer(
    settings: Settings, target: RedisTarget, database: DatabaseIdentity
) -> AsyncIterator[RedisLog]:
    """The log, to append what was heard in this database."""
    timeout_seconds = settings.redis_timeout_seconds
    async with open_redis(target, timeout_seconds=timeout_seconds, name="bridge listener") as link:
        yield RedisLog(link, settings.redis_prefix, settings.digest, settings.history_entries, str(database))
