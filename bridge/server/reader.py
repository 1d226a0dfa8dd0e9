"""One task that reads for all quiet clients.

A client that only listens says a few bytes now and then. A task of its own that waits for them would cost more time
and memory than all the rest of the client. So their sockets are watched by an `epoll` object of the server's own, whose
descriptor is the one that the event loop watches, and one task calls each owner when something has come for it.

The number of a descriptor that is closed goes to the next connection. What the kernel said of the old one must not
reach the new one, though both may lie in the same turn: who was removed in a turn is not called any more in it, whoever
has its number now. Nothing is lost by that, as the kernel says again what was not read (level-triggered).
"""

import select
import socket
from typing import Protocol

import trio

OWNERS_A_TURN = 32
"""Then other tasks get a turn: events do not wait for clients that talk."""


class Owner(Protocol):
    """Whose socket is watched. Raises nothing."""

    def on_readable(self) -> None:
        """Something has come: bytes, the end, an error. Called again until it is read, or the socket is removed."""

    def close(self) -> None:
        """The server ends."""


class Reader:
    """The sockets that are watched, by their descriptors."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._owners: dict[int, Owner] = {}
        self._removed: set[int] = set()
        """In the turn under way."""

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, raw: socket.socket, owner: Owner) -> None:
        """From now on the owner is called. It must remove the socket before that is closed, or another one reads it.

        Where the server ends, and nobody reads any more, the owner is closed at once.
        """
        if self._epoll.closed:
            owner.close()
            return
        number = raw.fileno()
        self._epoll.register(number, select.EPOLLIN)
        self._owners[number] = owner

    def remove(self, raw: socket.socket) -> None:
        """Its owner is called no more; harmless if it was not there, or is closed."""
        number = raw.fileno()
        if self._owners.pop(number, None) is not None:
            self._removed.add(number)
            self._epoll.unregister(number)

    async def run(self) -> None:
        """Never returns. Cancelling closes all owners."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self.turn()
        finally:
            owners, self._owners = self._owners, {}
            self._epoll.close()
            for owner in owners.values():
                owner.close()

    def turn(self) -> None:
        """Call those for whom something has come, up to `OWNERS_A_TURN`."""
        self._removed.clear()
        for number, _ in self._epoll.poll(0, OWNERS_A_TURN):
            if number not in self._removed:
                self._owners[number].on_readable()
