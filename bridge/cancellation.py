"""Whose cancellation it is: on asyncio, awaiting a task that somebody has cancelled looks like being cancelled."""

import asyncio

import anyio


def is_of_another_task(error: BaseException) -> bool:
    """Whether this is the cancellation of something that the present task has awaited: nobody has cancelled itself."""
    if not isinstance(error, asyncio.CancelledError) or anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        return False
    task = asyncio.current_task()
    return task is not None and not task.cancelling()
