"""What ends a benchmark: one line that says what is wrong and what to do."""

import sys
from collections.abc import Callable
from typing import NoReturn


class BenchmarkFailed(Exception):
    """A benchmark cannot go on; the text is one line for people."""


def run(main: Callable[[], None]) -> NoReturn:
    """Run a benchmark's `main`; a failure of ours becomes one line and exit code 1."""
    try:
        main()
    except BenchmarkFailed as failure:
        print(f"Error: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(0)
    sys.exit(0)
