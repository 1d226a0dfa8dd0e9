"""Whose cancellation it is: on asyncio, awaiting a task that somebody has cancelled looks like being cancelled."""

import asyncio
import math

import anyio


def cancellations() -> int:
    """How often the present task has been cancelled, on asyncio; 0 elsewhere.

    It stays above 0 in a task that has once taken a cancellation for itself, and went on.
    """
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        return 0
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def is_of_another_task(error: BaseException, earlier: int = 0) -> bool:
    """Whether this is the cancellation of something that the present task has awaited: nobody has cancelled itself.

    `earlier` are its own `cancellations` that do not count any more.
    """
    if not isinstance(error, asyncio.CancelledError) or anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        return False
    return asyncio.current_task() is not None and cancellations() <= earlier


def cancel_again(earlier: int) -> None:
    """Have the present task's next wait cancelled: its cancellation was taken, for an error that is raised instead.

    Nothing where it was not cancelled since the `earlier` ones, or by a scope, which cancels each wait by itself.
    """
    if cancellations() <= earlier or anyio.current_effective_deadline() == -math.inf:
        return
    if (task := asyncio.current_task()) is not None:
        # Not yet: the error may leave the block of an asyncio.timeout, whose cancellation is over then.
        asyncio.get_running_loop().call_soon(_cancel_again, task, earlier)


def _cancel_again(task: asyncio.Task[object], earlier: int) -> None:
    if task.cancelling() > earlier:
        task.uncancel()  # it stays one cancellation
        task.cancel()
