"""A child whose start fails, or is not wanted any more before it has come to an end."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
import trio
import trio.testing

from bridge.pod import charge as charge_module
from bridge.pod import snapshot
from bridge.pod.charge import Charge, NotStartedError, _hand_over
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


class Input(trio.abc.SendStream):
    """A child's standard input, which knows when something came."""

    def __init__(self) -> None:
        self.came_at: float | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.came_at = trio.current_time() if data else None

    async def wait_send_all_might_not_block(self) -> None: ...
    async def aclose(self) -> None: ...


@pytest.mark.parametrize(("after_seconds", "at_seconds"), [(0, 0), (20, 20), (10_000, 30)])
async def test_a_worker_waits_for_its_listener_as_long_as_a_busy_machine_takes(
    after_seconds: float, at_seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    """One that begins before finds nobody, and logs an error with its stack."""
    began, process = trio.Event(), SimpleNamespace(stdin=Input())

    async def begin() -> None:
        await trio.sleep(after_seconds)
        began.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(begin)
        await _hand_over(cast("trio.Process", process), b"assignment", began)
        nursery.cancel_scope.cancel()
    assert process.stdin.came_at == at_seconds


async def test_what_was_told_last_of_its_work_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a snapshot of before comes in the same breath: the workers were told, and are not told again."""
    ends: list[socket.socket] = []

    async def start(_: str, descriptors: Sequence[int]) -> trio.Process:
        ends.append(socket.socket(fileno=os.dup(descriptors[0])))
        return await trio.lowlevel.open_process([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def frame(kind: Kind, number: int, body: bytes) -> bytes:
        message = msgspec.msgpack.encode((kind, number, body))
        return len(message).to_bytes(4) + message

    monkeypatch.setattr(charge_module, "_start", start)
    told, worked, failed = [], trio.Event(), trio.Event()

    def hear(charge: Charge, kind: Kind, _: bytes) -> None:
        told.append((kind, charge.works))
        if kind == "works":
            (worked if charge.works else failed).set()

    charge = Charge(assignment(), [], hear, no_answer)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(charge.live, trio.Event())
            await started(ends)
            with ends[0] as end:
                end.sendall(frame("ready", 0, b"") + frame("works", 0, b"1"))
                await worked.wait()
                nursery.start_soon(charge.look, 30)
                await trio.to_thread.run_sync(end.recv, 1000)
                body = snapshot.encode(snapshot.Snapshot({}, []))
                end.sendall(frame("snapshot", -1, body) + frame("works", 0, b""))
                await failed.wait()
                await trio.testing.wait_all_tasks_blocked()
            assert (charge.snapshot is not None, charge.works) == (True, False)
            nursery.cancel_scope.cancel()
    assert told == [("ready", False), ("works", True), ("works", False)]


async def started(ends: list[socket.socket]) -> None:
    while not ends:  # noqa: ASYNC110 - a process tells nobody that it was started
        await trio.sleep(0.01)
