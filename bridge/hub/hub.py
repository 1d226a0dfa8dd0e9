"""The clients of a process: who they are, what they hear, and when they are told what.

`Hub.deliver` is one synchronous loop that writes straight into non-blocking sockets (`bridge.hub.fanout`). A client
that the kernel cannot take more for has a bounded buffer (`bridge.hub.socket_client`); one that fails or falls too far
behind is dropped alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import anyio

from bridge.core.cursor import Cursor
from bridge.core.events import Event, Filled, Gap, Past, Published
from bridge.core.history import History
from bridge.core.position import Position, Timeline
from bridge.core.topics import Subscription
from bridge.core.wire import OVERLOADED, PING_FRAME, TOO_SLOW, position_json, subscribed_json
from bridge.hub.client import Buffers, Client, State
from bridge.hub.encoding import Message, encode
from bridge.hub.fanout import Fanout
from bridge.hub.gaps import Gaps
from bridge.hub.lack import Lack
from bridge.hub.members import Members, Wish
from bridge.hub.missed import tell_missed
from bridge.hub.past import tell_past
from bridge.hub.resume import resume
from bridge.hub.retry import retry_seconds
from bridge.telemetry import Metrics, log

TICK_SECONDS = 5.0
"""How often `Hub.tick` is to be called."""
QUIET_TICKS = 3
"""15 seconds without an event, and a client is told its position."""
PING_TICKS = 5
"""25 seconds between WebSocket pings; a peer that shows no life until the next one is dropped."""

Item = Event | Gap | Filled | Past | Published
Newest = Callable[[int], Position | None]
"""The newest position that was delivered or passed, in the numbering of a term."""


class Hub:
    """All clients of this process. Everything is synchronous: nothing can come between a decision and its message.

    Until `set_live` a client is connected but hears nothing, not even `subscribed`: that message is a promise, and
    only a proven source can keep it. Then every waiting client gets `subscribed` and all that is delivered from there,
    or from its cursor (`bridge.hub.resume`).
    """

    def __init__(
        self,
        channels: Iterable[str],
        buffers: Buffers,
        history_entries: int,
        metrics: Metrics,
        timeline: Timeline,
        newest: Newest,
    ) -> None:
        self.channels = frozenset(channels)
        self.buffers = buffers
        self.live = False
        self.timeline = timeline
        self.history = History(timeline, history_entries)
        self.members = Members()
        self.newest = newest
        self.fanout = Fanout(self.members, metrics)
        self.gaps = Gaps(self.fanout, timeline, self.history)
        self.replay_turn = anyio.Lock()
        """Who resumes waits for it before each further round: the others get a turn in between."""
        self._metrics = metrics
        self._waiting: dict[Client, None] = {}
        """Clients whose next subscription begins when the hub is live."""
        self._greeting: tuple[tuple[object, ...], bytes] | None = None
        """Who was told `subscribed` last: in which form, for what and where; and how."""
        self._ticks = 0
        buffers.on_recovered = partial(tell_missed, self)
        buffers.on_lagging = metrics.slow_drops.inc
        buffers.is_before = self.is_before

    @property
    def position(self) -> Position | None:
        """Where clients stand that lack nothing: the last event delivered, or where the source began."""
        return self.fanout.position

    @property
    def client_count(self) -> int:
        """Clients that are connected, waiting ones included."""
        return len(self.members)

    @property
    def clients(self) -> Iterator[Client]:
        """All of them. Not to be used across a wait."""
        return iter(self.members)

    def set_live(self, position: Position | None) -> None:
        """A proven source feeds this hub, and what is delivered from now on comes after `position`.

        A position already known is kept where this one is None.
        """
        self.live = True
        if position is not None:
            self.fanout.position = position
            self.history.begin(position)
        waiting, self._waiting = self._waiting, {}
        for client in waiting:
            self._begin_next(client)
        self._bury()

    def set_waiting(self) -> None:
        """No source feeds this hub: clients that come now wait for the next `set_live` before they hear anything."""
        self.live = False

    def subscribe(self, client: Client, name: str | None, subscription: Subscription, after: str | None = None) -> None:
        """Take a client whose handshake is done, or one more subscription of it; one of the same name ends.

        The client gets `subscribed`, then what it lacks after its cursor, then every event delivered from there: at
        once, or when the hub is live.
        """
        member = self.members.get(client)
        if name in member.heard:
            self.members.drop(client, name)
        member.awaited[name] = Wish(subscription, after)
        self._begin_next(client)
        self._bury()

    def unsubscribe(self, client: Client, name: str | None) -> bool:
        """End the subscription of that name; False where there is none."""
        member = self.members.get(client)
        awaited = member.awaited.pop(name, None)
        if name in member.heard:
            self.members.drop(client, name)
            return True
        if awaited is not None:
            self._begin_next(client)
        return awaited is not None

    def subscription_names(self, client: Client) -> set[str | None]:
        """The names of a client's subscriptions, awaited ones included."""
        member = self.members.get(client)
        return {*member.heard, *member.awaited}

    def cursor(self, client: Client) -> Cursor | None:
        """Where this client stands; None where that is not known yet."""
        member = self.members.find(client)
        if member is not None and not member.heard:
            return next((wish.cursor for wish in member.awaited.values()), None)
        return self.fanout.cursor_of(self.members.lacking.get(client, ()))

    def is_before(self, one: Position, other: Position) -> bool | None:
        """Whether one position comes before another one; None where they are not related."""
        there = self.timeline.convert(one, other.term)
        return None if there is None else there < other

    def remove(self, client: Client) -> None:
        """Forget a client; harmless if it is not there (any more)."""
        self._waiting.pop(client, None)
        self.members.remove(client)

    def deliver(self, items: Sequence[Item]) -> None:
        """Give these to every client that wants them, in this order; gaps concern everybody.

        But a late event concerns only those who lack it, and the end of a pending gap those who were told of it. Never
        waits, and never raises for what a client does.
        """
        plain: list[Event] = []
        for item in items:
            if isinstance(item, Event) and not item.late:
                plain.append(item)
                continue
            self._deliver_in_order(plain)
            plain = []
            if isinstance(item, Published):
                self.fanout.published(item)
                continue
            if isinstance(item, Past):
                self.history.remember(item)
                tell_past(item, self.members, self.gaps, self.timeline)
                continue
            if isinstance(item, Event):
                self.history.insert(item)
                self.gaps.late(item)
                self._metrics.events.inc()
            elif isinstance(item, Filled):
                self.history.fill(item)
                self.gaps.settle((item.after, item.before), None)
            else:
                self.history.add_gap(item)
                self.gaps.announce(item)
        self._deliver_in_order(plain)
        if self.buffers.total_bytes > self.buffers.all_bytes:
            self._shed()
        if self.buffers.ended:
            self._bury()

    def tick(self, *, after_pause: bool = False) -> None:
        """Tell quiet clients their position, ping all, and drop those that gave no sign of life since the last ping.

        To be called every `TICK_SECONDS`; `after_pause` where this call comes late, because a process that was
        paused itself has not given its peers time to answer.
        """
        self._ticks += 1
        for group in self.members.groups.values():
            group.quiet_ticks += 1
            if group.quiet_ticks >= QUIET_TICKS and self.position is not None:
                group.quiet_ticks = 0
                self.fanout.tell(group.clients, lambda cursor: Message(position_json(cursor), "position", str(cursor)))
        if self._ticks % PING_TICKS == 0:
            for client in self.members:
                if client.protocol != "ws":
                    continue
                if client.heard or after_pause:
                    client.heard = False
                    client.put(PING_FRAME)
                else:
                    client.abort()
        self._bury()

    def observe(self) -> None:
        """Bring the gauges up to date."""
        self._metrics.clients.set(len(self.members))
        self._metrics.buffered_bytes.set(self.buffers.total_bytes)

    def join(self, client: Client, name: str | None, lacks: tuple[Lack, ...], since: Position | None) -> None:
        """What was awaited is in force: the client hears what is delivered from now on, and lacks this."""
        member = self.members.get(client)
        wish = member.awaited.pop(name)
        self.members.put(client, name, wish, since)
        self.members.lack(client, (*self.members.lacking.get(client, ()), *map(self.gaps.shared, lacks)))
        if member.awaited:
            client.run(partial(self._begin_after, client))

    def greet(self, client: Client, name: str | None, wish: Wish, cursor: Cursor | None, *, anew: bool = True) -> None:
        """Say `subscribed`: from this cursor on nothing is missed. Where what was missed is told before it, another one
        is said `anew`, or not."""
        make = partial(self._greeting_now, client, name, wish)
        client.put(self._greeting_at(client, name, wish, cursor), make if anew else None)

    def _greeting_now(self, client: Client, name: str | None, wish: Wish) -> bytes:
        return self._greeting_at(client, name, wish, self.cursor(client))

    def _greeting_at(self, client: Client, name: str | None, wish: Wish, cursor: Cursor | None) -> bytes:
        said = client.protocol, name, wish.subscription, cursor
        if self._greeting is None or self._greeting[0] != said:  # in a crowd one after the other is told the same
            data = subscribed_json(name, wish.subscription, cursor)
            self._greeting = said, encode(client.protocol, Message(data, "subscribed", str(cursor or "")))
        return self._greeting[1]

    async def _begin_after(self, client: Client) -> None:
        """As a task of the client: each may begin the next one."""
        self._begin_next(client)

    def _begin_next(self, client: Client) -> None:
        """Begin the next subscription of a client, unless it has begun."""
        member = self.members.find(client)
        upcoming = member.next_wish if member is not None and client.state is State.OPEN else None
        if upcoming is None or upcoming[1].begun:
            return
        if not self.live:
            self._waiting[client] = None
            return
        name, wish = upcoming
        wish.begun = True
        if wish.asked is not None:
            resume(self, client, name, wish)
            return
        self.greet(client, name, wish, self.fanout.cursor_of(self.members.lacking.get(client, ())))
        self.join(client, name, (), self.position)

    def _deliver_in_order(self, events: Sequence[Event]) -> None:
        self.history.extend(events)
        self.fanout.events(events)

    def _shed(self) -> None:
        """Take away the fullest buffers until all together fit again."""
        for client in sorted(self.buffers.holding, key=lambda client: client.held_bytes, reverse=True):
            if self.buffers.total_bytes <= self.buffers.all_bytes:
                return
            if client.state is not State.CLOSING:  # one that has ended may hold what its reader has not taken yet
                client.too_slow(OVERLOADED, f"retry={retry_seconds()}")

    def _bury(self) -> None:
        """Forget the clients that ended, and say so of the slow ones."""
        ended = self.buffers.ended
        while ended:
            client = ended.pop()
            self.remove(client)
            if client.close_code in (TOO_SLOW, OVERLOADED):
                self._metrics.slow_disconnects.inc()
                log.debug("A client read too slowly and was disconnected (code %d)", client.close_code)
