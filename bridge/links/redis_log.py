"""The ordered log in Redis: append under a condition, read, and what lies beside the entries.

The log is a stream whose ids are positions. Keys, all under ``<prefix>:<digest>``: `:log` the stream, `:meta` whose it
is and a nonce that changes when it began anew, `:terms` the relations between terms, `:beat` the listener that beat
last; channels: `:live`, `:control`, `:published` for what applications say beside the log, and ``<prefix>:events`` for
everybody's `redis-cli SUBSCRIBE`.
"""

import logging
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import resources

import msgspec

from bridge.core.events import Body, Entry, Marker, Notification, Published, entry_lines, read_entry
from bridge.core.position import NEWEST_TERMS, Position
from bridge.errors import BridgeError, ForeignLog, LogRefused, RedisUnusable
from bridge.links.redis import NoPermission, RedisLink, RedisReplyError, Reply

log = logging.getLogger("bridge")

MAX_BATCH_ENTRIES = 500
MAX_BATCH_BYTES = 256 * 1024
"""Of one append. One of 40 MB made Redis drop the subscribers."""

MAX_READ_ENTRIES = 500
"""Of one read, so that parsing never holds up the loop for more than a few milliseconds."""

_PAIRS_PER_COMMAND = 1000
_STOP_BEATING = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class LogState(msgspec.Struct, frozen=True):
    """Where the log ends, and which log it is: another nonce means that it began anew. None, None: there is none."""

    tail: Position | None
    nonce: str | None


class Appended(msgspec.Struct, frozen=True):
    """The batch is in the log, which now is in this state. `troubles`: what failed beside it, such as a PUBLISH."""

    state: LogState
    troubles: tuple[str, ...] = ()


class Beat(msgspec.Struct, frozen=True):
    """What a listener says once a second on the control channel: who it is, and where the log ends for it.

    `process` is PostgreSQL's process of its session (0: not said), `appending` whether it appended last.
    """

    nonce: str
    tail: Position | None
    process: int = 0
    appending: bool = False


class _BeatJson(msgspec.Struct):
    nonce: str
    tail: str | None
    process: int = 0
    appending: bool = False


_beat = msgspec.json.Decoder(_BeatJson)


class RedisLog:
    """The log of one set of channels, through one link. `database` None: for reading alone, whoever wrote it."""

    def __init__(
        self, link: RedisLink, prefix: str, digest: str, history_entries: int, database: str | None = None
    ) -> None:
        base = f"{prefix}:{digest}"
        self.live_channel = f"{base}:live"
        self.control_channel = f"{base}:control"
        self.published_channel = f"{base}:published"
        self.events_channel = f"{prefix}:events"
        self._link = link
        self._digest = digest
        self._history_entries = history_entries
        self._database = database
        self._log_key = f"{base}:log"
        self._meta_key = f"{base}:meta"
        self._terms_key = f"{base}:terms"
        self._beat_key = f"{base}:beat"
        self._script = resources.files("bridge.links").joinpath("append.lua").read_bytes()
        self._sha = b""
        self._warned = False

    async def open(self) -> LogState:
        """Check that the log is ours and make ready to append. Raises ForeignLog, and what the link raises."""
        state = await self.state()
        if self._database is not None:
            await self._load_script()
            await self._forget_old_terms()
        return state

    async def state(self) -> LogState:
        """Where the log ends now. Raises ForeignLog where it belongs to another database.

        No transaction: Redis out of memory refuses those, and who acts upon an older state is told by `append`.
        """
        commands = [
            ("EXISTS", self._log_key),
            ("XINFO", "STREAM", self._log_key),
            ("HMGET", self._meta_key, "nonce", "database"),
        ]
        exists, info, meta = await self._link.pipeline(commands)
        if exists == 1 and isinstance(info, RedisReplyError):  # it may have gone in between
            exists, info, meta = await self._link.pipeline(commands)
        _raise_first([exists, meta])
        if self._database is not None and meta[1] not in (None, self._database.encode()):
            raise self._foreign(meta[1].decode(errors="replace"))
        nonce = meta[0].decode() if meta[0] else None
        if not exists:
            return LogState(None, nonce)
        _raise_first([info])
        facts = dict(zip(info[::2], info[1::2], strict=True))
        return LogState(self._tail(facts[b"last-generated-id"]), nonce)

    async def append(
        self, expected: LogState, first: Position, bodies: Sequence[Body], publish_from: int = 0
    ) -> Appended | LogState:
        """Append `bodies` as first, first + 1, …, if the log is still as expected; else append nothing.

        Returns Appended, or the LogState that was found instead; so the retry of a batch that went through finds
        the batch's own last position. Notifications from index `publish_from` on are published on the events
        channel. At most MAX_BATCH_ENTRIES and MAX_BATCH_BYTES. Raises LogRefused where Redis takes no writes or the
        user has no right to write, ForeignLog, RedisLost; then (but for RedisLost) nothing was appended.
        """
        if self._database is None:
            raise ValueError("this log was opened for reading")
        if not 0 < len(bodies) <= MAX_BATCH_ENTRIES:
            raise ValueError(f"a batch has 1 to {MAX_BATCH_ENTRIES} entries, not {len(bodies)}")
        if first.seq < 0 or (expected.tail is not None and first <= expected.tail):
            raise ValueError(f"{first} does not come after the log's tail {expected.tail}")
        term, seq = first
        flags = bytearray(b"0" * min(publish_from, len(bodies)) + b"1" * (len(bodies) - publish_from))
        relations: list[str | int] = []
        for index, body in enumerate(bodies):
            if isinstance(body, Notification):
                continue
            flags[index : index + 1] = b"0"
            if isinstance(body, Marker) and body.digest == self._digest:
                relations += (body.term, str(first.plus(index)))
        answer = await self._run(
            str(expected.tail or ""),
            expected.nonce or "",
            self._database,
            secrets.token_hex(8),
            self._history_entries,
            self.live_channel,
            self.events_channel,
            term,
            seq,
            bytes(flags),
            *entry_lines(first, bodies),
            *relations,
        )
        state = LogState(self._tail(answer[1]), answer[2].decode() or None)
        if answer[0] == 0:
            return state
        return Appended(state, tuple(trouble.decode(errors="replace") for trouble in answer[3:]))

    async def read(self, after: Position | None, count: int = MAX_READ_ENTRIES) -> list[Entry]:
        """The entries after this position, oldest first, at most `count` (and MAX_READ_ENTRIES). Empty: the end.

        What somebody else wrote into the stream is left out, with one warning.
        """
        count = min(count, MAX_READ_ENTRIES)
        start = "-" if after is None else f"({after}" if after.seq >= 0 else f"{after.term}-0"
        while True:
            rows = await self._link.execute("XRANGE", self._log_key, start, "+", "COUNT", count)
            entries = [entry for row in rows if (entry := self._entry(row)) is not None]
            if entries or len(rows) < count:
                return entries
            start = f"({rows[-1][0].decode()}"

    def live_entries(self, message: bytes) -> list[Entry]:
        """The entries of one message on the live channel; what is none is left out, with one warning."""
        entries = []
        for line in message.split(b"\n"):
            try:
                entries.append(read_entry(line))
            except ValueError:
                self._warn(self.live_channel)
        return entries

    async def terms_count(self) -> int:
        """How many relations are kept beside the log."""
        return int(await self._link.execute("HLEN", self._terms_key))

    async def terms(self) -> list[tuple[int, Position]]:
        """The relations kept beside the log: each term, and the position at which its marker was heard (seq may be
        negative)."""
        flat = await self._link.execute("HGETALL", self._terms_key)
        relations = []
        for term, heard in zip(flat[::2], flat[1::2], strict=True):
            try:
                heard_term, _, heard_seq = heard.partition(b"-")
                relations.append((int(term), Position(int(heard_term), int(heard_seq))))
            except ValueError:
                self._warn(self._terms_key)
        return relations

    async def save_terms(self, relations: Iterable[tuple[Position, Position]]) -> None:
        """Keep these relations, pairs of equal positions as a Timeline gives them. Raises LogRefused, RedisLost."""
        flat: list[str | int] = []
        for one, other in relations:
            flat += (one.term, str(other.plus(-one.seq)))
        step = 2 * _PAIRS_PER_COMMAND
        commands = [("HSET", self._terms_key, *flat[i : i + step]) for i in range(0, len(flat), step)]
        _raise_first(_writing(await self._link.pipeline(commands)))
        await self._forget_old_terms()

    async def beat(
        self, tail: Position | None, nonce: str, ttl_seconds: float, *, process: int = 0, appending: bool = False
    ) -> None:
        """Say on the control channel, and in a key that lasts `ttl_seconds`, that listener `nonce` is at work."""
        message = msgspec.json.encode(_BeatJson(nonce, None if tail is None else str(tail), process, appending))
        replies = await self._link.pipeline(
            [
                ("PUBLISH", self.control_channel, message),
                ("SET", self._beat_key, nonce, "PX", max(1, round(ttl_seconds * 1000))),
            ]
        )
        _raise_first(_writing(replies))

    async def listeners_beating(self) -> str | None:
        """The nonce of the listener that beat last, None where none has for the life of its beat."""
        nonce = await self._link.execute("GET", self._beat_key)
        return None if nonce is None else str(nonce, errors="replace")

    async def stop_beating(self, nonce: str) -> None:
        """Take back the beat of listener `nonce`, if no other one has beaten since; it would also end by itself."""
        with suppress(LogRefused):
            await self._link.execute("EVAL", _STOP_BEATING, 1, self._beat_key, nonce)

    async def publish(self, event: Published) -> int:
        """Say this to all who hear now, beside the log; how many workers that were. Raises RedisLost."""
        channels = self.published_channel, self.events_channel
        replies = await self._link.pipeline([("PUBLISH", channel, event.data) for channel in channels])
        _raise_first(replies)
        return int(replies[0])

    async def _run(self, *arguments: bytes | str | int) -> Reply:
        command = (3, self._log_key, self._meta_key, self._terms_key, *arguments)
        try:
            if not self._sha:
                await self._load_script()
            try:
                return await self._link.execute("EVALSHA", self._sha, *command)
            except RedisReplyError as error:
                if error.code != "NOSCRIPT":
                    raise
            await self._load_script()
            return await self._link.execute("EVALSHA", self._sha, *command)
        except NoPermission as error:
            raise LogRefused(str(error)) from None
        except RedisReplyError as error:
            if error.code == "FOREIGNLOG":
                raise self._foreign(error.text.partition(" ")[2]) from None
            raise

    async def _load_script(self) -> None:
        self._sha = await self._link.execute("SCRIPT", "LOAD", self._script)

    async def _forget_old_terms(self) -> None:
        if await self.terms_count() <= NEWEST_TERMS:
            return
        names = await self._link.execute("HKEYS", self._terms_key)
        oldest = sorted(names, key=lambda name: (len(name), name))[:-NEWEST_TERMS]
        step = _PAIRS_PER_COMMAND
        commands = [("HDEL", self._terms_key, *oldest[i : i + step]) for i in range(0, len(oldest), step)]
        _raise_first(_writing(await self._link.pipeline(commands)))

    def _tail(self, identifier: bytes) -> Position | None:
        if identifier in (b"", b"0-0"):
            return None
        try:
            return Position.parse(identifier.decode())
        except ValueError:
            last = identifier.decode()
            raise RedisUnusable(f"somebody else has written entry {last} into {self._log_key}: delete it") from None

    def _entry(self, row: Reply) -> Entry | None:
        """The entry of a stream's row, None where it is not one of ours."""
        identifier, fields = row
        try:
            name, line = fields
            entry = read_entry(line) if name == b"e" else None
        except ValueError:
            entry = None
        if entry is None or b"%d-%d" % entry.position != identifier:
            self._warn(self._log_key)
            return None
        return entry

    def _warn(self, where: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("Somebody else has written into %s in Redis; what the bridge cannot read is left out", where)

    def _foreign(self, owner: str) -> ForeignLog:
        return ForeignLog(
            f"the log {self._log_key} in Redis belongs to database {owner}, not to {self._database}: "
            "give each database its own BRIDGE_REDIS_PREFIX, or delete the keys of the old log"
        )


def read_beat(message: bytes) -> Beat | None:
    """What a listener said on the control channel; None for what is no beat."""
    try:
        said = _beat.decode(message)
        tail = None if said.tail is None else Position.parse(said.tail)
        return Beat(said.nonce, tail, said.process, said.appending)
    except ValueError:
        return None


def _raise_first(replies: Iterable[Reply]) -> None:
    for reply in replies:
        if isinstance(reply, BridgeError):
            raise reply


def _writing(replies: Iterable[Reply]) -> list[Reply]:
    """The replies of writes, where a missing right means that the log does not take what we write."""
    return [LogRefused(str(reply)) if isinstance(reply, NoPermission) else reply for reply in replies]
