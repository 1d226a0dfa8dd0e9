"""From the tape of a listener process to the workers of its pod: answers to what they ask, over a Unix socket.

A worker pulls, so nothing is sent to one that does not read, and nothing at all while none of them needs it. Where no
log takes the entries (`trims`), the workers do: the tape keeps what any of them still has to ask for, and PostgreSQL's
queue waits where that is too much. A worker that is silent for `SILENT_TICKS` holds up nobody any longer: it is told of
a gap when it comes back too late.
"""

import secrets
from pathlib import Path

import anyio
import anyio.abc

from bridge.core.events import Heard, entry_json
from bridge.core.pod_wire import (
    HOLD_SECONDS,
    MAX_ANSWER_BYTES,
    MAX_ANSWER_ENTRIES,
    MAX_REQUEST_BYTES,
    MAX_SEGMENTS,
    VERSION,
    Answer,
    Frames,
    Hello,
    Look,
    Pull,
    Relation,
    Reply,
    Request,
    Segment,
    SessionState,
    View,
    frame,
    read_request,
)
from bridge.core.position import Position
from bridge.relay.relay import Relay
from bridge.telemetry import log

MAX_READERS = 512
"""Connections at a time, several times as many workers as a pod has; more are closed at once."""
IDLE_SECONDS = 30.0
"""A connection on which nothing is asked, or taken, for so long is closed: the worker opens another one."""
TICK_SECONDS = 1.0
SILENT_TICKS = 3
"""Ticks without a question after which a reader no longer counts. Ticks are waits that this process made, so a pause of
this process is not taken for one of its readers."""
KEPT_LINES = 2048
"""Encoded entries that are kept for the other workers, twice as many at times."""

_READ_BYTES = 4096
_FAILURES = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class _Reader:
    """One connection: how far the worker has come, and what it was told."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self.frames = Frames(MAX_REQUEST_BYTES)
        self.index: int | None = None
        """What it asked for last: it has everything before. None: it has not asked for anything yet."""
        self.asking = False
        """Whether a question of it waits for its answer."""
        self.silent_ticks = 0
        self.gone = False
        """Whether the connection has ended: it still counts for a moment, in which the worker may come again."""
        self.told_terms: set[int] = set()
        self.told_version = -1

    @property
    def counts(self) -> bool:
        """Whether the tape keeps what this one has not asked for."""
        return self.asking or self.silent_ticks <= SILENT_TICKS

    async def request(self) -> Request | None:
        """What it asks next; None where it has gone, or asks nothing for `IDLE_SECONDS`. Raises ValueError."""
        with anyio.move_on_after(IDLE_SECONDS):
            while (body := self.frames.next()) is None:
                try:
                    self.frames.feed(await self.stream.receive(_READ_BYTES))
                except _FAILURES:
                    return None
            return read_request(body)
        return None

    async def tell(self, reply: Reply) -> bool:
        """Whether it has taken the answer."""
        with anyio.move_on_after(IDLE_SECONDS):
            try:
                await self.stream.send(frame(reply))
            except _FAILURES:
                return False
            return True
        return False


class Outlet:
    """Serves the workers of one pod. One for a listener process; `digest` names its set of channels."""

    def __init__(self, relay: Relay, digest: str, *, trims: bool) -> None:
        self._tape = relay.tape
        self._listener = relay.listener
        self._timeline = relay.timeline
        self._hello = Hello(VERSION, digest, secrets.token_hex(8))
        self._trims = trims
        self._readers: set[_Reader] = set()
        self._lines: dict[Position, bytes] = {}
        self._older_lines: dict[Position, bytes] = {}
        if trims:
            self._listener.draining.set(True)

    @property
    def readers(self) -> int:
        """How many workers are connected."""
        return sum(not reader.gone for reader in self._readers)

    async def serve(self, path: Path, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Accept workers at this socket, which only this user may use. Never returns. Raises OSError where the socket
        cannot be made; a socket that is there already is replaced."""
        async with await anyio.create_unix_listener(path, mode=0o600) as listener:
            task_status.started()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.keep_trimmed)
                await listener.serve(self.serve_stream, tasks)

    async def keep_trimmed(self) -> None:
        """Never returns. Lets go of what only readers hold that have been silent for too long."""
        while True:
            await anyio.sleep(TICK_SECONDS)
            for reader in list(self._readers):
                reader.silent_ticks += 1
                if reader.gone and not reader.counts:
                    self._readers.discard(reader)
            self._trim()

    async def serve_stream(self, stream: anyio.abc.ByteStream) -> None:
        """Serve one worker until it goes; closes the stream. Whatever a worker does wrong ends its connection alone."""
        reader = _Reader(stream)
        try:
            if len(self._readers) < MAX_READERS:
                self._readers.add(reader)
                await self._serve(reader)
        except ValueError as error:
            log.warning("A worker asked what cannot be understood, and was disconnected: %s", error)
        finally:
            reader.gone, reader.asking, reader.silent_ticks = True, False, 0
            await anyio.aclose_forcefully(stream)

    async def _serve(self, reader: _Reader) -> None:
        if not await reader.tell(self._hello):
            return
        while (request := await reader.request()) is not None:
            reader.asking = True
            reply: Reply
            match request:
                case Look():
                    reply = self._view(reader)
                case Pull():
                    reply = await self._answer(reader, request)
            reader.asking, reader.silent_ticks = False, 0
            if not await reader.tell(reply):
                return

    def _view(self, reader: _Reader) -> View:
        tape = self._tape
        segments = tuple(Segment(one.term, one.first_seq, one.start, one.end) for one in tape.segments[-MAX_SEGMENTS:])
        return View(self._session(), self._relations(reader), segments, tape.end)

    async def _answer(self, reader: _Reader, pull: Pull) -> Answer:
        """What follows, as soon as there is something, or when it was held for long enough."""
        tape = self._tape
        last = None if pull.last is None else Position(*pull.last)
        if reader.index is None:
            self._recognise(pull.index)
        index = reader.index = tape.go_on(pull.index, last, self._timeline)
        self._trim()
        with anyio.move_on_after(HOLD_SECONDS):
            await tape.grown(index)
        index = reader.index = tape.go_on(index, last, self._timeline)
        lines, age_seconds = self._take(index)
        return Answer(self._session(), self._relations(reader), index, tape.end, age_seconds, lines)

    def _recognise(self, index: int) -> None:
        """A worker that goes on here is most likely the one that has gone there: nobody waits for that any longer."""
        for one in self._readers:
            if one.gone and one.index is not None and one.index <= index <= one.index + MAX_ANSWER_ENTRIES:
                self._readers.discard(one)
                return

    def _take(self, index: int) -> tuple[bytes, float | None]:
        """The lines from this index on, of one segment, and how long ago the first one was heard."""
        lines: list[bytes] = []
        size = 0
        heard = self._tape.run(index, MAX_ANSWER_ENTRIES)
        for one in heard:
            line = self._line(one)
            size += len(line) + 1
            if size > MAX_ANSWER_BYTES and lines:
                break
            lines.append(line)
        arrived = self._listener.arrivals.at(heard[0].position) if heard else None
        return b"\n".join(lines), None if arrived is None else max(0.0, anyio.current_time() - arrived)

    def _line(self, heard: Heard) -> bytes:
        """The entry as a line, encoded once for all workers."""
        position = heard.position
        line = self._lines.get(position) or self._older_lines.get(position)
        if line is None:
            line = entry_json(position, heard.body)
            if len(self._lines) >= KEPT_LINES:
                self._older_lines, self._lines = self._lines, {}
            self._lines[position] = line
        return line

    def _session(self) -> SessionState:
        if self._listener.session.value is None:
            return "lost"
        return "proven" if self._listener.proven else "unproven"

    def _relations(self, reader: _Reader) -> tuple[Relation, ...]:
        """Those that this reader has not been told."""
        if reader.told_version == self._timeline.version:
            return ()
        reader.told_version = self._timeline.version
        relations = list(self._timeline.relations())
        news = tuple(
            Relation(one.term, other.term, other.seq) for one, other in relations if one.term not in reader.told_terms
        )
        reader.told_terms = {one.term for one, _ in relations}
        return news

    def _trim(self) -> None:
        """Everything that all readers have is written, where no log decides that."""
        if not self._trims:
            return
        indexes = [one.index for one in self._readers if one.index is not None and one.counts]
        if (written := min(indexes, default=self._tape.end)) > self._tape.written:
            self._tape.mark_written(written)
