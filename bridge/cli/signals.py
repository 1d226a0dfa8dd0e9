"""SIGTERM and SIGINT end every command with code 0, whenever they come.

Outside trio they raise SystemExit. Not everything passes that on: Python ignores it in a finalizer or the callback of a
weak reference. So it is remembered, and raised again when everything is loaded. Inside they are
KeyboardInterrupt, which trio delivers safely, until a service handles them itself. (KeyboardInterrupt everywhere would
not do: Python remembers one that passed through an `exec`, as in the import of a named tuple, and kills itself with
SIGINT at the end although it was caught.)
"""

import signal
import sys
from collections.abc import Awaitable, Callable
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_on_signals() -> None:
    """From here on both signals raise SystemExit(0)."""
    sys.unraisablehook = _say_unless_it_ends
    for number in SIGNALS:
        signal.signal(number, _EXIT)


def run_trio(main: Callable[[], Awaitable[object]]) -> None:
    """Run `main` under trio; what interrupts it raises KeyboardInterrupt out of here.

    Raises SystemExit(0) where a signal came before, and was ignored.
    """
    import trio

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        if _EXIT.asked:
            raise SystemExit(0)
        trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)  # elsewhere it might be ignored too
    finally:
        exit_on_signals()


class _Exit:
    """The handler, which remembers that it was called."""

    asked = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        raise SystemExit(0)


_EXIT = _Exit()


def _say_unless_it_ends(ignored: "sys.UnraisableHookArgs") -> None:
    if not isinstance(ignored.exc_value, SystemExit):
        sys.__unraisablehook__(ignored)
