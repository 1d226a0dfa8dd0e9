"""From PostgreSQL's NOTIFY to WebSocket clients, through an ordered log in Redis and without it."""

__version__ = "0.1.0"

__all__ = ["__version__"]
