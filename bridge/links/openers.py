"""How a process opens its links. Relay and feed get a `Links` as an argument, so they also run on links in memory."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal, Protocol

from bridge.core.events import Body, Entry, Heard, Marker
from bridge.core.position import Position
from bridge.links.postgres import DatabaseIdentity, ListenSession, SessionOptions, open_session
from bridge.links.redis import RedisLink, open_redis, parse_redis_url
from bridge.links.redis_log import Appended, LogState, RedisLog
from bridge.settings import Settings

Role = Literal["listener", "fallback"]


class Session(Protocol):
    """A LISTEN session, as `bridge.links.postgres.ListenSession` is one."""

    @property
    def term(self) -> int: ...
    @property
    def marker(self) -> Marker: ...
    @property
    def database(self) -> DatabaseIdentity: ...
    @property
    def last_proof(self) -> float: ...
    @property
    def proven(self) -> bool: ...
    @property
    def suspect(self) -> bool: ...
    @property
    def round_trip_seconds(self) -> float | None: ...
    def learned(self) -> Sequence[tuple[Position, Position]]: ...
    async def receive(self) -> Sequence[Heard]: ...


class Ear(Protocol):
    """A subscriber's link, as `bridge.links.redis.RedisLink` is one."""

    async def subscribe(self, *channels: str) -> None: ...
    async def messages(self, deadline: float = ...) -> list[tuple[bytes, bytes]]: ...


class Log(Protocol):
    """The log, as `bridge.links.redis_log.RedisLog` is one."""

    live_channel: str
    control_channel: str
    published_channel: str

    async def open(self) -> LogState: ...
    async def state(self) -> LogState: ...
    async def append(
        self, expected: LogState, first: Position, bodies: Sequence[Body], publish_from: int = 0
    ) -> Appended | LogState: ...
    async def read(self, after: Position | None, count: int = ...) -> list[Entry]: ...
    def live_entries(self, message: bytes) -> list[Entry]: ...
    async def terms_count(self) -> int: ...
    async def terms(self) -> list[tuple[int, Position]]: ...
    async def save_terms(self, relations: Sequence[tuple[Position, Position]]) -> None: ...
    async def beat(
        self, tail: Position | None, nonce: str, ttl_seconds: float, *, process: int = 0, appending: bool = False
    ) -> None: ...
    async def listeners_beating(self) -> str | None: ...
    async def stop_beating(self, nonce: str) -> None: ...


class OpenSession(Protocol):
    """Opens one session whose term lies above ``floor * 2**22``; raises PostgresLost."""

    def __call__(self, *, floor: int) -> AbstractAsyncContextManager[Session]: ...


OpenEar = Callable[[], AbstractAsyncContextManager[Ear]]
OpenLog = Callable[[], AbstractAsyncContextManager[Log]]


class Links(Protocol):
    """Everything that a process opens, one each: sessions in a role, and three kinds of connection to Redis."""

    def session(self, role: Role, *, floor: int) -> AbstractAsyncContextManager[Session]: ...
    def ear(self) -> AbstractAsyncContextManager[Ear]: ...
    def log(self) -> AbstractAsyncContextManager[Log]:
        """The log to read it, whichever database it belongs to."""
        ...

    def log_writer(self, database: DatabaseIdentity) -> AbstractAsyncContextManager[Log]:
        """The log, to append what was heard in this database."""
        ...


class RealLinks:
    """Links to the servers that the settings name. Raises SettingsError for a Redis URL that cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._target = parse_redis_url(settings.redis_url)

    def session(self, role: Role, *, floor: int) -> AbstractAsyncContextManager[ListenSession]:
        settings = self._settings
        options = SessionOptions(
            conninfo=settings.conninfo(),
            channels=settings.channels,
            digest=settings.digest,
            role=role,
            prefix=settings.redis_prefix,
            probe_seconds=settings.probe_seconds,
        )
        return open_session(options, floor=floor)

    def ear(self) -> AbstractAsyncContextManager[RedisLink]:
        return self._link("bridge worker")

    def log(self) -> AbstractAsyncContextManager[RedisLog]:
        return self._log("bridge worker", None)

    def log_writer(self, database: DatabaseIdentity) -> AbstractAsyncContextManager[RedisLog]:
        return self._log("bridge listener", str(database))

    def _link(self, name: str) -> AbstractAsyncContextManager[RedisLink]:
        return open_redis(self._target, timeout_seconds=self._settings.redis_timeout_seconds, name=name)

    @asynccontextmanager
    async def _log(self, name: str, database: str | None) -> AsyncIterator[RedisLog]:
        settings = self._settings
        async with self._link(name) as link:
            yield RedisLog(link, settings.redis_prefix, settings.digest, settings.history_entries, database)
