"""A trio program that handles every notification at least once, also across its own restarts.

    python -m bridge listen                          one listener: PostgreSQL to Redis
    python examples/trio_app.py positions/           reads the log from where it was, also after an absence

with the same environment for both:

    DATABASE_URL=postgresql://user@localhost/app  REDIS_URL=redis://localhost:6379  USE_REDIS_NOTIFIER=true

Each consumer keeps its cursor in a file: where to go on after what it has handled. It handles first, and writes the
cursor then: who is killed in between handles the same event once more after the restart, and never misses one. So
handling must be harmless when it is repeated (an upsert by the event's id, say). For exactly once, write the cursor in
the same database transaction as the effect.

What cannot be known any more, after a long absence say, or after each one without Redis, where nobody else keeps the
history, comes as a `Gap`: read the state anew from the database then.
"""

import os
import sys
from pathlib import Path

import trio

from bridge import EventFeed, Gap, Notification, open_feed


class Cursor:
    """A cursor in a file, which is replaced at once: a crash leaves the old one or the new one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str | None:
        """None at the very first start: the consumer begins with what comes next."""
        return self._path.read_text() if self._path.exists() else None

    def write(self, cursor: str) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(cursor)
        os.replace(new, self._path)


async def scoreboard(feed: EventFeed, cursor: Cursor) -> None:
    """One consumer: hears two channels, and may take its time."""
    with feed.subscribe("scoreboard_change", "match_change", after=cursor.read()) as events:
        async for event in events:
            match event:
                case Notification():
                    print(f"scoreboard: {event.channel} {event.payload}", flush=True)
                case Gap(pending=False):
                    print(f"scoreboard: something is missing ({event.reason}): reading all scores anew", flush=True)
            if events.cursor is not None:
                cursor.write(events.cursor)


async def audit(feed: EventFeed, cursor: Cursor) -> None:
    """Another one: hears everything. Neither holds up the other."""
    with feed.subscribe(after=cursor.read()) as events:
        async for event in events:
            match event:
                case Notification():
                    print(f"audit: {event.id} {event.channel}", flush=True)
                case Gap(pending=False):
                    print(f"audit: incomplete between {event.after} and {event.before}", flush=True)
            if events.cursor is not None:
                cursor.write(events.cursor)


async def main(directory: Path) -> None:
    """One feed, several consumers; Control-C ends them all."""
    async with open_feed() as feed, trio.open_nursery() as nursery:
        nursery.start_soon(scoreboard, feed, Cursor(directory / "scoreboard"))
        nursery.start_soon(audit, feed, Cursor(directory / "audit"))


if __name__ == "__main__":
    positions = Path(sys.argv[1] if len(sys.argv) > 1 else "positions")
    positions.mkdir(parents=True, exist_ok=True)
    exit_code = 0
    try:
        trio.run(main, positions)
    except* KeyboardInterrupt:
        exit_code = 130  # what is raised here, as by sys.exit, would become part of a group
    sys.exit(exit_code)
