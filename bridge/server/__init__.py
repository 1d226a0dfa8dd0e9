"""The server: one port for HTTP and WebSocket."""

from bridge.server.endpoints import HealthSource
from bridge.server.listener import serve

__all__ = ["HealthSource", "serve"]
