"""What processes have used: processor time and memory."""

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.lib.failure import BenchmarkFailed

_CPUCLOCK_SCHED = 2
"""Every process has a clock of what its threads have used: clock_getcpuclockid(3), in nanoseconds."""
_OWN_PAGES = ("Pss_Anon:", "Pss_Shmem:")
"""Of /proc/PID/smaps_rollup: proc(5)."""


def tree(pid: int) -> list[int]:
    """This process and all below it."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def processor_seconds(pids: Iterable[int]) -> float:
    """What all threads of these processes have used so far; children and a process that is gone count nothing."""
    seconds = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            seconds += time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    return seconds


def memory_bytes(pids: Iterable[int]) -> int:
    """Memory that these processes hold, shared pages divided by those who share (PSS), without the kernel's.

    Pages of files do not count: how they are divided changes with whatever else starts or ends on the machine. Raises
    BenchmarkFailed where one of the processes has ended.
    """
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            raise BenchmarkFailed(f"a process of the server ended ({pid})") from None
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(_OWN_PAGES))
    return total
