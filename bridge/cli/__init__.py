"""The commands. This file only answers signals before anything else is imported, which takes a while.

Until a command installs its own handling, SIGTERM does what SIGINT does: KeyboardInterrupt, which trio delivers safely
and which ends every command with code 0.
"""

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        from bridge.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 0
    sys.exit(code)
