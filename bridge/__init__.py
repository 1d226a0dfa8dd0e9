"""From PostgreSQL's NOTIFY to WebSocket clients, through an ordered log in Redis and without it.

The command line is ``python -m bridge``. For programs: `open_feed` follows the bridge in one's own process,
`bridge.client.connect` is a client of one that runs elsewhere, and `bridge.asgi` serves a feed's events to the clients
of a Starlette or FastAPI application. All of it runs on asyncio and trio.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bridge.asgi import MatchDataWebSocketManager as MatchDataWebSocketManager  # needs an extra: not in __all__
    from bridge.core.events import GapReason
    from bridge.errors import BridgeError, LinkLost, RedisLost, SettingsError
    from bridge.inprocess import EventFeed, Subscription, open_feed
    from bridge.notifier import RedisNotifierService, init_redis_notifier
    from bridge.stream import Event, Filled, Gap, Mode, ModeChange, Notification, Subscribed
else:
    _HOMES = {
        "bridge.asgi": ("MatchDataWebSocketManager",),
        "bridge.core.events": ("GapReason",),
        "bridge.errors": ("BridgeError", "LinkLost", "RedisLost", "SettingsError"),
        "bridge.inprocess": ("EventFeed", "Subscription", "open_feed"),
        "bridge.notifier": ("RedisNotifierService", "init_redis_notifier"),
        "bridge.stream": ("Event", "Filled", "Gap", "Mode", "ModeChange", "Notification", "Subscribed"),
    }
    _HOME = {name: home for home, names in _HOMES.items() for name in names}

    def __getattr__(name: str) -> object:
        """Public names come when they are asked for: the command line, and a program of one kind, need few of them."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "BridgeError",
    "Event",
    "EventFeed",
    "Filled",
    "Gap",
    "GapReason",
    "LinkLost",
    "Mode",
    "ModeChange",
    "Notification",
    "RedisLost",
    "RedisNotifierService",
    "SettingsError",
    "Subscribed",
    "Subscription",
    "__version__",
    "init_redis_notifier",
    "open_feed",
]
