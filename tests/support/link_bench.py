"""What a link check needs: links to two servers, and what happens to those servers from outside."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bridge.links.openers import Links, Session
from bridge.settings import Settings

HISTORY_ENTRIES = 300


class Bench(Protocol):
    """Two servers, links to them, and everything that may happen to them. Redis is empty when a check begins."""

    settings: Settings
    """Channels "a" and "b", a history of `HISTORY_ENTRIES`."""

    @property
    def links(self) -> Links: ...

    async def notify(self, *notifications: tuple[str, str]) -> None:
        """One transaction with these channels and payloads."""

    async def terminate(self, session: Session) -> None:
        """pg_terminate_backend."""

    async def flush(self) -> None: ...
    async def delete(self, key: str) -> None:
        """Delete a key of the log, such as "meta"."""

    async def trim_all(self) -> None:
        """XTRIM MAXLEN 0."""

    async def forget_scripts(self) -> None: ...
    async def restart_redis_empty(self) -> None: ...
    async def stop_redis(self) -> None: ...
    async def start_redis(self) -> None: ...
    def out_of_memory(self) -> AbstractAsyncContextManager[None]: ...
    def replica(self) -> AbstractAsyncContextManager[None]:
        """It takes no writes, as a replica."""
