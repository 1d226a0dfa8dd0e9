"""What a bridge writes to its log, with times, and the lines that are promised for a switch."""

import re
from dataclasses import dataclass
from datetime import datetime

from tests.support.process import BridgeProcess, wait_until

LOST = "WARNING Redis connection failed: "
TO_DIRECT = "INFO Switching to PostgreSQL direct LISTEN fallback mode"
IN_DIRECT = "INFO Fallback to PostgreSQL direct LISTEN successful - realtime features recovered"
TO_REDIS = "INFO Redis connectivity restored, switching back to Redis mode"
IN_REDIS = "INFO Switch back to Redis mode successful"
SWITCH = (LOST, TO_DIRECT, IN_DIRECT, TO_REDIS, IN_REDIS)


@dataclass(frozen=True)
class Logged:
    """One line of a bridge's log: `text` is its level, a space, and the message."""

    at: float
    text: str


def logged(running: BridgeProcess, since: float = 0.0) -> list[Logged]:
    """The log lines from this time on; the lines of stack traces are left out."""
    found = re.findall(r"^(\S+T\S+Z) (\w+) +(.*)$", running.log(), re.MULTILINE)
    lines = [Logged(datetime.fromisoformat(at).timestamp(), f"{level} {message}") for at, level, message in found]
    return [line for line in lines if line.at >= since - 0.001]


def time_of(running: BridgeProcess, text: str, since: float, seconds: float = 60.0) -> float:
    """When the bridge logged a line that begins with this text; waits for it."""
    times: list[float] = []

    def found() -> bool:
        times[:] = [line.at for line in logged(running, since) if line.text.startswith(text)]
        return bool(times)

    wait_until(
        found, lambda: f"no {text!r} within {seconds:g} s; the log since the fault:\n{tail(running, since)}", seconds
    )
    return times[0]


def tail(running: BridgeProcess, since: float) -> str:
    return "\n".join(f"{line.at - since:+8.3f} {line.text}" for line in logged(running, since))


def expect_in_order(running: BridgeProcess, since: float, *texts: str) -> None:
    """Lines that begin with these texts stand in the log in this order, and none of them twice."""
    lines = [line.text for line in logged(running, since)]
    seen = [next(text for text in texts if line.startswith(text)) for line in lines if line.startswith(texts)]
    assert seen == list(texts), f"expected {list(texts)} in the log, there is:\n{tail(running, since)}"
