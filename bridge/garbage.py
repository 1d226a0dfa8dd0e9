"""When Python looks for garbage in a process that serves clients."""

import gc

THRESHOLDS = (50_000, 20, 10)
"""Objects that may be garbage before Python looks: some megabytes at most."""


def collect_garbage_rarely() -> None:
    """Clients live long, and hardly anything here is garbage in cycles.

    With Python's own thresholds a crowd that connects makes it look through everything again and again, which takes a
    third of the time of a handshake.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
