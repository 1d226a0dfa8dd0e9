"""When a client that is sent away should come back: each at its own time, so that they do not come back together."""

import random

RETRY_SECONDS = 5


def retry_seconds() -> int:
    """Whole seconds from 1 to `RETRY_SECONDS`, at random."""
    return random.randint(1, RETRY_SECONDS)
