"""How many may be here at once: clients, and visitors, which are connections that have not become clients (yet).

    accepted ──▶ visitor ──▶ client (a WebSocket, a stream of events)
                  │  ▲ answered: goes to the end of the line
                  └──┘

Visitors are bounded in number, whatever they do: where the lobby is full, who has waited longest without a word makes
room, after a moment of grace in which a crowd that only came at once (everybody, after a deploy) is let through.
One address holds a part of the lobby at most, and a part of the clients' places.
"""

import resource
import socket
from collections import Counter
from contextlib import suppress

import trio

from bridge.telemetry import log

MAX_VISITORS = 2048
VISITORS_SHARE = 8
"""Where few descriptors are allowed, visitors get one part in so many of them."""
VISITORS_AN_ADDRESS = 4
"""One address may hold one part in so many of the lobby."""
GRACE_SECONDS = 1.0
CLIENTS_AN_ADDRESS = 4
"""One address may hold one part in so many of all clients' places: a NAT with many people behind it still fits."""
ALWAYS_AN_ADDRESS = 100
COMPLAINT_SECONDS = 60.0
OWN_DESCRIPTORS = 128
"""Links to PostgreSQL and Redis, listening sockets, the event loop, files, and some air."""


class Visitor:
    """One connection in the lobby."""

    __slots__ = ("client", "raw", "since", "site")

    def __init__(self, raw: socket.socket, site: str | None, since: float) -> None:
        self.client: object = None
        """Who asked last: its address, for the log."""
        self.raw = raw
        self.site = site
        self.since = since


class Lobby:
    """The visitors, the one that has waited longest first."""

    def __init__(self, capacity: int = MAX_VISITORS) -> None:
        self._capacity = capacity
        self._an_address = max(1, capacity // VISITORS_AN_ADDRESS)
        self._visitors: dict[Visitor, None] = {}
        self._sites: Counter[str] = Counter()
        self._someone_left = trio.Event()

    @property
    def count(self) -> int:
        return len(self._visitors)

    async def room(self) -> None:
        """Wait until one more may come in; who has waited longest is sent away once its moment of grace is over."""
        while len(self._visitors) >= self._capacity:
            if self.make_room():
                return
            oldest = next(iter(self._visitors))
            with trio.move_on_at(oldest.since + GRACE_SECONDS):
                await self._someone_left.wait()

    def make_room(self) -> bool:
        """End the connection of who has waited longest, if that is more than a moment; whether there was one."""
        oldest = next(iter(self._visitors), None)
        if oldest is None or trio.current_time() < oldest.since + GRACE_SECONDS:
            return False
        with suppress(OSError):
            oldest.raw.shutdown(socket.SHUT_RDWR)  # its task reads the end of the connection
        self.leave(oldest)
        return True

    def enter(self, raw: socket.socket, site: str | None) -> Visitor | None:
        """One more visitor; None if its address has its part of the lobby. `site` None counts for no address."""
        if site is not None:
            if self._sites[site] >= self._an_address:
                return None
            self._sites[site] += 1
        visitor = Visitor(raw, site, trio.current_time())
        self._visitors[visitor] = None
        return visitor

    def answered(self, visitor: Visitor) -> None:
        """A visitor asked something and was answered: it is as good as one that has just come."""
        if visitor in self._visitors:
            del self._visitors[visitor]
            visitor.since = trio.current_time()
            self._visitors[visitor] = None

    def leave(self, visitor: Visitor) -> None:
        """A visitor has become a client, or has gone; harmless if it had left before."""
        if visitor not in self._visitors:
            return
        del self._visitors[visitor]
        if visitor.site is not None:
            _decrement(self._sites, visitor.site)
        self._someone_left.set()
        self._someone_left = trio.Event()


class Places:
    """The places for clients. An address is whatever text names it; None is not limited."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.closed = False
        """Whether this process takes no more clients, because it is about to end."""
        self.an_address = max(total // CLIENTS_AN_ADDRESS, ALWAYS_AN_ADDRESS)
        self.taken = 0
        self._sites: Counter[str] = Counter()
        self._quiet_until = -1.0

    def is_closed(self) -> bool:
        return self.closed

    @property
    def full(self) -> bool:
        return self.taken >= self.total

    def enough(self, site: str | None) -> bool:
        """Whether an address has all the places that it gets. Says so once in a while, as it may be a proxy's."""
        if site is None or self._sites[site] < self.an_address:
            return False
        if trio.current_time() >= self._quiet_until:
            self._quiet_until = trio.current_time() + COMPLAINT_SECONDS
            log.warning(
                "%s has %d clients, the most for one address; if it is a proxy, name it in BRIDGE_TRUSTED_PROXIES",
                site,
                self.an_address,
            )
        return True

    def take(self, site: str | None) -> None:
        """One place is taken, until it is released."""
        self.taken += 1
        if site is not None:
            self._sites[site] += 1

    def release(self, site: str | None) -> None:
        """The place is free again."""
        self.taken -= 1
        if site is not None:
            _decrement(self._sites, site)


def prepare_descriptors(max_clients: int, *, a_connection: int) -> int:
    """Raise the limit of open files as far as this process may; a warning if that many clients cannot fit.

    `a_connection` is how many descriptors a connection takes. Gives how many visitors there is room for.
    """
    limit = _raised_limit()
    if limit is None:
        return MAX_VISITORS
    connections = max(0, limit - OWN_DESCRIPTORS) // a_connection
    visitors = min(MAX_VISITORS, max(1, connections // VISITORS_SHARE))
    if connections < max_clients + visitors:
        log.warning(
            "BRIDGE_MAX_CLIENTS is %d, but %d open files are enough for %d; raise the limit to %d (ulimit -n)",
            max_clients,
            limit,
            connections - visitors,
            OWN_DESCRIPTORS + a_connection * (max_clients + MAX_VISITORS),
        )
    return visitors


def _raised_limit() -> int | None:
    """The limit of open files, after an attempt to raise it; None where there is none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.debug("The limit of open files stays %d: %s", soft, error)
            return soft
        log.debug("The limit of open files is %d, it was %d", hard, soft)
    return None if hard == resource.RLIM_INFINITY else hard


def _decrement(counter: Counter[str], site: str) -> None:
    counter[site] -= 1
    if counter[site] <= 0:
        del counter[site]
