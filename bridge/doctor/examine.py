"""The whole examination: everything is looked at at once, and shown in a fixed order, each subject when it is known."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

import anyio
import msgspec

from bridge.doctor import clocks, listeners, postgres, redis, redis_judgment, running
from bridge.doctor.report import Finding, Show
from bridge.links.redis_url import parse_redis_url
from bridge.links.sessions import TERM_SHIFT
from bridge.redaction import redacted
from bridge.settings import Settings

T = TypeVar("T")


class Examination(msgspec.Struct, frozen=True):
    """What to examine: settings that name a database, bridges, and what was found about the settings themselves."""

    settings: Settings
    places: tuple[running.Place, ...]
    found: tuple[Finding, ...] = ()


class _Result(Generic[T]):
    """What a task will have found out."""

    def __init__(self) -> None:
        self._known = anyio.Event()
        self._values: list[T] = []

    async def run(self, look: Callable[[], Awaitable[T]]) -> None:
        self._values.append(await look())
        self._known.set()

    async def get(self) -> T:
        await self._known.wait()
        return self._values[0]


async def examine(examination: Examination, show: Show) -> None:
    """Show all findings: within 3 s where all is well, 15 at most. Raises SettingsError for a bad REDIS_URL."""
    settings = examination.settings
    target = parse_redis_url(settings.redis_url) if settings.use_redis_notifier else None
    async with anyio.create_task_group() as tasks:

        def begin(look: Callable[[], Awaitable[T]]) -> _Result[T]:
            result: _Result[T] = _Result()
            tasks.start_soon(result.run, look)
            return result

        database = begin(partial(postgres.look, settings))
        log = None if target is None else begin(partial(redis.look, settings, target))
        answers = [begin(partial(running.ask, place)) for place in examination.places]
        for finding in [*_settings(settings), *examination.found]:
            show(finding)
        heard = await database.get()
        _show_all(show, postgres.judge(heard, settings.probe_seconds))
        seen = None if log is None else await log.get()
        if seen is None:
            show(Finding("unseen", redis.SUBJECT, "left out: USE_REDIS_NOTIFIER is false"))
        else:
            _show_all(show, redis_judgment.judge(seen, settings))
        _show_all(show, clocks.judge(*_clocks(heard, seen)))
        _show_all(show, listeners.judge(heard, seen, settings))
        for answer in answers:
            _show_all(show, running.judge(await answer.get()))


def _settings(settings: Settings) -> Sequence[Finding]:
    mode = f"through Redis at {redacted(settings.redis_url)}" if settings.use_redis_notifier else "without Redis"
    database = redacted(settings.conninfo())
    text = f"{database}, {mode}, {len(settings.channels)} channels (set {settings.digest})"
    return [Finding("good", "settings", text)]


def _clocks(heard: postgres.Seen, seen: redis.Seen | None) -> tuple[list[clocks.Reading], float | None, float | None]:
    readings = [reading for reading in (heard.clock, seen.clock if seen else None) if reading is not None]
    tail = seen.tail if seen else None
    return readings, None if tail is None else (tail.term >> TERM_SHIFT) / 100, heard.now


def _show_all(show: Show, findings: Sequence[Finding]) -> None:
    for finding in findings:
        show(finding)
