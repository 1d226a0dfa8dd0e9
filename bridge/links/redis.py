"""One connection to Redis: RESP through hiredis, on anyio streams. No task of its own; whoever uses it reads.

A link is used in one of two ways: as request and response (`execute`, `pipeline`), or as a subscriber (`subscribe`,
then `messages`). It is never opened again: every failure is `RedisLost`, and a supervisor opens another one.
"""

import math
import os
import select
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import anyio.abc
import hiredis
from anyio.streams.tls import TLSStream

from bridge.errors import BridgeError, LogRefused, RedisLost, RedisUnusable
from bridge.links.redis_errors import NoPermission, RedisReplyError, error_for
from bridge.links.redis_sentinel import find_master
from bridge.links.redis_url import RedisTarget, SentinelTarget, parse_redis_url

__all__ = ["NoPermission", "RedisLink", "RedisReplyError", "RedisTarget", "Reply", "open_redis", "parse_redis_url"]

Argument = bytes | str | int
Reply = Any
"""bytes, int, None, or a list of replies; an error inside of a list is an instance of BridgeError."""

READ_BYTES = 65536
PINGS_PER_TIMEOUT = 4
GRACE_SECONDS = 0.01
"""The last look at the socket before it counts as silent: after a pause of this process all deadlines are over."""

_OLDEST_REDIS = (6, 2)
_NOT_YET = object()
_PING = b"*1\r\n$4\r\nPING\r\n"
_FAILURES = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


@asynccontextmanager
async def open_redis(
    target: RedisTarget | SentinelTarget, *, timeout_seconds: float, name: str
) -> AsyncIterator["RedisLink"]:
    """A link that is connected, authenticated and in its database, all within `timeout_seconds`.

    Behind Sentinels that is a link to the master that they name now. `name` is what CLIENT LIST shows. Raises
    RedisLost, and RedisUnusable where a person has to change something: password, TLS, a cluster, a service that the
    Sentinels do not know, a server that is too old or no Redis at all.
    """
    stream: anyio.abc.ByteStream | None = None
    link: RedisLink | None = None
    missing = f"no word from the Sentinels about {target}"
    try:
        with anyio.move_on_after(timeout_seconds):
            found = await find_master(target, timeout_seconds) if isinstance(target, SentinelTarget) else target
            missing = f"no connection to Redis at {found}"
            stream = await _connect(found)
            if found.tls is not None:
                missing = f"no TLS handshake with Redis at {found}"
                stream = await _wrap(stream, found, found.tls)
            missing = f"no answer from Redis at {found}"
            opening = RedisLink(stream, found, timeout_seconds)
            await opening.greet(name)
            if isinstance(target, SentinelTarget) and opening.role != "master":
                raise RedisLost(f"{found} is a {opening.role} by now, and the Sentinels still call it {target}")
            link = opening
        if link is None:
            raise RedisLost(f"{missing} within {timeout_seconds:g} s")
        yield link
    finally:
        if stream is not None:
            await anyio.aclose_forcefully(stream)


class RedisLink:
    """One connection, made by `open_redis`. For one task at a time."""

    server = ""
    """Name and version, like "redis 7.0.15" or "valkey 9.1.0"."""
    role = ""
    """"master" or "replica", as it was when the link was opened."""

    def __init__(self, stream: anyio.abc.ByteStream, target: RedisTarget, timeout_seconds: float) -> None:
        self.target = target
        self.timeout_seconds = timeout_seconds
        self._stream = stream
        self._raw = _raw_socket(stream)
        self._reader = hiredis.Reader(replyError=error_for, notEnoughData=_NOT_YET)
        self._cut_short = False
        self._messages: list[tuple[bytes, bytes]] = []
        self._pings = 0
        self._quiet_until = 0.0

    @property
    def ended(self) -> bool:
        """Whether the other side has ended the connection, or this one has. Sends nothing, and does not wait."""
        raw = _socket_of(self._stream)
        if raw is None or raw.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(raw.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    async def execute(self, *command: Argument) -> Reply:
        """Send one command and return its reply.

        Raises RedisLost on any failure of the connection and where no byte comes within `timeout_seconds`, and what
        `error_for` makes of an error reply. A cancelled or timed-out command leaves the link unusable: replies would
        be taken for those of other commands.
        """
        (reply,) = await self._exchange(_pack(command), 1)
        if isinstance(reply, BridgeError):
            raise reply
        return reply

    async def pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Send many commands at once and return their replies, with an error reply as an instance of BridgeError."""
        return await self._exchange(b"".join(map(_pack, commands)), len(commands))

    async def subscribe(self, *channels: str) -> None:
        """Subscribe; returns when Redis has confirmed all. From here on the link is for `messages` alone."""
        await self._send(_pack(("SUBSCRIBE", *channels)))
        unconfirmed = {channel.encode() for channel in channels}
        while unconfirmed:
            unconfirmed -= self._take_pushed()
            if unconfirmed:
                await self._read_reply_bytes()
        self._heard_something()

    async def messages(self, deadline: float = math.inf) -> list[tuple[bytes, bytes]]:
        """All messages that have arrived, as (channel, data); waits for the first one, or until the deadline.

        An idle link is PINGed `PINGS_PER_TIMEOUT` times per timeout. Raises RedisLost where nothing at all came for
        `timeout_seconds`. Silence is counted in waits that this process made, so that a pause of this process is not
        taken for one of Redis. Cancelling loses nothing.
        """
        while True:
            self._take_pushed()
            if self._messages:
                arrived, self._messages = self._messages, []
                return arrived
            if await self._read_until(min(self._quiet_until, deadline)):
                self._heard_something()
            elif anyio.current_time() >= deadline:
                return []
            elif self._pings < PINGS_PER_TIMEOUT - 1:
                await self._ping()
            elif not await self._read_until(anyio.current_time() + GRACE_SECONDS):
                raise RedisLost(f"Redis at {self.target} has been silent for {self.timeout_seconds:g} s")

    async def greet(self, name: str) -> None:
        """Authenticate, name the connection, learn what the server is and select the database."""
        target = self.target
        auth: tuple[Argument, ...] = ()
        if target.username is not None or target.password is not None:
            auth = ("AUTH", target.username or "default", target.password or "")
        try:
            hello = await self.execute("HELLO", 2, *auth, "SETNAME", name.replace(" ", "-"))
        except RedisReplyError as error:
            raise RedisLost(f"{target} refused the connection (Redis 6.2 or later is needed): {error}") from None
        if not isinstance(hello, list):
            raise RedisUnusable(f"what answers at {target} is no Redis")
        self._accept(dict(zip(hello[::2], hello[1::2], strict=False)))
        if target.database:
            try:
                await self.execute("SELECT", target.database)
            except RedisReplyError as error:
                raise RedisUnusable(f"cannot use database {target.database} of {target}: {error}") from None

    def _accept(self, facts: dict[bytes, Any]) -> None:
        kind, version, mode = (_text(facts.get(name)) for name in (b"server", b"version", b"mode"))
        self.server = f"{kind} {version}"
        self.role = _text(facts.get(b"role"))
        if mode == "cluster":
            raise RedisUnusable(f"{self.target} runs in Redis Cluster mode, which is not supported")
        if mode == "sentinel":
            raise RedisUnusable(f"{self.target} is a Sentinel, not a Redis that keeps data")
        if kind == "redis" and _version(version) < _OLDEST_REDIS:
            raise RedisUnusable(f"{self.target} is {self.server}; 6.2 or later is needed")

    async def _exchange(self, data: bytes, count: int) -> list[Reply]:
        if self._cut_short:
            raise RedisLost(f"the connection to {self.target} cannot be used after a command was cut short")
        self._cut_short = True
        await self._send(data)
        replies: list[Reply] = []
        while len(replies) < count:
            arrived = self._parse()
            replies += arrived
            if not arrived:
                await self._read_reply_bytes()
        self._cut_short = False
        return replies

    def _take_pushed(self) -> set[bytes]:
        """Move what has arrived to `_messages`; the channels whose subscription was confirmed."""
        confirmed = set()
        for reply in self._parse():
            if type(reply) is list:
                if reply[0] == b"message":
                    self._messages.append((reply[1], reply[2]))
                elif reply[0] == b"subscribe":
                    confirmed.add(reply[1])
            elif isinstance(reply, BridgeError) and not isinstance(reply, LogRefused):
                raise reply  # but -MISCONF answers a PING: a Redis that cannot save is alive, and still publishes
        return confirmed

    def _parse(self) -> list[Reply]:
        """All replies that are complete by now."""
        try:
            return list(iter(self._reader.gets, _NOT_YET))
        except hiredis.ProtocolError as error:
            raise RedisUnusable(f"what answers at {self.target} does not speak Redis's protocol: {error}") from None

    def _heard_something(self) -> None:
        self._pings = 0
        self._quiet_until = anyio.current_time() + self.timeout_seconds / PINGS_PER_TIMEOUT

    async def _ping(self) -> None:
        self._pings += 1
        with anyio.CancelScope(shield=True):  # bounded by the timeout; half a PING would spoil the stream
            await self._send(_PING)
        self._quiet_until = anyio.current_time() + self.timeout_seconds / PINGS_PER_TIMEOUT

    async def _send(self, data: bytes) -> None:
        try:
            rest = data if self._raw is None else data[_sent_at_once(self._raw, data) :]
            if rest:
                with anyio.fail_after(self.timeout_seconds):
                    await self._stream.send(rest)
        except TimeoutError:
            raise RedisLost(f"Redis at {self.target} took no data for {self.timeout_seconds:g} s") from None
        except _FAILURES as error:
            raise self._lost(error) from error

    async def _read_reply_bytes(self) -> None:
        now = anyio.current_time()
        if not await self._read_until(now + self.timeout_seconds) and not await self._read_until(
            anyio.current_time() + GRACE_SECONDS
        ):
            raise RedisLost(f"Redis at {self.target} did not answer within {self.timeout_seconds:g} s")

    async def _read_until(self, deadline: float) -> bool:
        """Give the parser what arrives next; False where nothing arrives before the deadline. Loses nothing."""
        try:
            with anyio.CancelScope(deadline=deadline):
                raw = self._raw
                self._reader.feed(await (self._stream.receive(READ_BYTES) if raw is None else _receive(raw)))
                return True
        except _FAILURES as error:
            raise self._lost(error) from error
        return False

    def _lost(self, error: Exception) -> RedisLost:
        is_greeted = self.server or self.target.tls or self.target.path
        hint = "" if is_greeted else " (if it wants TLS, the URL begins with rediss://)"
        if isinstance(error, anyio.EndOfStream):
            return RedisLost(f"Redis at {self.target} closed the connection{hint}")
        return RedisLost(f"the connection to Redis at {self.target} failed: {_reason(error)}{hint}")


async def _connect(target: RedisTarget) -> anyio.abc.SocketStream:
    try:
        if target.path is not None:
            return await anyio.connect_unix(target.path)
        return await anyio.connect_tcp(target.host, target.port)  # sets TCP_NODELAY
    except (OSError, UnicodeError) as error:
        raise RedisLost(f"cannot connect to Redis at {target}: {_reason(error)}") from error


async def _wrap(stream: anyio.abc.ByteStream, target: RedisTarget, context: ssl.SSLContext) -> TLSStream:
    try:
        return await TLSStream.wrap(stream, hostname=target.host, ssl_context=context, standard_compatible=False)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise RedisLost(f"the TLS handshake with Redis at {target} was cut short") from error
    except ssl.SSLError as error:
        raise RedisUnusable(f"no TLS with Redis at {target}: {_reason(error)}") from error
    except _FAILURES as error:
        raise RedisLost(f"the TLS handshake with Redis at {target} failed: {_reason(error)}") from error


def _raw_socket(stream: anyio.abc.ByteStream) -> socket.socket | None:
    """The socket under a stream that has nothing between: what is sent and received then costs half.

    None for TLS, and where the event loop reads the socket itself (asyncio).
    """
    if isinstance(stream, TLSStream):
        return None
    raw = _socket_of(stream)
    return raw if isinstance(raw, socket.socket) else None


def _socket_of(stream: anyio.abc.ByteStream) -> socket.socket | None:
    """The socket that is under it somewhere. None where an event loop has let go of it, as its connection has ended."""
    try:
        return stream.extra(anyio.abc.SocketAttribute.raw_socket, None)  # noqa: S610 - no ORM
    except AttributeError:  # by anyio, which expects one
        return None


def _sent_at_once(raw: socket.socket, data: bytes) -> int:
    try:
        return raw.send(data)
    except BlockingIOError:
        return 0


async def _receive(raw: socket.socket) -> bytes:
    while True:
        await anyio.wait_readable(raw)
        try:
            data = raw.recv(READ_BYTES)
        except BlockingIOError:  # woken for nothing
            continue
        if not data:
            raise anyio.EndOfStream
        return data


def _reason(error: BaseException) -> str:
    """The innermost cause, in the system's words."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        else:
            break
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, anyio.EndOfStream):
        return "closed by the other side"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError | socket.gaierror):
        return os.strerror(error.errno)  # event loops have words of their own, and other ones
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _pack(command: Sequence[Argument]) -> bytes:
    return cast(bytes, hiredis.pack_command(cast(Any, tuple(command))))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
