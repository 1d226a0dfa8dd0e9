"""The event loops that the library runs on. pytest-trio runs `async def` tests on trio; this runs them on any."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar, TypeVarTuple, Unpack

import anyio

Loop = Literal["asyncio", "uvloop", "trio"]
LOOPS: tuple[Loop, ...] = ("asyncio", "uvloop", "trio")

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


def run_on(
    loop: Loop, main: Callable[[Unpack[Arguments]], Awaitable[T]], *arguments: *Arguments, seconds: float = 60.0
) -> T:
    """What this function returns, run on an event loop of its own. Raises TimeoutError after so many seconds."""

    async def limited() -> T:
        with anyio.fail_after(seconds):
            return await main(*arguments)

    options: dict[str, Any] = {"use_uvloop": True} if loop == "uvloop" else {}
    return anyio.run(limited, backend="trio" if loop == "trio" else "asyncio", backend_options=options)
