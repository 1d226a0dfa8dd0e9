"""A Redis in memory: connections that speak its protocol, and everything that can happen to one.

Links reach it through `bridge.links.redis` as they reach a real one; only the socket is a `Wire`.
"""

from typing import Any

import anyio
import hiredis

from bridge.errors import RedisLost
from tests.sim.redis_data import Data, Failure, Simple
from tests.sim.wire import Path, Wire

_INCOMPLETE = object()


class Connection:
    """The server's end of one wire."""

    def __init__(self, server: "RedisServer", wire: Wire) -> None:
        self.channels: set[bytes] = set()
        self.deaf = False
        """Whether it gets no messages though it has subscribed."""
        self.wire = wire
        self._server = server
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        wire.on_bytes = self.receive
        wire.on_close = self.end

    def receive(self, data: bytes) -> None:
        self._reader.feed(data)
        if not self._server.stalled:
            self.work()

    def work(self) -> None:
        """Answer what has arrived."""
        for command in iter(self._reader.gets, _INCOMPLETE):
            if command[0] == b"SUBSCRIBE":
                for channel in command[1:]:
                    self.channels.add(channel)
                    self.wire.answer(encoded([b"subscribe", channel, len(self.channels)]))
            elif command[0] == b"PING" and self.channels:
                self.wire.answer(encoded([b"pong", b""]))
            else:
                self.wire.answer(self._reply(command))

    def end(self) -> None:
        self._server.connections.pop(self, None)

    def _reply(self, command: list[bytes]) -> bytes:
        try:
            return encoded(self._server.data.answer(command))
        except Failure as failure:
            return b"-%b\r\n" % str(failure).encode()


class RedisServer:
    """One server with its data; `down` means that nothing listens on its port."""

    def __init__(self) -> None:
        self.connections: dict[Connection, None] = {}
        self.down = False
        self.stalled = False
        self.data = Data(anyio.current_time, self._publish)

    async def connect(self, path: Path) -> Wire:
        """A connection; raises RedisLost where it is refused."""
        await path.travel(2)
        if self.down:
            raise RedisLost("cannot connect to Redis: Connection refused")
        wire = Wire(path)
        self.connections[Connection(self, wire)] = None
        return wire

    def stop(self) -> None:
        """The process is killed: the kernel ends its connections."""
        self.down = True
        for connection in list(self.connections):
            connection.wire.hang_up()
            connection.channels.clear()
            connection.end()
            connection.wire.on_bytes = connection.wire.on_close = lambda *_: None  # type: ignore[assignment]

    def start(self) -> None:
        """It is back, with what it kept."""
        self.down = False
        self.stalled = False
        self.data.forget_scripts()

    def stall(self) -> None:
        """It is paused: nothing is answered, and what is sent waits."""
        self.stalled = True

    def resume(self) -> None:
        self.stalled = False
        for connection in list(self.connections):
            connection.work()

    def _publish(self, channel: bytes, message: bytes) -> int:
        data = encoded([b"message", channel, message])
        hearing = [c for c in self.connections if channel in c.channels]
        for connection in hearing:
            if not connection.deaf:
                connection.wire.answer(data)
        return len(hearing)


def encoded(reply: Any) -> bytes:
    """A reply in RESP 2."""
    match reply:
        case None:
            return b"$-1\r\n"
        case Simple():
            return b"+%b\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case list():
            return b"*%d\r\n%b" % (len(reply), b"".join(map(encoded, reply)))
        case _:
            raise TypeError(f"no reply: {reply!r}")
