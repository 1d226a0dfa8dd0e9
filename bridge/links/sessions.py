"""One LISTEN session at a time, kept open: opened again after a loss, replaced before it is given up.

    no session ──open──▶ current ──its probe is overdue──▶ current is suspect, a replacement opens
         ▲                 │ ▲                                │ any byte: not suspect, the replacement is dropped
         └──── lost ───────┘ └──── the replacement hears ─────┘

A session whose probe is overdue may be dead, or PostgreSQL may be waiting (a commit that waits for a synchronous
standby delays every probe and every LISTEN of a database). So the replacement comes first, and the suspect session goes
only when the replacement has heard its own marker while the suspect one still hears nothing.
"""

import random
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.abc

from bridge import telemetry
from bridge.core.backoff import Backoff
from bridge.core.events import Heard
from bridge.core.position import Position
from bridge.errors import PostgresLost, PostgresUnusable
from bridge.links.openers import OpenSession, Session
from bridge.telemetry import Observable

TERM_SHIFT = 22
"""A term is ``(clock in units of 10 ms) * 2**22 + backend pid``: PID_MAX_LIMIT of Linux is 2**22."""

LAST_LOOK_SECONDS = 0.05
"""How long a suspect session may still show life once its replacement hears: after a stall both hear at once."""


class Sessions:
    """Runs one session after another, two at most at a time.

    `opened` is called when a session becomes the current one, `heard` with what it hears, `lost` with the reason when
    there is none any more, `learn` with two positions that are the same notification, `failed` at each failure that is
    followed by another attempt. All are synchronous and called by the task that owns the session. `pause` is awaited
    before each receive; it may raise PostgresLost to begin anew.
    """

    def __init__(
        self,
        open_session: OpenSession,
        retry_seconds: float,
        opened: Callable[[Session], None],
        heard: Callable[[Session, Sequence[Heard]], None],
        lost: Callable[[str], None],
        learn: Callable[[Position, Position], None],
        pause: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.current: Observable[Session | None] = Observable(None)
        self.error: PostgresLost | None = None
        """Why there is no session now, or why the suspect one could not be replaced."""
        self._open_session = open_session
        self._opened = opened
        self._heard = heard
        self._lost = lost
        self._learn = learn
        self._pause = pause
        self._count_failure = failed
        self._backoff = Backoff(retry_seconds)
        self._floor = 0
        self._delay_seconds = 0.0
        self._current_scope: anyio.CancelScope | None = None
        self._opening_scope: anyio.CancelScope | None = None
        self._changed = anyio.Event()

    def keep_above(self, term: int) -> None:
        """Sessions that open from now on have terms above this one, whatever PostgreSQL's clock says."""
        self._floor = max(self._floor, (term >> TERM_SHIFT) + 1)

    def begin_again(self) -> None:
        """End the current session, and open another one."""
        if self._current_scope is not None:
            self._current_scope.cancel()

    async def run(self) -> None:
        """Never returns. Cancelling closes every session."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._changed = anyio.Event()
                if self._wanted:
                    delay, self._delay_seconds = self._delay_seconds, 0.0
                    if delay:
                        await anyio.sleep(delay)
                    if self._wanted:
                        self._opening_scope = anyio.CancelScope()
                        tasks.start_soon(self._one, self._opening_scope)
                        continue
                await self._changed.wait()

    @property
    def _wanted(self) -> bool:
        """Whether a session should be opening, and none is."""
        current = self.current.value
        return self._opening_scope is None and (current is None or current.suspect)

    async def _one(self, scope: anyio.CancelScope) -> None:
        """One session from its opening to its end."""
        error: PostgresLost | None = None
        try:
            with scope:
                await self._open_and_receive(scope)
        except PostgresLost as lost:
            error = lost
        finally:
            was_current = self._current_scope is scope
            if self._opening_scope is scope:
                self._opening_scope = None
            if was_current:
                self._current_scope = None
                self.current.set(None)
        if error is not None:
            self._failed(error)
        if was_current:
            self._lost(telemetry.error_text(error) if error else "the session began again")
        self._changed.set()

    async def _open_and_receive(self, scope: anyio.CancelScope) -> None:
        async with self._open_session(floor=self._floor) as session:
            if self.current.value is not None:
                await anyio.sleep(LAST_LOOK_SECONDS)
                current = self.current.value  # it may have ended meanwhile
                if current is not None and not current.suspect:
                    return
            if self._current_scope is not None:
                self._current_scope.cancel()
            self._current_scope, self._opening_scope = scope, None
            self.error = None
            self.current.set(session)
            self._opened(session)
            while True:
                await self._pause()
                heard = await session.receive()
                self._backoff.reset()
                if heard:
                    self._heard(session, heard)
                for one, other in session.learned():
                    self._learn(one, other)
                if session.suspect:
                    telemetry.log.warning("PostgreSQL does not answer a probe: opening a second session beside it")
                    self._changed.set()
                else:
                    self._drop_replacement()

    def _drop_replacement(self) -> None:
        if self._opening_scope is not None:
            self._opening_scope.cancel()

    def _failed(self, error: PostgresLost) -> None:
        self.error = error
        self._count_failure()
        telemetry.connection_error(error, first=self._backoff.failures == 0)
        self._delay_seconds = self._backoff.next(random.random(), lasting=isinstance(error, PostgresUnusable))
        telemetry.reconnecting(self._delay_seconds)
