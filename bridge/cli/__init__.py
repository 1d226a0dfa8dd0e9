"""The commands. This file only takes care of signals before anything else is imported, which takes a while."""

import sys
from typing import NoReturn

from bridge.cli.signals import exit_on_signals


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    exit_on_signals()
    from bridge.cli.app import run

    sys.exit(run(sys.argv[1:]))
