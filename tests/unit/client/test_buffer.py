"""Between the task that reads and the one that takes: in order, bounded, and a cursor that says what was taken."""

import anyio
import pytest

from bridge.client.buffer import OVERHEAD_BYTES, TURN, Buffer, Closed
from tests.support.loops import LOOPS, Loop, run_on

on_all_loops = pytest.mark.parametrize("loop", LOOPS)


@on_all_loops
def test_the_cursor_moves_with_what_is_taken(loop: Loop) -> None:
    async def main() -> None:
        buffer = Buffer[str](10_000, "c0")
        buffer.put("a", 1, "c1")
        buffer.put("b", 1, None)
        assert (buffer.cursor, buffer.received) == ("c0", "c1")
        assert await buffer.take() == "a"
        assert buffer.cursor == "c1"
        buffer.move("c2")
        assert (buffer.cursor, buffer.received) == ("c1", "c2")
        assert await buffer.take() == "b"
        assert buffer.cursor == "c2"
        buffer.move("c3")
        assert (buffer.cursor, buffer.received) == ("c3", "c3")

    run_on(loop, main)


@on_all_loops
def test_who_takes_waits_and_cancelling_takes_nothing(loop: Loop) -> None:
    async def main() -> None:
        buffer = Buffer[int](10_000, None)
        with anyio.move_on_after(0.01) as scope:
            await buffer.take()
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tasks:
            got: list[int] = []

            async def take() -> None:
                got.append(await buffer.take())

            tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            buffer.put(1, 1, "c1")
            tasks.cancel_scope.cancel()  # before the taker has had its turn
        assert buffer.cursor == ("c1" if got else None)
        if not got:
            assert await buffer.take() == 1
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            buffer.put(2, 1, "c2")
            await buffer.take()
        assert await buffer.take() == 2

    run_on(loop, main)


@on_all_loops
def test_only_one_may_take(loop: Loop) -> None:
    async def main() -> None:
        buffer = Buffer[int](10_000, None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(buffer.take)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError, match="open one client for each task"):
                await buffer.take()
            buffer.put(1, 1, None)
        buffer.put(2, 1, None)
        assert await buffer.take() == 2

    run_on(loop, main)


@on_all_loops
def test_an_error_comes_after_what_is_here_and_stays(loop: Loop) -> None:
    async def main() -> None:
        buffer = Buffer[int](10_000, None)
        buffer.put(1, 1, None)
        buffer.end(ValueError("first"))
        buffer.end(ValueError("second"))
        buffer.put(2, 1, None)
        assert await buffer.take() == 1
        for _ in range(2):
            with pytest.raises(ValueError, match="first"):
                await buffer.take()

    run_on(loop, main)


@on_all_loops
@pytest.mark.parametrize("ending", ["end", "close"])
def test_who_waits_hears_of_the_end(loop: Loop, ending: str) -> None:
    async def main() -> None:
        buffer = Buffer[int](10_000, None)
        async with anyio.create_task_group() as tasks:

            async def take() -> None:
                expected = ValueError if ending == "end" else Closed
                with pytest.raises(expected):
                    await buffer.take()

            tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            if ending == "end":
                buffer.end(ValueError())
            else:
                buffer.close()

    run_on(loop, main)


@on_all_loops
def test_what_is_left_when_it_is_closed_is_not_taken_any_more(loop: Loop) -> None:
    async def main() -> None:
        buffer = Buffer[int](10_000, None)
        buffer.put(1, 1, "c1")
        buffer.close()
        with pytest.raises(Closed):
            await buffer.take()
        assert buffer.cursor is None

    run_on(loop, main)


@on_all_loops
def test_there_is_room_when_less_is_held_than_the_limit(loop: Loop) -> None:
    async def main() -> None:
        buffer = Buffer[int](3 * (OVERHEAD_BYTES + 10), None)
        async with anyio.create_task_group() as tasks:
            await buffer.wait_for_room()
            for number in range(4):
                assert buffer.is_full == (number >= 3)
                buffer.put(number, 10, None)
            found: list[int] = []

            async def wait() -> None:
                await buffer.wait_for_room()
                found.append(len(found))

            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await buffer.take()
            await anyio.wait_all_tasks_blocked()
            assert found == []
            await buffer.take()
            await anyio.wait_all_tasks_blocked()
            assert found == [0]

    run_on(loop, main)


@on_all_loops
def test_others_get_a_turn_while_much_is_taken(loop: Loop) -> None:
    async def main() -> None:
        buffer = Buffer[int](10**9, None)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            for number in range(10 * TURN):
                buffer.put(number, 1, None)
            assert [await buffer.take() for _ in range(10 * TURN)] == list(range(10 * TURN))
            tasks.cancel_scope.cancel()
        assert turns >= 9

    run_on(loop, main)
