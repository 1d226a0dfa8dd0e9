"""A child whose start fails, or is not wanted any more before it has come to an end."""

import errno
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
import trio

from bridge.pod import charge as charge_module
from bridge.pod.charge import Charge, NotStartedError
from bridge.pod.control import Kind
from tests.support.pod import assignment


async def no_answer(_: Kind) -> bytes:
    return b""


def new_charge() -> Charge:
    return Charge(assignment(), [], lambda _, __, ___: None, no_answer)


async def test_a_child_that_cannot_be_started_says_so_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(_: str, __: Sequence[int]) -> trio.Process:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(charge_module, "_start", start)
    charge, before = new_charge(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotStartedError, match="cannot start worker 1: Cannot allocate memory"):
        await charge.live(trio.Event())
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_child_that_is_killed_while_it_is_started_does_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    charge, began = new_charge(), trio.Event()
    begun = trio.Event()

    async def start(_: str, __: Sequence[int]) -> trio.Process:
        began.set()
        await begun.wait()
        return await trio.lowlevel.open_process([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    monkeypatch.setattr(charge_module, "_start", start)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def live() -> None:
                ended = await charge.live(trio.Event())
                assert str(ended) == "was ended by SIGKILL"

            nursery.start_soon(live)
            await began.wait()
            charge.kill()
            begun.set()
