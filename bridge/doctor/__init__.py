"""`doctor`: looks at servers, clocks, listeners and a running bridge, and says what is wrong and what to do.

    look at PostgreSQL ─┬─ judge it ──────────────────────────┐
    look at Redis ──────┼─ judge it ──────────────────────────┤
                        └─ judge the clocks, the listeners ───┼─ findings, shown in a fixed order
    ask running bridges ── judge them ────────────────────────┘

Each subject has one file, and in it two halves: one that observes and never judges, bounded in time, and pure functions
from what was seen to findings. Nothing is changed on the servers.
"""

from bridge.doctor.examine import Examination, examine
from bridge.doctor.report import Finding, Level

__all__ = ["Examination", "Finding", "Level", "examine"]
