"""Redis: what is seen of it. Only looks: nothing real is written, published or changed.

Rights and refusals (memory, disk, replica) are asked for inside a MULTI that is discarded, on a key of the doctor's
own; Redis judges each command when it is queued. The script runs with a tail that no log has, so it appends nothing.
"""

import enum
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

import anyio
import msgspec

from bridge.core.position import Position
from bridge.doctor.clocks import Reading, read
from bridge.errors import BridgeError, RedisLost
from bridge.links.redis import RedisLink, RedisTarget, open_redis
from bridge.links.redis_log import Beat, RedisLog, read_beat
from bridge.links.redis_url import SentinelTarget
from bridge.settings import Settings

LOOK_SECONDS = 12.0
ANSWER_SECONDS = 3.0
BEATS_SECONDS = 2.3
"""Every listener beats once a second: in so long each one that lives has."""
SUBJECT = "Redis"


class Step(enum.Enum):
    """The parts of a visit, in their order, and what is done in them."""

    FACTS = "asking what it is"
    RIGHTS = "asking for rights"
    SCRIPT = "running the script"
    STATE = "looking at the log"
    LISTEN = "listening"


class Refusal(msgspec.Struct, frozen=True):
    """A command that Redis did not take, and why."""

    command: str
    error: BridgeError


class Seen(msgspec.Struct):
    """What was observed, as far as it went. `doing`: what went on when `error` came. None: it could not be seen."""

    doing: str = "connecting"
    done: tuple[Step, ...] = ()
    error: BridgeError | None = None
    where: str = ""
    connect_seconds: float = 0.0
    server: str = ""
    role: str = ""
    clock: Reading | None = None
    info: Mapping[str, str] | None = None
    """What INFO says of memory, and statistics."""
    output_limit: str | None = None
    """The setting client-output-buffer-limit."""
    rights_seen: bool = False
    """Whether MULTI was there to ask for rights."""
    refusals: Sequence[Refusal] = ()
    script_error: BridgeError | None = None
    round_trip_seconds: float | None = None
    """From PUBLISH to the subscriber; None where it did not arrive."""
    ear_error: BridgeError | None = None
    owner: str | None = None
    """The database that the log belongs to, None where there is no log."""
    entries: int | None = None
    tail: Position | None = None
    log_error: BridgeError | None = None
    workers: int | None = None
    """Who else subscribes to the heartbeats of these channels: servers, not listeners."""
    beats: dict[str, Beat] | None = None
    """The last beat of each listener that was heard."""


async def look(settings: Settings, target: RedisTarget | SentinelTarget) -> Seen:
    """Observe, for at most `LOOK_SECONDS`. Never raises but for cancellation."""
    seen = Seen()
    with anyio.move_on_after(LOOK_SECONDS) as scope:
        try:
            began = anyio.current_time()
            async with open_redis(target, timeout_seconds=ANSWER_SECONDS, name="bridge doctor") as link:
                seen.connect_seconds = anyio.current_time() - began
                seen.where, seen.server, seen.role = str(link.target), link.server, link.role
                await _Look(link, settings, seen).everything()
        except BridgeError as error:
            seen.error = error
    if scope.cancelled_caught:
        seen.error = RedisLost(f"Redis did not answer within {LOOK_SECONDS:g} s while {seen.doing}")
    return seen


class _Look:
    """One visit, on one link for questions and another one to listen."""

    def __init__(self, link: RedisLink, settings: Settings, seen: Seen) -> None:
        self._link = link
        self._seen = seen
        self._base = f"{settings.redis_prefix}:{settings.digest}"
        self._own = f"{self._base}:doctor:{secrets.token_hex(8)}"
        self._beats: dict[str, Beat] = {}
        self._log = RedisLog(link, settings.redis_prefix, settings.digest, settings.history_entries)

    async def everything(self) -> None:
        seen = self._seen
        steps = (self._facts, self._rights, self._script, self._state, self._listen)
        for step, take in zip(Step, steps, strict=True):
            seen.doing = step.value
            await take()
            seen.done += (step,)

    async def _facts(self) -> None:
        seen, before = self._seen, time.time()
        (now,) = await self._link.pipeline([("TIME",)])
        if isinstance(now, list):
            seen.clock = read(SUBJECT, int(now[0]) + int(now[1]) / 1e6, before, time.time())
        *sections, limit, subscribers = await self._link.pipeline(
            [
                ("INFO", "memory"),
                ("INFO", "stats"),
                ("CONFIG", "GET", "client-output-buffer-limit"),
                ("PUBSUB", "NUMSUB", self._log.control_channel),
            ]
        )
        texts = [section.decode(errors="replace") for section in sections if isinstance(section, bytes)]
        if texts:
            lines = [line.partition(":") for text in texts for line in text.splitlines()]
            seen.info = {name: value for name, colon, value in lines if colon}
        if isinstance(limit, list) and len(limit) == 2:
            seen.output_limit = limit[1].decode(errors="replace")
        if isinstance(subscribers, list) and len(subscribers) == 2:
            seen.workers = subscribers[1]

    async def _rights(self) -> None:
        """Queue every command that the bridge writes with, and discard them. Without a MULTI nothing is sent."""
        own, seen = self._own, self._seen
        (multi,) = await self._link.pipeline([("MULTI",)])
        if multi != b"OK":
            return
        commands: list[tuple[str, ...]] = [
            ("XADD", own, "MAXLEN", "~", "1", "*", "e", "x"),
            ("HSET", own, "f", "x"),
            ("HDEL", own, "f"),
            ("SET", own, "x", "PX", "1"),
            ("DEL", own),
            ("PUBLISH", own, "x"),
            ("XRANGE", own, "-", "+", "COUNT", "1"),
            ("XINFO", "STREAM", own),
            ("HMGET", own, "f"),
            ("HGETALL", own),
            ("HKEYS", own),
            ("HLEN", own),
            ("GET", own),
            ("EXISTS", own),
            ("EVAL", "return 1", "1", own),
        ]
        *replies, _ = await self._link.pipeline([*commands, ("DISCARD",)])
        seen.rights_seen = True
        seen.refusals = [
            Refusal(command[0], reply)
            for command, reply in zip(commands, replies, strict=True)
            if isinstance(reply, BridgeError)
        ]

    async def _script(self) -> None:
        """Load and run append.lua, on the doctor's own keys, with a tail that no log has."""
        script = resources.files("bridge.links").joinpath("append.lua").read_bytes()
        (loaded,) = await self._link.pipeline([("SCRIPT", "LOAD", script)])
        if isinstance(loaded, BridgeError):
            self._seen.script_error = loaded
            return
        keys = [f"{self._own}:{name}" for name in ("log", "meta", "terms")]
        nothing: Sequence[str | int] = ["no tail", "", "doctor", "", 1, self._own, self._own, 1, 1, "", ""]
        (answer,) = await self._link.pipeline([("EVALSHA", loaded, 3, *keys, *nothing)])
        if isinstance(answer, BridgeError):
            self._seen.script_error = answer

    async def _state(self) -> None:
        seen = self._seen
        (meta, entries) = await self._link.pipeline(
            [("HMGET", f"{self._base}:meta", "nonce", "database"), ("XLEN", f"{self._base}:log")]
        )
        if isinstance(meta, list) and meta[1] is not None:
            seen.owner = meta[1].decode(errors="replace")
        if isinstance(entries, int):
            seen.entries = entries
        try:
            seen.tail = (await self._log.state()).tail
        except BridgeError as error:
            seen.log_error = error

    async def _listen(self) -> None:
        """A round trip on a channel of the doctor's own, then the heartbeats of the listeners."""
        seen, log = self._seen, self._log
        try:
            async with open_redis(self._link.target, timeout_seconds=ANSWER_SECONDS, name="bridge doctor") as ear:
                await ear.subscribe(self._own, log.control_channel)
                began = anyio.current_time()
                await self._link.execute("PUBLISH", self._own, "x")
                seen.beats = self._beats
                await self._hear_until(ear, began + ANSWER_SECONDS, lambda: seen.round_trip_seconds is not None, began)
                await self._hear_until(ear, began + BEATS_SECONDS, lambda: False, began)
                await ear.subscribe(log.live_channel, log.events_channel)  # who may not hear may not publish
        except BridgeError as error:
            seen.ear_error = error

    async def _hear_until(self, ear: RedisLink, deadline: float, done: Callable[[], bool], began: float) -> None:
        with anyio.CancelScope(deadline=deadline):
            while not done():
                self._hear(await ear.messages(), anyio.current_time() - began)

    def _hear(self, messages: Sequence[tuple[bytes, bytes]], after_seconds: float) -> None:
        for channel, data in messages:
            if channel == self._own.encode():
                self._seen.round_trip_seconds = after_seconds
            elif channel == self._log.control_channel.encode() and (beat := read_beat(data)) is not None:
                self._beats[beat.nonce] = beat
