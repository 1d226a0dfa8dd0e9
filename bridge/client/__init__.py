"""A client for programs that read a bridge's events over WebSocket, on asyncio (uvloop too) and trio.

    connect ─▶ Follower ─▶ Session ─▶ Conversation      one stream, its connections, the WebSocket protocol
                  │ what a message means: Unbroken; what the end of a connection means: verdict
    Client ◀─ Buffer                                    bounded; the cursor moves with what is taken

Nothing of the bridge's own machinery is imported: this needs anyio, idna, wsproto and msgspec.
"""

from bridge.client.client import Client, connect
from bridge.client.follow import LinkState, OnState
from bridge.client.token import Token

__all__ = ["Client", "LinkState", "OnState", "Token", "connect"]
