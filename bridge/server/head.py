"""The head of an answer that is followed by messages: written at once, whole, before the connection has a client."""

import socket

import trio

HEAD_SECONDS = 10.0


async def send_head(raw: socket.socket, head: bytes) -> None:
    """Send all of it; a fresh connection takes it in one call. Raises OSError, and trio.TooSlowError."""
    try:
        sent = raw.send(head)
    except BlockingIOError:
        sent = 0
    if sent < len(head):
        with trio.fail_after(HEAD_SECONDS):
            while sent < len(head):
                await trio.lowlevel.wait_writable(raw)
                try:
                    sent += raw.send(head[sent:])
                except BlockingIOError:
                    continue
