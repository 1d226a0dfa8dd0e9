"""A token bucket: how fast somebody may go on, after a burst. Pure: the time is an argument."""


class Bucket:
    """Fills with `per_second` tokens a second up to `burst`; full at first. `now` is in seconds and never goes back."""

    __slots__ = ("_at", "_burst", "_level", "_per_second")

    def __init__(self, per_second: float, burst: float, now: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._level = burst
        self._at = now

    def full(self, now: float) -> bool:
        """Whether nothing has been asked for lately."""
        self._fill(now)
        return self._level >= self._burst

    def take(self, now: float) -> bool:
        """Take one token, if there is a whole one."""
        self._fill(now)
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def spend(self, now: float, amount: float) -> float:
        """Take so many tokens in any case; the seconds to wait until the bucket is out of debt, 0 if there is none."""
        self._fill(now)
        self._level -= amount
        return max(0.0, -self._level / self._per_second)

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + (now - self._at) * self._per_second)
        self._at = now
