"""trio-websocket with a task and a memory channel a client, fed by psycopg's LISTEN."""

import math
import os
import sys

import psycopg
import trio
import trio_websocket


class Clients:
    def __init__(self) -> None:
        self._channels: set[trio.MemorySendChannel[str]] = set()

    async def handle(self, request: trio_websocket.WebSocketRequest) -> None:
        websocket = await request.accept()
        send, receive = trio.open_memory_channel[str](math.inf)
        self._channels.add(send)
        try:
            await websocket.send_message("ready")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, websocket, receive)
                while True:
                    await websocket.get_message()
        except* (trio_websocket.ConnectionClosed, trio.BrokenResourceError):
            pass
        finally:
            self._channels.discard(send)

    async def _write(
        self, websocket: trio_websocket.WebSocketConnection, receive: trio.MemoryReceiveChannel[str]
    ) -> None:
        async for message in receive:
            await websocket.send_message(message)

    async def listen(self, connection: psycopg.Connection) -> None:
        while True:
            await trio.lowlevel.wait_readable(connection.fileno())
            connection.pgconn.consume_input()
            while notify := connection.pgconn.notifies():
                for channel in self._channels:
                    channel.send_nowait(notify.extra.decode())


async def main() -> None:
    clients = Clients()
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("LISTEN match_change")
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
            server = trio_websocket.WebSocketServer(clients.handle, listeners)
            nursery.start_soon(server.run)
            nursery.start_soon(clients.listen, connection)
            print("listening", listeners[0].socket.getsockname()[1], flush=True)
            async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
                while await commands.receive_some():
                    pass
            os._exit(0)


trio.run(main)
