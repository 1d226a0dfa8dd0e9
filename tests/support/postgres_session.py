"""Opening LISTEN sessions in tests, and what is done with them again and again."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from bridge.core.events import Heard, Notification
from bridge.errors import PostgresLost
from bridge.links.postgres import ListenSession, SessionOptions, open_session
from tests.support.postgres import PostgresServer

TIMEOUT_SECONDS = 60.0


def options(conninfo: str, **changes: Any) -> SessionOptions:
    """Options that fit most tests, with some of them changed."""
    settings: dict[str, Any] = {
        "channels": ("match_change",),
        "digest": "0123abcd",
        "role": "listener",
        "prefix": "pg_notify",
        "probe_seconds": 5.0,
    }
    return SessionOptions(conninfo, **(settings | changes))


@asynccontextmanager
async def session(conninfo: str, *, floor: int = 0, **changes: Any) -> AsyncIterator[ListenSession]:
    """A session with `options`, for so long as a test may take."""
    with trio.fail_after(TIMEOUT_SECONDS):
        async with open_session(options(conninfo, **changes), floor=floor) as opened:
            yield opened


async def refused(conninfo: str, **changes: Any) -> PostgresLost:
    """The error that opening a session ends with."""
    with pytest.raises(PostgresLost) as caught:
        async with session(conninfo, **changes):
            pass
    assert "\n" not in str(caught.value)
    return caught.value


async def hear(listening: ListenSession, count: int) -> list[Heard]:
    """Receive until so many have come."""
    heard: list[Heard] = []
    while len(heard) < count:
        heard += await listening.receive()
    return heard


def payloads(heard: list[Heard]) -> list[bytes]:
    """The payloads of the notifications among them."""
    return [h.body.payload for h in heard if isinstance(h.body, Notification)]


def execute(server: PostgresServer, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
    return server.execute(sql, *arguments)


def send(server: PostgresServer, channel: str, *texts: str, database: str = "postgres") -> None:
    """Notify in one transaction."""
    server.execute(
        "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) payload", channel, list(texts), database=database
    )


def activity(server: PostgresServer, pid: int) -> tuple[str, str, str]:
    """State, query and application name of a server process, as operators see them."""
    [(state, query, name)] = server.execute(
        "SELECT state, query, application_name FROM pg_stat_activity WHERE pid = %s", pid
    )
    return state, query, name


async def probed(listening: ListenSession, times: int) -> None:
    """Receive, which brings nothing, until own probes have come back so often."""
    for _ in range(times):
        before = listening.round_trip_seconds
        await receiving_until(listening, lambda: listening.round_trip_seconds != before)  # noqa: B023


async def receiving_until(listening: ListenSession, condition: Callable[[], bool]) -> None:
    """Receive, which brings nothing, until this holds."""
    while not condition():
        with trio.move_on_after(0.01):
            await listening.receive()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells."""
    with trio.fail_after(TIMEOUT_SECONDS):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(0.01)


def with_own_notify(server: PostgresServer, schema: str, body: str) -> str:
    """A URL whose sessions call a `pg_notify` of ours, with this body, in place of the real one."""
    server.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    server.execute(
        f"CREATE OR REPLACE FUNCTION {schema}.pg_notify(text, text) RETURNS void LANGUAGE plpgsql "
        f"AS $function$ BEGIN {body} END $function$"
    )
    return server.url(query=f"options=-csearch_path%3D{schema},pg_catalog")
