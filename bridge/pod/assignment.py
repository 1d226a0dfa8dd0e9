"""What a child is told when it is started, through its standard input."""

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bridge.settings import Settings


@dataclass(frozen=True)
class Assignment:
    """One child's work, and the descriptors that it inherits. `row` is a worker's in the table, counted from 0."""

    role: Literal["listener", "worker"]
    name: str
    settings: Settings
    control: int
    table: int
    rows: int
    row: int
    listeners: tuple[int, ...]
    with_listener: bool
    embedded: bool
    pod_socket: Path | None
    nonce: str
    """Of the listener, in all its lives."""

    def to_bytes(self) -> bytes:
        return pickle.dumps(self)

    @staticmethod
    def from_stdin() -> "Assignment":
        """Of this process; only a supervisor writes there."""
        assignment = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by the process that started this one
        if not isinstance(assignment, Assignment):
            raise TypeError(f"an assignment is expected, not {type(assignment).__name__}")
        return assignment
