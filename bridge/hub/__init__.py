"""Fan-out: groups of clients with equal subscriptions, and a bounded buffer for each client."""

from bridge.hub.client import Buffers, Client
from bridge.hub.hub import Hub
from bridge.hub.inbox import Inbox
from bridge.hub.socket_client import SocketClient

__all__ = ["Buffers", "Client", "Hub", "Inbox", "SocketClient"]
