"""One turn of one system: clients connect, a burst, messages one by one, and they go."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from benchmarks.lib.failure import BenchmarkFailed
from benchmarks.lib.processes import processor_seconds
from benchmarks.lib.receiver import Receiver
from benchmarks.lib.system import Running

CONNECT_SECONDS = 60.0
ARRIVE_SECONDS = 60.0
QUIET_SECONDS = 10.0
ONE_BY_ONE_MESSAGES = 500


@dataclass(frozen=True)
class Rate:
    """Messages that were published, to so many clients each."""

    messages: int
    deliveries: int
    seconds: float
    """From before the first was published until the last client had the last one."""
    sending_seconds: float
    """From the first byte that came to the last; one by one, the sum over all messages."""
    processor_seconds: float

    @property
    def per_second(self) -> float:
        return self.deliveries / self.seconds

    @property
    def sending_per_second(self) -> float | None:
        """None where a single client gets single messages: they come in one moment."""
        return self.deliveries / self.sending_seconds if self.deliveries > self.messages else None

    @property
    def processor_seconds_per_million(self) -> float:
        return self.processor_seconds / self.deliveries * 1e6


@dataclass(frozen=True)
class Turn:
    """What one turn has shown."""

    burst: Rate
    one_by_one: Rate


def burst(running: Running, receiver: Receiver, clients: int, messages: int) -> Rate:
    """So many messages, as fast as the source takes them."""
    pids = running.pids()
    receiver.expect(messages)
    used, begun = processor_seconds(pids), time.monotonic_ns()
    running.burst(messages)
    arrival = receiver.wait(ARRIVE_SECONDS)
    return Rate(
        messages,
        messages * clients,
        (arrival.last_ns - begun) / 1e9,
        arrival.seconds,
        processor_seconds(pids) - used,
    )


def one_by_one(running: Running, receiver: Receiver, clients: int, seconds: float) -> Rate:
    """Each message is published when everybody has the one before, for so long."""
    pids = running.pids()
    used, begun = processor_seconds(pids), time.monotonic_ns()
    messages, sending, last = 0, 0.0, begun
    while messages < 1 or (last - begun < seconds * 1e9 and messages < ONE_BY_ONE_MESSAGES):
        receiver.expect(1)
        running.one(messages)
        arrival = receiver.wait(ARRIVE_SECONDS)
        messages, sending, last = messages + 1, sending + arrival.seconds, arrival.last_ns
    return Rate(messages, messages * clients, (last - begun) / 1e9, sending, processor_seconds(pids) - used)


def fitting(running: Running, receiver: Receiver, clients: int, most: int, seconds: float) -> int:
    """Messages for a burst of about so many seconds, `most` at most. Warms everything up on the way."""
    messages = max(1, most // 1000)
    while (rate := burst(running, receiver, clients, messages)).seconds < seconds and messages < most:
        messages = min(most, messages * 10)
    return max(1, min(most, int(messages * seconds / rate.seconds)))


def take_turn(running: Running, clients: int, messages: int | Callable[[Receiver], int], seconds: float) -> Turn:
    """Connect, measure, disconnect. `messages`: of the burst, or how to find out."""
    with Receiver(running.port, running.form) as receiver:
        running.before_connect(clients)
        receiver.connect(clients, seconds=CONNECT_SECONDS)
        running.after_connect()
        try:
            count = messages if isinstance(messages, int) else messages(receiver)
            rate = burst(running, receiver, clients, count)
            single = one_by_one(running, receiver, clients, seconds)
        finally:
            with contextlib.suppress(BenchmarkFailed):
                receiver.disconnect()
                running.after_disconnect()
    wait_until_quiet(running)
    return Turn(rate, single)


class HasProcesses(Protocol):
    """What runs."""

    def pids(self) -> list[int]:
        """Its processes."""


def wait_until_quiet(running: HasProcesses) -> None:
    """Return when its processes have nothing more to do, or after QUIET_SECONDS."""
    deadline = time.monotonic() + QUIET_SECONDS
    used = -1.0
    while time.monotonic() < deadline and (now := processor_seconds(running.pids())) - used > 0.01:
        used = now
        time.sleep(0.1)
