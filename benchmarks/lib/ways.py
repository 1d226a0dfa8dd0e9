"""The ways to run a bridge that benchmarks compare."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Way:
    """`workers`: None for everything in one process."""

    name: str
    mode: Literal["redis", "direct"]
    workers: int | None = None


WAYS = {
    "redis": Way("through Redis, one process", "redis"),
    "redis-1": Way("through Redis, --workers 1", "redis", 1),
    "redis-2": Way("through Redis, --workers 2", "redis", 2),
    "direct": Way("direct, one process", "direct"),
    "direct-1": Way("direct, --workers 1", "direct", 1),
    "direct-2": Way("direct, --workers 2", "direct", 2),
}
