"""SIGTERM and SIGINT end every command with code 0, whenever they come.

Outside trio they raise SystemExit. Inside they are KeyboardInterrupt, which trio delivers safely, until a service
handles them itself. (KeyboardInterrupt everywhere would not do: Python remembers one that passed through an `exec`, as
in the import of a named tuple, and kills itself with SIGINT at the end although it was caught.)
"""

import signal
from collections.abc import Awaitable, Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_on_signals() -> None:
    """From here on both signals raise SystemExit(0)."""
    for number in SIGNALS:
        signal.signal(number, _exit)


def run_trio(main: Callable[[], Awaitable[object]]) -> None:
    """Run `main` under trio; what interrupts it raises KeyboardInterrupt out of here."""
    import trio

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        trio.run(main)
    finally:
        exit_on_signals()


def _exit(*_: object) -> None:
    raise SystemExit(0)
