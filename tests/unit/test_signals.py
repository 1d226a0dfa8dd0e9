"""SIGHUP beside the signals that wake."""

import signal
from collections.abc import Iterator

import pytest
import trio

from bridge.signals import LOOK_SECONDS, block_hangup, received


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    """The mask of this thread is left as it was. (Others do not block the signal: it is raised in this one alone.)"""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    block_hangup()
    yield
    signal.sigtimedwait({signal.SIGHUP}, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def test_signals_come_one_after_the_other() -> None:
    with received(signal.SIGUSR1, signal.SIGUSR2) as signals, trio.fail_after(30):
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR2):
            signal.raise_signal(number)
            assert await anext(signals) == number


async def test_a_hangup_of_before_is_not_forgotten_and_a_storm_is_one() -> None:
    for _ in range(1000):
        signal.raise_signal(signal.SIGHUP)
    with received(signal.SIGUSR1) as signals:
        with trio.fail_after(30):
            assert await anext(signals) == signal.SIGHUP
        with trio.move_on_after(2 * LOOK_SECONDS) as scope:
            await anext(signals)
        assert scope.cancelled_caught


async def test_a_hangup_before_and_after_harms_nothing() -> None:
    signal.raise_signal(signal.SIGHUP)
    with received(signal.SIGUSR1):
        pass
    signal.raise_signal(signal.SIGHUP)
