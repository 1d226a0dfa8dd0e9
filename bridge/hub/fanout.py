"""The fan-out: every event is encoded once, and the same bytes go to every client that wants it.

`Hub.deliver` is one synchronous loop that writes straight into non-blocking sockets. Clients with equal subscriptions
form a group; what comes together is joined, so that a burst costs one `send` a client. A client that the kernel cannot
take more for has a bounded buffer (`bridge.hub.client`); a client that fails or falls too far behind is dropped alone.
"""

from collections.abc import Callable, Container, Iterable, Sequence

from bridge.core.events import Event, Filled, Gap, filled_json, gap_json
from bridge.core.position import Position
from bridge.core.topics import Subscription, Topics
from bridge.core.wire import PING_FRAME, TOO_SLOW, position_json, subscribed_json, text_frame
from bridge.hub.client import Buffers, Chunk, Client, State
from bridge.telemetry import Metrics, log

TICK_SECONDS = 5.0
"""How often `Hub.tick` is to be called."""
QUIET_TICKS = 3
"""15 seconds without an event, and a client is told its position."""
PING_TICKS = 5
"""25 seconds between WebSocket pings; a peer that shows no life until the next one is dropped."""

JOINED_BYTES = 256 * 1024

Item = Event | Gap | Filled
Follows = Callable[[Position, Position], bool]
"""Whether the first position is known to be newer than the second one."""


class Group:
    """The clients of one subscription. A dict, because it keeps the order in which they came."""

    __slots__ = ("clients", "quiet_ticks", "subscription")

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.clients: dict[Client, None] = {}
        self.quiet_ticks = 0


class Hub:
    """All clients of this process. Everything is synchronous: nothing can come between a decision and its frame.

    Until `set_live` a client is connected but hears nothing, not even `subscribed`: that message is a promise, and
    only a proven source can keep it. Then every waiting client gets `subscribed` and all that is delivered from there.
    """

    def __init__(
        self,
        channels: Iterable[str],
        client_buffer_bytes: int,
        buffers_total_bytes: int,
        metrics: Metrics,
        follows: Follows = lambda position, since: position > since,
    ) -> None:
        self.channels = frozenset(channels)
        self.buffers = Buffers(client_buffer_bytes)
        self.live = False
        self.position: Position | None = None
        """The last event delivered; or where the source began."""
        self._buffers_total_bytes = buffers_total_bytes
        self._metrics = metrics
        self._topics: Topics[Group] = Topics()
        self._groups: dict[Subscription, Group] = {}
        self._clients: dict[Client, Subscription] = {}
        self._follows = follows
        self._subscribed: dict[Client, tuple[int, Position | None]] = {}
        """When each client subscribed: how many had done so before it, and the position it was told."""
        self._subscribed_count = 0
        self._pending: dict[tuple[Position | None, Position | None], int] = {}
        """Pending gaps, by their bounds, and how many clients had subscribed when they were announced."""
        self._waiting: dict[Client, None] = {}
        self._ticks = 0

    @property
    def client_count(self) -> int:
        """Clients that are connected, waiting ones included."""
        return len(self._clients)

    @property
    def clients(self) -> Iterable[Client]:
        """All of them, in the order in which they came."""
        return self._clients.keys()

    def set_live(self, position: Position | None) -> None:
        """A proven source feeds this hub, and what is delivered from now on comes after `position`.

        A position already known is kept where this one is None.
        """
        self.live = True
        if position is not None:
            self.position = position
        waiting, self._waiting = self._waiting, {}
        for client in waiting:
            self._subscribe(client)
        self._bury()

    def set_waiting(self) -> None:
        """No source feeds this hub: clients that come now wait for the next `set_live` before they hear anything."""
        self.live = False

    def add(self, client: Client, subscription: Subscription) -> None:
        """Take a client whose handshake is done. It gets `subscribed`, then every event delivered after this call."""
        self._clients[client] = subscription
        if self.live:
            self._subscribe(client)
        else:
            self._waiting[client] = None
        self._bury()

    def remove(self, client: Client) -> None:
        """Forget a client; harmless if it is not there (any more)."""
        subscription = self._clients.pop(client, None)
        if subscription is None:
            return
        if client in self._waiting:
            del self._waiting[client]
            return
        del self._subscribed[client]
        group = self._groups[subscription]
        del group.clients[client]
        if not group.clients:
            del self._groups[subscription]
            self._topics.remove(subscription, group)

    def deliver(self, items: Sequence[Item]) -> None:
        """Give these to every client that wants them, in this order; gaps concern everybody.

        But a late event concerns only those who had subscribed before it, and the end of a pending gap those who were
        told of it. Never waits, and never raises for what a client does.
        """
        plain: list[Item] = []
        for item in items:
            if _concerns_all(item, self._pending):
                plain.append(item)
            else:
                self._fan_out(plain)
                plain = []
                self._deliver_to_some(item)
            if isinstance(item, Gap) and item.pending:
                self._pending[item.after, item.before] = self._subscribed_count
        self._fan_out(plain)
        if self.buffers.total_bytes > self._buffers_total_bytes:
            self._shed()
        if self.buffers.ended:
            self._bury()

    def _deliver_to_some(self, item: Item) -> None:
        """A late event, or the end of a pending gap."""
        if isinstance(item, Event):
            frame = text_frame(item.data)
            wanted = [client for group in self._topics.match(item) for client in group.clients]
            concerned = [client for client in wanted if self._had_subscribed(client, item)]
        else:
            frame = text_frame(gap_json(item) if isinstance(item, Gap) else filled_json(item))
            told = self._pending.pop((item.after, item.before))
            concerned = [client for client, (before, _) in self._subscribed.items() if before < told]
        _write(Chunk(frame), concerned)
        self._metrics.events.inc()
        self._metrics.deliveries.inc(len(concerned))
        self._metrics.bytes_sent.inc(len(frame) * len(concerned))

    def _had_subscribed(self, client: Client, late: Event) -> bool:
        before, since = self._subscribed[client]
        if late.hole is not None and late.hole in self._pending:
            return before < self._pending[late.hole]
        return since is not None and self._follows(late.position, since)  # outside of a hole it was announced as lost

    def _fan_out(self, items: Sequence[Item]) -> None:
        if not items:
            return
        frames: list[bytes] = []
        runs: dict[Group, list[int]] = {}
        match = self._topics.match
        for item in items:
            if isinstance(item, Event):
                self.position = item.position
                groups: Iterable[Group] = match(item)
                if not groups:
                    continue
                frame = text_frame(item.data)
            else:
                frame = text_frame(gap_json(item) if isinstance(item, Gap) else filled_json(item))
                groups = self._groups.values()
            index = len(frames)
            frames.append(frame)
            for group in groups:
                run = runs.get(group)
                if run is None:
                    runs[group] = [index]
                else:
                    run.append(index)
        joined: dict[tuple[int, ...] | None, list[Chunk]] = {}
        deliveries = sent_bytes = 0
        for group, run in runs.items():
            key = None if len(run) == len(frames) else tuple(run)
            chunks = joined.get(key)
            if chunks is None:
                chunks = joined[key] = _join([frames[index] for index in run])
            group.quiet_ticks = 0
            clients = group.clients
            for chunk in chunks:
                _write(chunk, clients)
                sent_bytes += chunk.size * len(clients)
            deliveries += len(run) * len(clients)
        self._metrics.events.inc(len(items))
        if deliveries:
            self._metrics.deliveries.inc(deliveries)
            self._metrics.bytes_sent.inc(sent_bytes)

    def tick(self, *, after_pause: bool = False) -> None:
        """Tell quiet clients their position, ping all, and drop those that gave no sign of life since the last ping.

        To be called every `TICK_SECONDS`; `after_pause` where this call comes late, because a process that was
        paused itself has not given its peers time to answer.
        """
        self._ticks += 1
        for group in self._groups.values():
            group.quiet_ticks += 1
            if group.quiet_ticks >= QUIET_TICKS and self.position is not None:
                group.quiet_ticks = 0
                _write(Chunk(text_frame(position_json(self.position))), group.clients)
        if self._ticks % PING_TICKS == 0:
            for client in self._clients:
                if client.heard or after_pause:
                    client.heard = False
                    client.put(PING_FRAME)
                else:
                    client.abort()
        self._bury()

    def observe(self) -> None:
        """Bring the gauges up to date."""
        self._metrics.clients.set(len(self._clients))
        self._metrics.buffered_bytes.set(self.buffers.total_bytes)

    def _subscribe(self, client: Client) -> None:
        subscription = self._clients[client]
        group = self._groups.get(subscription)
        if group is None:
            group = self._groups[subscription] = Group(subscription)
            self._topics.add(subscription, group)
        group.clients[client] = None
        self._subscribed[client] = (self._subscribed_count, self.position)
        self._subscribed_count += 1
        client.put(text_frame(subscribed_json(subscription, self.position)))

    def _shed(self) -> None:
        """End the clients with the fullest buffers until all together fit again."""
        for client in sorted(self.buffers.holding, key=lambda client: client.held_bytes, reverse=True):
            if self.buffers.total_bytes <= self._buffers_total_bytes:
                return
            if client.state is State.OPEN:
                client.end_too_slow()

    def _bury(self) -> None:
        """Forget the clients that ended, and say so of the slow ones."""
        ended = self.buffers.ended
        while ended:
            client = ended.pop()
            self.remove(client)
            if client.close_code == TOO_SLOW:
                self._metrics.slow_disconnects.inc()
                log.info("A client read too slowly and was disconnected (code 4008)")


def _concerns_all(item: Item, pending: Container[tuple[Position | None, Position | None]]) -> bool:
    if isinstance(item, Event):
        return not item.late
    return (item.after, item.before) not in pending or (isinstance(item, Gap) and item.pending)


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


def _join(frames: list[bytes]) -> list[Chunk]:
    """The frames in as few chunks as `JOINED_BYTES` allows; a frame is never divided."""
    if len(frames) == 1:
        return [Chunk(frames[0])]
    chunks: list[Chunk] = []
    start = size = 0
    for index, frame in enumerate(frames):
        if size and size + len(frame) > JOINED_BYTES:
            chunks.append(Chunk(b"".join(frames[start:index])))
            start, size = index, 0
        size += len(frame)
    chunks.append(Chunk(b"".join(frames[start:])))
    return chunks
