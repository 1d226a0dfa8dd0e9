"""Litestar's channels plugin on its own PostgreSQL backend and its own WebSocket handlers."""

import os

from litestar import Litestar
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.asyncpg import AsyncPgChannelsBackend
from serving import serve

channels = ChannelsPlugin(
    backend=AsyncPgChannelsBackend(os.environ["DATABASE_URL"]),
    channels=["match_change"],
    create_ws_route_handlers=True,
)
serve(Litestar(plugins=[channels]))
