"""Whose cancellation it is: on asyncio, awaiting a task that somebody has cancelled looks like being cancelled."""

import asyncio

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
