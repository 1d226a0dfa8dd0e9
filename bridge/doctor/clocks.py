"""The clocks of PostgreSQL, Redis and this machine against each other.

What they are for: a position's term begins with PostgreSQL's time, tokens expire by the clock of the process that
serves, and logs of several machines are read side by side. Redis orders nothing by its clock. A term never goes back
(a session stays above every term it knows), so clocks that disagree lose nothing; but they are a fault to be mended.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bridge.doctor.report import Finding, Level, milliseconds

WARNING_SECONDS = 2.0
BAD_SECONDS = 60.0
"""Tokens live for minutes: a server so far off refuses good ones, or lets expired ones in."""
AHEAD_SECONDS = 60.0

_REMEDY = (
    "set the clocks by NTP (chrony, systemd-timesyncd); tokens expire by this one, positions begin with PostgreSQL's"
)


class Reading(NamedTuple):
    """How far a clock is ahead of this machine's, give or take `uncertain_seconds`; negative where it is behind."""

    name: str
    ahead_seconds: float
    uncertain_seconds: float


def read(name: str, said: float, before: float, after: float) -> Reading:
    """The reading of a clock that said so between `before` and `after` of this machine's; all in seconds since 1970."""
    return Reading(name, said - (before + after) / 2, abs(after - before) / 2)


def judge(readings: Sequence[Reading], log_began: float | None, postgres_now: float | None) -> list[Finding]:
    """What the readings say. `log_began` is the time in the term of the log's tail, in seconds since 1970."""
    findings = []
    if readings:
        this = Reading("this machine", 0.0, 0.0)
        one, other = _furthest([this, *readings])
        apart = max(0.0, one.ahead_seconds - other.ahead_seconds - one.uncertain_seconds - other.uncertain_seconds)
        names = _names(reading.name for reading in [*readings, this])
        if apart < WARNING_SECONDS:
            within = one.ahead_seconds - other.ahead_seconds + one.uncertain_seconds + other.uncertain_seconds
            findings.append(Finding("good", "clocks", f"{names} agree within {milliseconds(within)}"))
        else:
            level: Level = "bad" if apart >= BAD_SECONDS else "warning"
            text = f"the clock of {one.name} is {milliseconds(apart)} ahead of that of {other.name}"
            findings.append(Finding(level, "clocks", text, _REMEDY))
    if log_began is not None and postgres_now is not None and log_began - postgres_now > AHEAD_SECONDS:
        ahead = milliseconds(log_began - postgres_now)
        text = (
            f"the log began {ahead} in the future by PostgreSQL's clock: the clock was set back, or a failover did it"
        )
        findings.append(Finding("warning", "clocks", f"{text}; positions go on above it", _REMEDY))
    return findings


def _furthest(readings: Sequence[Reading]) -> tuple[Reading, Reading]:
    """The two whose difference is largest even if both err as much as they can, the one that is ahead first."""
    return max(
        ((one, other) for one in readings for other in readings if one is not other),
        key=lambda pair: (
            pair[0].ahead_seconds - pair[1].ahead_seconds - pair[0].uncertain_seconds - pair[1].uncertain_seconds
        ),
    )


def _names(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}"
