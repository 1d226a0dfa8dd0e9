"""TCP ports for servers that end and start again on the same one while everything else is tested beside them.

They lie below those that the kernel gives to whoever asks for any: nobody is given one while its server is away, or
before it has begun; and no client that knocks there gets the same port for its own end, and so reaches itself.
"""

import os
import random
import socket
from collections import deque

LOWEST, ABOVE_HIGHEST = 11_000, 22_000
"""The bus of a Redis cluster uses the port 10,000 higher, and is to be below the kernel's too."""
WORKERS = 16

_given: deque[int] = deque(maxlen=(ABOVE_HIGHEST - LOWEST) // WORKERS // 2)
_choice = random.SystemRandom()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, and that this process was not given lately."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    while True:
        port = _choice.randrange(LOWEST + worker, ABOVE_HIGHEST, WORKERS)
        if port not in _given and _is_free(port):
            _given.append(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
