"""Tasks that run beside the body of a block and end with it, whoever owns the task that runs the body."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVarTuple, Unpack

import anyio
import anyio.abc

from bridge.cancellation import cancel_again, cancellations

Arguments = TypeVarTuple("Arguments")


class BackgroundTasks:
    """What runs beside the body. Made by `background`."""

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group
        self._scopes: set[anyio.CancelScope] = set()
        self._cancelled = False

    def start_soon(self, function: Callable[[Unpack[Arguments]], Awaitable[object]], *arguments: *Arguments) -> None:
        """Run this until it returns, or the body has ended: then it is cancelled. What it raises ends the body too."""
        self._group.start_soon(self._run, function, arguments)

    def cancel(self) -> None:
        """Cancel all of them, those too that are started later."""
        self._cancelled = True
        for scope in self._scopes:
            scope.cancel()

    async def _run(
        self, function: Callable[[Unpack[Arguments]], Awaitable[object]], arguments: tuple[*Arguments]
    ) -> None:
        # A scope of its own, shielded from the group's: on asyncio, anyio (4.16) adds the cancellations that it counted
        # for a scope to the scope around it where both are cancelled, also where that is another task's, and then takes
        # back as many from that task: asyncio's own cancellation of whoever runs the body would be taken back too.
        with anyio.CancelScope(shield=True) as scope:
            self._scopes.add(scope)
            if self._cancelled:
                scope.cancel()
            try:
                await function(*arguments)
            finally:
                self._scopes.discard(scope)


@asynccontextmanager
async def background() -> AsyncIterator[BackgroundTasks]:
    """Tasks that are cancelled, and waited for, when the body ends.

    What the body raises is raised as it is, not in a group, and wins over a cancellation that comes while the tasks
    end: the next wait has that. What a task raises cancels the body and is raised in an exception group.
    """
    failure: BaseException | None = None
    earlier = 0
    try:
        async with anyio.create_task_group() as group:
            tasks = BackgroundTasks(group)
            try:
                yield tasks
            except BaseException as error:
                if _is_cancelled(error):
                    raise
                failure, earlier = error, cancellations()  # outside of the group, which would wrap it
            finally:
                tasks.cancel()
    except anyio.get_cancelled_exc_class():
        if failure is None or isinstance(failure, GeneratorExit):  # whoever closes a generator swallows that
            raise
        cancel_again(earlier)
    if failure is not None:
        raise failure


def _is_cancelled(error: BaseException) -> bool:
    """Whether a cancellation is in it, for the scope that is meant."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(cancelled) is not None
    return isinstance(error, cancelled)
