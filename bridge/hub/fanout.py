"""The fan-out: every event is encoded once, and the same bytes go to every client that wants it.

`Hub.deliver` is one synchronous loop that writes straight into non-blocking sockets. Clients with equal subscriptions
form a group; what comes together is joined, so that a burst costs one `send` a client. A client that the kernel cannot
take more for has a bounded buffer (`bridge.hub.client`); a client that fails or falls too far behind is dropped alone.

While a pending gap is open, clients also differ in what they lack: a client's cursor says it, so a group's clients are
told apart by that. Otherwise an event's id says all, and nothing is told apart.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from bridge.core.cursor import Cursor, OpenGap
from bridge.core.events import Event, Filled, Gap, GapReason, Past
from bridge.core.history import Bounds, History
from bridge.core.position import Position, Timeline
from bridge.core.topics import Subscription
from bridge.core.wire import PING_FRAME, TOO_SLOW, position_json, subscribed_json, text_frame
from bridge.hub.client import Buffers, Chunk, Client, State
from bridge.hub.encoding import Message, Protocol, encode, end_message, event_message, gap_message
from bridge.hub.lack import Lack
from bridge.hub.members import Group, Members, Wish
from bridge.hub.resume import resume
from bridge.telemetry import Metrics, log

TICK_SECONDS = 5.0
"""How often `Hub.tick` is to be called."""
QUIET_TICKS = 3
"""15 seconds without an event, and a client is told its position."""
PING_TICKS = 5
"""25 seconds between WebSocket pings; a peer that shows no life until the next one is dropped."""

JOINED_BYTES = 256 * 1024
MAX_KNOWN = 1000

Item = Event | Gap | Filled | Past
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
        self.position: Position | None = None
        """Where clients stand that lack nothing: the last event delivered, or where the source began."""
        self.timeline = timeline
        self.history = History(timeline, history_entries)
        self.members = Members()
        self.newest = newest
        self._metrics = metrics
        self._pending: set[Bounds] = set()
        self._waiting: dict[Client, None] = {}
        """Clients whose next subscription begins when the hub is live."""
        self._known: dict[tuple[OpenGap, frozenset[Bounds]], Lack] = {}
        """What clients lacked when they came, to be found by those who come with the same; it may have changed."""
        self._ticks = 0
        buffers.on_recovered = self._recovered

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
            self.position = position
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
        return self.cursor_of(self.members.lacking.get(client, ()))

    def cursor_of(self, lacks: tuple[Lack, ...], position: Position | None = None) -> Cursor | None:
        """Where clients stand that lack this, at `position` or else where the hub stands."""
        position = position or self.position
        return None if position is None else Cursor(position, tuple(lack.gap for lack in lacks))

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
                self.history.append(item)
                continue
            self._fan_out(plain)
            plain = []
            if isinstance(item, Past):
                self.history.prepend(item)
                continue
            if isinstance(item, Event):
                self.history.insert(item)
                self._deliver_late(item)
            elif isinstance(item, Filled):
                self.history.fill(item)
                self._settle((item.after, item.before), None)
            else:
                self.history.add_gap(item)
                self._deliver_gap(item)
            self._metrics.events.inc()
        self._fan_out(plain)
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
                self._tell(group.clients, lambda cursor: Message(position_json(cursor), "position", str(cursor)))
        if self._ticks % PING_TICKS == 0:
            for client in self.members:
                if client.protocol == "sse":
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
        self.members.lack(client, (*self.members.lacking.get(client, ()), *map(self._shared, lacks)))
        if member.awaited:
            client.run(partial(self._begin_after, client))

    def _shared(self, lack: Lack) -> Lack:
        """The same for all who lack the same: what is delivered is encoded once for each, not once for each client."""
        if lack.replaying:
            return lack
        known = self._known.get((lack.gap, frozenset(lack.ties)))
        if known is not None and (known.gap, known.ties, known.lost) == (lack.gap, lack.ties, lack.lost):
            return known
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[lack.gap, frozenset(lack.ties)] = lack
        return lack

    def greet(self, client: Client, name: str | None, wish: Wish, cursor: Cursor | None) -> None:
        """Say `subscribed`: from this cursor on nothing is missed."""
        data = subscribed_json(name, wish.subscription, cursor)
        client.put(encode(client.protocol, Message(data, "subscribed", str(cursor or ""))))

    def pending_before(self, before: Position) -> frozenset[Bounds]:
        """The gap that ends there, if it may still be filled."""
        return frozenset(bounds for bounds in self._pending if bounds[1] == before)

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
        self.greet(client, name, wish, self.cursor_of(self.members.lacking.get(client, ())))
        self.join(client, name, (), self.position)

    def _fan_out(self, items: Sequence[Event]) -> None:
        if not items:
            return
        before = self.position
        runs: dict[Group, list[int]] = {}
        match = self.members.match
        for index, item in enumerate(items):
            for group in match(item):
                run = runs.get(group)
                if run is None:
                    runs[group] = [index]
                else:
                    run.append(index)
        self.position = items[-1].position
        encoded: dict[tuple[Protocol, tuple[Lack, ...]], list[bytes | None]] = {}
        joined: dict[tuple[Protocol, tuple[Lack, ...], tuple[int, ...] | None], list[Chunk]] = {}
        deliveries = sent_bytes = 0
        for group, run in runs.items():
            key = None if len(run) == len(items) else tuple(run)
            group.quiet_ticks = 0
            protocol = group.key.protocol
            cohorts = self.members.cohorts(group.clients) if self.members.lacking else {(): group.clients}
            for lacks, clients in cohorts.items():
                chunks = joined.get((protocol, lacks, key))
                if chunks is None:
                    frames = encoded.setdefault((protocol, lacks), [None] * len(items))
                    for index in run:
                        if frames[index] is None:
                            frames[index] = self._encode(protocol, items[index], lacks)
                    chunks = _join([frame for index in run if (frame := frames[index]) is not None], before)
                    joined[protocol, lacks, key] = chunks
                for chunk in chunks:
                    _write(chunk, clients)
                    sent_bytes += chunk.size * len(clients)
                deliveries += len(run) * len(clients)
        self._metrics.events.inc(len(items))
        self._count(deliveries, sent_bytes)

    def _encode(self, protocol: Protocol, event: Event, lacks: tuple[Lack, ...]) -> bytes:
        if protocol == "ws" and not lacks:
            return text_frame(event.data)
        return encode(protocol, event_message(event, Cursor(event.position, tuple(lack.gap for lack in lacks))))

    def _deliver_late(self, event: Event) -> None:
        wanted = [client for group in self.members.match(event) for client in group.clients]
        said: dict[Lack, None] = {}
        told: list[Client] = []
        known: dict[Lack, bool] = {}
        for client in wanted:
            lacks = []
            for lack in self.members.lacking.get(client, ()):
                if lack not in known:
                    known[lack] = self._lies_in(event, lack)
                if known[lack] and self.members.wants(client, event, lack.gap):
                    lacks.append(lack)
            if lacks or self._was_owed(client, event):
                said.update(dict.fromkeys(lacks))
                told.append(client)
        for lack in said:
            lack.gap = lack.gap.advanced(event.position, self.timeline)
        self._tell(told, lambda cursor: event_message(event, cursor), tuple(said))

    def _lies_in(self, event: Event, lack: Lack) -> bool:
        """Whether this late event is one that was lacking."""
        if lack.replaying or (event.hole is not None and event.hole not in lack.ties):
            return False
        low = self.timeline.convert(lack.gap.after, event.position.term)
        high = self.timeline.convert(lack.gap.before, event.position.term)
        if event.hole is None and low is None and high is None:
            return False
        inside = (low is None or low < event.position) and (high is None or event.position < high)
        return inside and not lack.gap.has(event.position, self.timeline)

    def _was_owed(self, client: Client, event: Event) -> bool:
        """Whether a late event outside of the pending gaps, announced as lost, is newer than the subscription."""
        if event.hole is not None and event.hole in self._pending:
            return False
        since = self.members.get(client).since
        there = self.timeline.convert(since, event.position.term) if since is not None else None
        return there is not None and event.position > there

    def _deliver_gap(self, gap: Gap) -> None:
        bounds = (gap.after, gap.before)
        if bounds in self._pending:
            self._settle(bounds, gap.reason)
            return
        before = self.position
        self.position = gap.passed or self.position
        clients = [client for group in self.members.groups.values() for client in group.clients]
        lack: tuple[Lack, ...] = ()
        if gap.pending and gap.after is not None and gap.before is not None:
            self._pending.add(bounds)
            lack = (self._shared(Lack(OpenGap(gap.after, gap.before), {bounds})),)
            for lacks, cohort in self.members.cohorts(clients).items():
                for client in cohort:
                    self.members.lack(client, (*lacks, *lack))
        self._tell(clients, lambda cursor: gap_message(gap, cursor), lack, before)

    def _settle(self, bounds: Bounds, lost: GapReason | None) -> None:
        """A pending gap has ended, filled or `lost`. Whoever lacks something in it is told, once all that it is tied to
        has ended."""
        self._pending.discard(bounds)
        self._known.clear()
        cohorts = self.members.cohorts(list(self.members.lacking))
        tied = {lack for lacks in cohorts for lack in lacks if bounds in lack.ties}
        for lack in tied:
            lack.ties.discard(bounds)
            lack.lost = lack.lost or lost
        for lacks, clients in cohorts.items():
            ended = [lack for lack in lacks if lack in tied and not lack.ties]
            left = lacks
            for lack in ended:
                left = tuple(one for one in left if one is not lack)
                for client in clients:
                    self.members.lack(client, left)
                self._tell(clients, partial(end_message, lack), (lack,))

    def _tell(
        self,
        clients: Iterable[Client],
        message: Callable[[Cursor], Message],
        said: tuple[Lack, ...] = (),
        before: Position | None = None,
    ) -> None:
        """One message to these clients, each with its cursor. `said`: the open gaps that it says something of;
        `before`: where the clients stood before it, if it moves them."""
        deliveries = sent_bytes = 0
        for lacks, cohort in self.members.cohorts(clients).items():
            cursor = self.cursor_of(lacks)
            if cursor is None:
                continue
            chunks: dict[Protocol, Chunk] = {}
            for client in cohort:
                chunk = chunks.get(client.protocol)
                if chunk is None:
                    data = encode(client.protocol, message(cursor))
                    chunk = chunks[client.protocol] = Chunk(data, before, said)
                _write(chunk, (client,))
                deliveries += 1
                sent_bytes += chunk.size
        self._count(deliveries, sent_bytes)

    def _recovered(self, client: Client) -> None:
        """A lagging client takes messages again: tell it what it missed."""
        after, lacks = client.end_lag()
        if client not in self.members:
            return
        told = [lack for lack in lacks if not self._lies_behind(lack.gap, after)]
        left = tuple(one for one in self.members.lacking.get(client, ()) if one not in lacks)
        self.members.lack(client, left)
        cursor = self.cursor(client)
        if cursor is None:
            return
        gaps = [Gap(lack.gap.after, lack.gap.before, "slow_client") for lack in told]
        if after is not None:
            gaps.append(Gap(after, cursor.position.plus(1), "slow_client"))
        for gap in gaps:
            self._metrics.gaps.labels(gap.reason).inc()
            client.put(encode(client.protocol, gap_message(gap, cursor)))

    def _lies_behind(self, gap: OpenGap, position: Position | None) -> bool:
        """Whether the whole gap is newer than the position."""
        there = self.timeline.convert(position, gap.after.term) if position is not None else None
        return there is not None and there <= gap.after

    def _count(self, deliveries: int, sent_bytes: int) -> None:
        if deliveries:
            self._metrics.deliveries.inc(deliveries)
            self._metrics.bytes_sent.inc(sent_bytes)

    def _shed(self) -> None:
        """Take away the fullest buffers until all together fit again."""
        for client in sorted(self.buffers.holding, key=lambda client: client.held_bytes, reverse=True):
            if self.buffers.total_bytes <= self.buffers.all_bytes:
                return
            if client.state is State.OPEN:
                client.too_slow()

    def _bury(self) -> None:
        """Forget the clients that ended, and say so of the slow ones."""
        ended = self.buffers.ended
        while ended:
            client = ended.pop()
            self.remove(client)
            if client.close_code == TOO_SLOW:
                self._metrics.slow_disconnects.inc()
                log.info("A client read too slowly and was disconnected (code 4008)")


def _write(chunk: Chunk, clients: Iterable[Client]) -> None:
    """The same bytes to every client. The loop that all throughput depends on."""
    data, size = chunk.data, chunk.size
    for client in clients:
        if client.blocked:
            client.hold(chunk, 0)
            continue
        try:
            sent = client.send(data)
        except BlockingIOError:
            client.hold(chunk, 0)
        except OSError:
            client.abort()
        else:
            if sent != size:
                client.hold(chunk, sent)


def _join(frames: list[bytes], before: Position | None) -> list[Chunk]:
    """The frames in as few chunks as `JOINED_BYTES` allows; a frame is never divided."""
    if len(frames) == 1:
        return [Chunk(frames[0], before)]
    chunks: list[Chunk] = []
    start = size = 0
    for index, frame in enumerate(frames):
        if size and size + len(frame) > JOINED_BYTES:
            chunks.append(Chunk(b"".join(frames[start:index]), before))
            start, size = index, 0
        size += len(frame)
    chunks.append(Chunk(b"".join(frames[start:]), before))
    return chunks
