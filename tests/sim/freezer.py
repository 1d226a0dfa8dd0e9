"""Processes that can be paused: whatever of theirs the event loop would run next is parked instead.

As with SIGSTOP, timers go on and bytes arrive, and nobody looks before the process is resumed.
"""

import contextvars
from collections.abc import Callable

current_process: contextvars.ContextVar["Freezer | None"] = contextvars.ContextVar("process", default=None)
"""To be set in the first task of a process; what that starts inherits it."""


class Freezer:
    """Nothing of one process goes on between `pause` and `resume`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self._parked: list[Callable[[], None]] = []

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        parked, self._parked = self._parked, []
        for give_back in parked:
            give_back()

    def park(self, give_back: Callable[[], None]) -> None:
        """Something was to run: `give_back` makes the event loop run it after all."""
        self._parked.append(give_back)
