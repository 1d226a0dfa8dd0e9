"""Sending notifications: what `python -m bridge notify` does, in a short session of its own."""

from collections.abc import AsyncIterable, Iterable

from bridge.errors import BridgeError
from bridge.links.postgres_connect import QueryFailed, open_connection, query, waiting_for_at_most

_TIMEOUT_SECONDS = 30.0  # for one commit, which may wait for a standby


async def notify(conninfo: str, channel: str, payloads: Iterable[str] | AsyncIterable[str]) -> None:
    """Send each payload as a NOTIFY of its own, in order, each committed before the next.

    Raises BridgeError, in a line that a person understands, for what PostgreSQL does not take; the payloads before it
    have been sent. Raises PostgresLost or PostgresUnusable where the connection is the trouble.
    """
    async with open_connection(conninfo, "bridge notify") as pgconn:
        sent = -1
        async for payload in payloads if isinstance(payloads, AsyncIterable) else _Each(payloads):
            sent += 1
            where = f"payload {sent + 1} for channel {channel!r}"
            if "\0" in payload or "\0" in channel:
                raise BridgeError(f"cannot send {where}: PostgreSQL takes no NUL byte")
            arguments = [channel.encode(errors="surrogateescape"), payload.encode(errors="surrogateescape")]
            try:
                with waiting_for_at_most(_TIMEOUT_SECONDS, f"sending {where}"):
                    await query(pgconn, b"SELECT pg_notify($1, $2)", arguments)
            except QueryFailed as error:
                if not error.sqlstate.startswith("22"):
                    raise error.as_link_error(f"sending {where}") from error
                sizes = f"{len(arguments[1]):,} bytes of 7,999 allowed, channel {len(arguments[0])} of 63"
                raise BridgeError(f"cannot send {where}: {error} ({sizes})") from error


class _Each:
    """An iterable as an asynchronous one; unlike a generator it needs no closing."""

    def __init__(self, payloads: Iterable[str]) -> None:
        self._payloads = iter(payloads)

    def __aiter__(self) -> "_Each":
        return self

    async def __anext__(self) -> str:
        for payload in self._payloads:
            return payload
        raise StopAsyncIteration
