"""Who asks at the same time gets the same answer, and never an older one."""

import trio

from bridge.pod.together import Together


class Slow:
    """Answers with the time at which it was asked, a second later."""

    def __init__(self) -> None:
        self.made = 0

    async def __call__(self) -> float:
        asked = trio.current_time()
        self.made += 1
        await trio.sleep(1)
        return asked


async def test_a_crowd_costs_no_more_than_two(autojump_clock: trio.testing.MockClock) -> None:
    slow = Slow()
    together = Together(slow)

    async def ask(delay: float) -> None:
        await trio.sleep(delay)
        asked = trio.current_time()
        assert await together.get() >= asked

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(ask, number * 0.009)
    assert slow.made == 2


async def test_who_gives_up_harms_nobody(autojump_clock: trio.testing.MockClock) -> None:
    slow = Slow()
    together = Together(slow)
    found: list[float] = []

    async def ask() -> None:
        found.append(await together.get())

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            nursery.start_soon(ask)
            await together.get()
    assert len(found) == 1
    assert await together.get() > found[0]
