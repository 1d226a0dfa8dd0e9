"""The event loops that the library runs on. pytest-trio runs `async def` tests on trio; this runs them on any."""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, Literal, TypeVar, TypeVarTuple, Unpack

import anyio
import pytest

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


def on_loops(*loops: Loop) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Makes of an `async def` test one for each of these event loops."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        @wraps(test)
        def run(loop: Loop, **fixtures: Any) -> None:
            run_on(loop, partial(test, **fixtures))

        signature = inspect.signature(test)
        on = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
        run.__dict__["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), on])
        del run.__dict__["__wrapped__"]  # pytest-trio would take that for the test
        parametrized: Callable[..., None] = pytest.mark.parametrize("loop", loops)(run)
        return parametrized

    return decorate
