"""How long to wait before the next attempt.

Exponential with equal jitter: half of the delay is fixed, half is drawn, so that a fleet that lost the same server does
not come back in step, and nobody comes back at once (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog,
2015). The caller draws the jitter, so that tests and simulations repeat.
"""

FIRST_SECONDS = 0.1


class Backoff:
    """Delays for one row of failures. Throw it away, or `reset` it, after a spell of health."""

    def __init__(self, longest_seconds: float, first_seconds: float = FIRST_SECONDS) -> None:
        self._longest_seconds = longest_seconds
        self._first_seconds = min(first_seconds, longest_seconds)
        self.failures = 0
        """Delays given since the last reset."""

    def next(self, jitter: float, *, lasting: bool = False) -> float:
        """The next delay in seconds, for a `jitter` in [0, 1): it doubles up to the longest.

        It is the longest at once where the failure is `lasting`: one that somebody has to mend.
        """
        doublings = 64 if lasting else min(self.failures, 64)  # 2**64 first delays are longer than any longest one
        self.failures += 1
        delay = min(self._longest_seconds, self._first_seconds * 2.0**doublings)
        return delay * (1 + jitter) / 2

    def reset(self) -> None:
        """Start afresh."""
        self.failures = 0
