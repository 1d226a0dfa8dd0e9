# pyright: reportUnnecessaryTypeIgnoreComment=true
"""Uses of the public API as the type checkers see them: read by mypy and pyright, never run.

A comment that ignores an error is itself an error where there is none, so it says that a mistake is found.
"""

from typing import Any, Literal, assert_never, assert_type

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, WebSocketRoute

import bridge
from bridge import Event, EventFeed, Filled, Gap, ModeChange, Notification, Subscribed, Subscription, open_feed
from bridge.asgi import Grant, MatchDataWebSocketManager, allow, lifespan, routes, websocket_endpoint
from bridge.client import Client, LinkState, connect


async def feeds() -> None:
    async with open_feed("postgresql://db/app", channels=["a", "b"], retry_seconds=1) as feed:
        assert_type(feed, EventFeed)
        assert_type(feed.mode, Literal["redis", "direct", "none"])
        assert_type(feed.channels, frozenset[str])
        async for event in feed:
            assert_type(event, Event)
            complete(event)
        with feed.subscribe("a", where={"team": [1, 2], "live": True, "note": None}, after=None) as events:
            assert_type(events, Subscription)
            assert_type(events.cursor, str | None)
            assert_type(await anext(events), Event)


async def clients() -> None:
    def told(state: LinkState) -> None:
        assert_type(state.state, Literal["connecting", "connected", "waiting"])

    async def token() -> str:
        return "x"

    async with connect("http://127.0.0.1:8000", "a", where={"match_id": 7}, token=token, on_state=told) as client:
        assert_type(client, Client)
        async for event in client:
            assert_type(event, Event)


def complete(event: Event) -> None:
    match event:
        case Notification():
            assert_type(event.payload, Any)
            assert_type(event.id, str | None)
        case Gap():
            assert_type(event.reason, bridge.GapReason)
        case Subscribed() | Filled() | ModeChange():
            pass
        case _:
            assert_never(event)


async def notifiers() -> None:
    notifier = await bridge.init_redis_notifier("redis://localhost:6379")
    assert_type(notifier, bridge.RedisNotifierService)
    assert_type(await notifier.publish("a", {"n": 1}), int)

    async def waits(channel: str, payload: dict[str, int]) -> None: ...
    def returns(channel: str, payload: Any) -> None: ...
    def lost(gap: Gap) -> None: ...

    notifier.register_callback("a", waits)
    notifier.register_callback("a", returns)
    notifier.register_gap_callback(lost)


def endpoints(feed: EventFeed) -> None:
    async def authorize(connection: HTTPConnection) -> Grant:
        return allow(channels=["a"], where={"team": connection.headers["team"]})

    assert_type(routes(feed, authorize=authorize), list[BaseRoute])
    FastAPI(lifespan=lifespan(use_redis=True), routes=[*routes(), WebSocketRoute("/live", websocket_endpoint(feed))])
    assert_type(bridge.MatchDataWebSocketManager(db_url="x"), MatchDataWebSocketManager)


def mistakes(feed: EventFeed, event: Notification) -> None:
    bridge.opne_feed  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue] # noqa: B018
    open_feed(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    feed.subscribe("a", where={"team": object()})  # type: ignore[dict-item] # pyright: ignore[reportArgumentType]
    event.late = True  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
    with feed.subscribe("a") as events:
        for _ in events:  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues]
            pass
