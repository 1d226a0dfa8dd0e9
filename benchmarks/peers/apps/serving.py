"""uvicorn as it is fastest here, on a free port that is announced; it ends with standard input."""

import asyncio
import contextlib
import os
import socket
import sys

import uvicorn


def serve(app: object) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws=os.environ.get("PEER_WEBSOCKETS", "websockets-sansio"),
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        backlog=4096,
        log_level="error",
    )
    print("listening", listener.getsockname()[1], flush=True)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_until_input_ends(uvicorn.Server(config), listener))


async def _until_input_ends(server: uvicorn.Server, listener: socket.socket) -> None:
    def ended() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            os._exit(0)

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended)
    with contextlib.suppress(asyncio.CancelledError):
        await server.serve([listener])
