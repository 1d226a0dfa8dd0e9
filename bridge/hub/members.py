"""Who hears what: clients, their subscriptions, the groups of those that hear the same, and what each still lacks."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bridge.core.cursor import Cursor, OpenGap, concerning, sub_digest
from bridge.core.events import Event, GapReason, Published, fields
from bridge.core.history import Bounds
from bridge.core.position import Position
from bridge.core.topics import Subscription, Topics
from bridge.hub.client import Client
from bridge.hub.encoding import Protocol
from bridge.hub.lack import Lack

_NO_BOUNDS: frozenset[Bounds] = frozenset()


@dataclass(eq=False, slots=True)
class Wish:
    """A subscription that is not in force yet."""

    subscription: Subscription
    asked: str | None
    """The cursor as the client wrote it; None where it gave none."""
    cursor: Cursor | None = None
    """How far it has come."""
    gaps: frozenset[Bounds] = frozenset()
    """The gaps that were open when it began: what has come in them since, this subscription has brought."""
    ended: dict[Bounds, GapReason | None] = field(default_factory=dict)
    """What has ended of these while it was replayed, and why it was lost if it was."""
    begun: bool = False
    """Whether its turn has come: those of one client begin one after the other, or its cursor would say too much."""


class Heard(NamedTuple):
    """A subscription in force, and from where on its events have come."""

    subscription: Subscription
    since: Position | None
    wish: Wish
    older: frozenset[Bounds]
    """The gaps that were open when it came into force, and are not its own."""


class GroupKey(NamedTuple):
    protocol: Protocol
    subscriptions: frozenset[Subscription]


class Group:
    """Clients that hear the same in the same form. A dict, because it keeps the order in which they came."""

    __slots__ = ("clients", "key", "protocol", "quiet_ticks")

    def __init__(self, key: GroupKey) -> None:
        self.key = key
        self.protocol: Protocol = key.protocol
        self.clients: dict[Client, None] = {}
        self.quiet_ticks = 0


@dataclass(eq=False, slots=True)
class Member:
    """One client: its subscriptions by name (None: that of the URL)."""

    heard: dict[str | None, Heard] = field(default_factory=dict)
    awaited: dict[str | None, Wish] = field(default_factory=dict)
    """Subscriptions that were asked for, and are not in force yet."""
    group: Group | None = None
    since: Position | None = None
    """Where the oldest of its subscriptions began."""

    @property
    def next_wish(self) -> tuple[str | None, Wish] | None:
        """The subscription that was asked for first, of those that are not in force yet."""
        return next(iter(self.awaited.items()), None)


class Members:
    """All clients of a hub."""

    def __init__(self) -> None:
        self.groups: dict[GroupKey, Group] = {}
        self.lacking: dict[Client, tuple[Lack, ...]] = {}
        """The open gaps of the clients that have any, oldest first. Clients of the same gaps share the tuple."""
        self._members: dict[Client, Member] = {}
        self._topics: Topics[Group] = Topics()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._members)

    def __contains__(self, client: Client) -> bool:
        return client in self._members

    def get(self, client: Client) -> Member:
        """The member that this client is, from now on."""
        member = self._members.get(client)
        if member is None:
            member = self._members[client] = Member()
        return member

    def find(self, client: Client) -> Member | None:
        return self._members.get(client)

    def remove(self, client: Client) -> None:
        """Forget a client; harmless if it is not there."""
        member = self._members.pop(client, None)
        if member is not None:
            self._leave(client, member)
            self.lacking.pop(client, None)

    def put(self, client: Client, name: str | None, wish: Wish, since: Position | None) -> None:
        """From now on this subscription of the client is in force."""
        member = self.get(client)
        if not member.heard:
            member.since = since
        lacks = self.lacking.get(client)
        older = frozenset(lack.gap.bounds for lack in lacks) if lacks else _NO_BOUNDS
        member.heard[name] = Heard(wish.subscription, since, wish, older)
        self._regroup(client, member)

    def drop(self, client: Client, name: str | None) -> None:
        """End a subscription that is in force, and what the client lacked for it alone."""
        member = self._members[client]
        del member.heard[name]
        self._regroup(client, member)
        lacks = self.lacking.get(client, ()) if member.heard else ()
        self.lack(client, tuple(lack for lack in lacks if lack.gap.sub != sub_digest(name)))

    def match(self, event: Event | Published) -> list[Group]:
        """The groups that want this event, each once."""
        return self._topics.match(event)

    def match_all(self, events: Sequence[Event]) -> dict[Group, Sequence[int]]:
        """The groups that want any of these events, and the indexes of those that each wants, in order."""
        return self._topics.match_all(events)

    def wants(self, client: Client, event: Event, gap: OpenGap) -> bool:
        """Whether a member of a matching group wants an event of this open gap, which may concern one subscription."""
        if gap.sub is None:
            return True
        heard = self._members[client].heard
        present = fields(event.data)
        return any(
            one.subscription.matches(event, present) for name, one in heard.items() if sub_digest(name) == gap.sub
        )

    def gaps_of(self, client: Client, name: str | None) -> list[OpenGap]:
        """The open gaps that concern this subscription."""
        gaps = [lack.gap for lack in self.lacking.get(client, ())]
        return concerning(gaps, name)

    def cohorts(self, clients: Iterable[Client]) -> dict[tuple[Lack, ...], list[Client]]:
        """These clients, by what they lack."""
        if not self.lacking:
            return {(): list(clients)}
        found: dict[tuple[Lack, ...], list[Client]] = {}
        lacks = self.lacking.get
        for client in clients:
            found.setdefault(lacks(client, ()), []).append(client)
        return found

    def lack(self, client: Client, gaps: tuple[Lack, ...]) -> None:
        """The client lacks these from now on."""
        if gaps:
            self.lacking[client] = gaps
        else:
            self.lacking.pop(client, None)

    def end_lacks(self, client: Client, ended: Collection[Bounds], lost: GapReason) -> tuple[OpenGap, ...]:
        """The client is told that what it lacked between these bounds is lost. What it lacks beside that."""
        lacks = self.lacking.get(client, ())
        for lack in lacks:
            if lack.gap.bounds in ended and lack.replaying:
                lack.gap, lack.told = replace(lack.gap, silent=True), lost  # what is left of it needs no word
        left = tuple(lack for lack in lacks if lack.replaying or lack.gap.bounds not in ended)
        self.lack(client, left)
        member = self._members[client]
        for wish in (*(heard.wish for heard in member.heard.values()), *member.awaited.values()):
            wish.ended.update((bounds, lost) for bounds in wish.gaps.intersection(ended))
        return tuple(lack.gap for lack in left)

    def _regroup(self, client: Client, member: Member) -> None:
        self._leave(client, member)
        if not member.heard:
            return
        key = GroupKey(client.protocol, frozenset(heard.subscription for heard in member.heard.values()))
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(key)
            for subscription in key.subscriptions:
                self._topics.add(subscription, group)
        group.clients[client] = None
        member.group = group

    def _leave(self, client: Client, member: Member) -> None:
        group, member.group = member.group, None
        if group is None:
            return
        del group.clients[client]
        if not group.clients:
            del self.groups[group.key]
            for subscription in group.key.subscriptions:
                self._topics.remove(subscription, group)
