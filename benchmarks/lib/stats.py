"""A few numbers of many."""

import dataclasses
import math
from collections.abc import Iterable, Sequence


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest of these (ascending) that at least `part` of them do not exceed. ValueError where there are none."""
    if not values:
        raise ValueError("no values")
    return values[max(0, math.ceil(part * len(values)) - 1)]


def median(values: Iterable[float]) -> float:
    """The middle one, or the mean of the middle two."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds."""

    count: int
    median: float
    p99: float
    p999: float
    most: float

    @classmethod
    def of_ns(cls, nanoseconds: Iterable[int]) -> "Latency":
        ordered = sorted(value / 1e6 for value in nanoseconds)
        return cls(
            len(ordered),
            quantile(ordered, 0.5),
            quantile(ordered, 0.99),
            quantile(ordered, 0.999),
            quantile(ordered, 1),
        )
