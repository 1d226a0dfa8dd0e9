"""Values that can be awaited."""

import trio
import trio.testing

from bridge.telemetry import Observable


async def test_a_value_that_is_there_needs_no_waiting() -> None:
    assert await Observable(3).wait_for(lambda value: value > 2) == 3


async def test_no_value_is_missed_however_briefly_it_was_set() -> None:
    state = Observable("down")
    seen: list[str] = []

    async def wait(wanted: str) -> None:
        seen.append(await state.wait_for(lambda value: value == wanted))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "up")
        nursery.start_soon(wait, "gone")
        await trio.testing.wait_all_tasks_blocked()
        state.set("up")
        state.set("down")
        state.set("gone")
    assert sorted(seen) == ["gone", "up"]
    assert state.value == "gone"


async def test_a_wait_that_is_cancelled_leaves_nothing() -> None:
    state = Observable(0)
    calls: list[int] = []

    def never(value: int) -> bool:
        calls.append(value)
        return False

    with trio.move_on_after(0.01):
        await state.wait_for(never)
    state.set(1)
    assert calls == [0]
