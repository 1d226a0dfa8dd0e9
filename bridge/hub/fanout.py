"""One event, or one message, to all who are to get it, with the same bytes for as many as possible.

Clients with equal subscriptions form a group; what comes together is joined, so that a burst costs one `send` a client.
While a gap is open, clients also differ in what they lack: a client's cursor says it, so a group's clients are told
apart by that. Otherwise an event's id says all, and nothing is told apart.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from bridge.core.cursor import Cursor, OpenGap
from bridge.core.events import Event, Published
from bridge.core.position import Position
from bridge.core.wire import text_frame
from bridge.hub.client import Chunk, Client
from bridge.hub.encoding import FinalGap, Message, Protocol, encode, event_message, published_message
from bridge.hub.lack import Lack
from bridge.hub.members import Members
from bridge.telemetry import Metrics

if TYPE_CHECKING:
    from bridge.hub.missed import Missed

JOINED_BYTES = 256 * 1024


class Fanout:
    """Where all clients stand, and the way to them."""

    def __init__(self, members: Members, metrics: Metrics) -> None:
        self.position: Position | None = None
        """Where clients stand that lack nothing: the last event delivered, or where the source began."""
        self.members = members
        self._metrics = metrics

    def cursor_of(self, lacks: tuple[Lack, ...]) -> Cursor | None:
        """Where clients stand that lack this; None where nothing is known yet."""
        return None if self.position is None else Cursor(self.position, tuple(lack.gap for lack in lacks))

    def events(self, items: Sequence[Event]) -> None:
        """Events that come in order, to all who want them."""
        if not items:
            return
        before = self.position
        runs = self.members.match_all(items)
        self.position = items[-1].position
        forms: dict[tuple[Protocol, tuple[Lack, ...]], _Form] = {}
        deliveries = sent_bytes = 0
        for group, run in runs.items():
            group.quiet_ticks = 0
            protocol = group.protocol
            cohorts = self.members.cohorts(group.clients) if self.members.lacking else {(): group.clients}
            for lacks, clients in cohorts.items():
                form = forms.get((protocol, lacks))
                if form is None:
                    form = forms[protocol, lacks] = _Form(items, before, protocol, lacks)
                for chunk in form.chunks(run):
                    _write(chunk, clients)
                    sent_bytes += chunk.size * len(clients)
                deliveries += len(run) * len(clients)
        self._metrics.events.inc(len(items))
        self._count(deliveries, sent_bytes)

    def published(self, event: Published) -> None:
        """What an application has published, to all who want it: each gets it once, and stands where it stood."""
        groups = self.members.match(event)
        for group in groups:
            group.quiet_ticks = 0
        clients = [client for group in groups for client in group.clients]
        self._metrics.events.inc()
        self.tell(clients, partial(published_message, event), events=1)

    def tell(
        self,
        clients: Iterable[Client],
        message: Callable[[Cursor], Message],
        said: tuple[OpenGap, ...] = (),
        before: Position | None = None,
        *,
        events: int = 0,
    ) -> None:
        """One message to these clients, each with its cursor. `said`: the open gaps that it says something of;
        `before`: where the clients stood before it, if it moves them; `events`: 1 where it is one."""
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
                    chunk = chunks[client.protocol] = Chunk(data, before, said, opens=len(said) if before else 0)
                _write(chunk, (client,))
                deliveries += events
                sent_bytes += chunk.size
        self._count(deliveries, sent_bytes)

    def say_lost(self, client: Client, message: Message, missed: "Missed") -> None:
        """To one client alone: something is lost for it."""
        chunk = Chunk(encode(client.protocol, message), missed=missed)
        client.write(chunk)
        self._metrics.bytes_sent.inc(chunk.size)
        self.count_lost((message,))

    def count_replay(self, events: int, others: Iterable[Message], sent_bytes: int) -> None:
        """One client was told from the history: so many events, and these other messages."""
        self._metrics.replayed.inc(events)
        self._metrics.bytes_sent.inc(sent_bytes)
        self.count_lost(others)

    def count_lost(self, messages: Iterable[Message]) -> None:
        """Single clients were told these: count the final gaps among them."""
        for message in messages:
            if isinstance(message, FinalGap):
                self._metrics.gaps.labels(message.reason, "client").inc()

    def _count(self, deliveries: int, sent_bytes: int) -> None:
        if sent_bytes:
            self._metrics.deliveries.inc(deliveries)
            self._metrics.bytes_sent.inc(sent_bytes)


class _Form:
    """Events in one form: each is encoded once, and each choice of them is joined once."""

    __slots__ = ("_before", "_events", "_frames", "_joined", "_lacks", "_protocol")

    def __init__(
        self, events: Sequence[Event], before: Position | None, protocol: Protocol, lacks: tuple[Lack, ...]
    ) -> None:
        self._events = events
        self._before = before
        self._protocol: Protocol = protocol
        self._lacks = lacks
        self._frames: dict[int, bytes] = {}
        self._joined: dict[int | tuple[int, ...], list[Chunk]] = {}

    def chunks(self, run: Sequence[int]) -> list[Chunk]:
        """The events of these indexes."""
        if len(run) == 1:
            return self._single(run[0])
        choice = -1 if len(run) == len(self._events) else tuple(run)
        chunks = self._joined.get(choice)
        if chunks is None:
            frames = self._frames
            new = [index for index in run if index not in frames]
            frames.update(zip(new, self._encode([self._events[index] for index in new]), strict=True))
            chunks = self._joined[choice] = _join([frames[index] for index in run], self._before)
        return chunks

    def _single(self, index: int) -> list[Chunk]:
        chunks = self._joined.get(index)
        if chunks is None:
            if index not in self._frames:
                (self._frames[index],) = self._encode((self._events[index],))
            chunks = self._joined[index] = [Chunk(self._frames[index], self._before)]
        return chunks

    def _encode(self, events: Sequence[Event]) -> list[bytes]:
        if self._protocol == "ws" and not self._lacks:
            return [text_frame(event.data) for event in events]
        gaps = tuple(lack.gap for lack in self._lacks)
        return [encode(self._protocol, event_message(event, Cursor(event.position, gaps))) for event in events]


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
    if sum(map(len, frames)) <= JOINED_BYTES:
        return [Chunk(b"".join(frames), before)]
    chunks: list[Chunk] = []
    start = size = 0
    for index, frame in enumerate(frames):
        if size and size + len(frame) > JOINED_BYTES:
            chunks.append(Chunk(b"".join(frames[start:index]), before))
            start, size = index, 0
        size += len(frame)
    chunks.append(Chunk(b"".join(frames[start:]), before))
    return chunks
