"""The feed inside of an application's own process, on asyncio and trio.

    open_feed ── EventFeed ── feed: log or session ── delivery ── hub ── inbox ── Subscription ── the application
                     │                                             └─── inbox ── endpoints (`bridge.asgi`)
                     └── one task group: the feed, the hub's clock, replays

Each consumer is a client of the hub like any other one, but for the socket: what it is given waits in its inbox. So
positions, gaps, late events and resuming are those of the server.
"""

from bridge.inprocess.feed import EventFeed, open_feed
from bridge.inprocess.subscription import Subscription

__all__ = ["EventFeed", "Subscription", "open_feed"]
