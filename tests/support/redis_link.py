"""A link to a Redis, opened as tests do, and what it says where it does not open."""

from contextlib import AbstractAsyncContextManager

import pytest
import trio

from bridge.errors import RedisLost
from bridge.links.redis import RedisLink, open_redis, parse_redis_url

TIMEOUT_SECONDS = 10.0
SLACK_SECONDS = 10.0
"""What a busy machine may add."""


def opening(url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> AbstractAsyncContextManager[RedisLink]:
    return open_redis(parse_redis_url(url), timeout_seconds=timeout_seconds, name="the tests")


async def refused(url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> RedisLost:
    """The error of opening this; it comes in time, and is one line."""
    with pytest.raises(RedisLost) as caught, trio.fail_after(timeout_seconds + SLACK_SECONDS):
        async with opening(url, timeout_seconds):
            pass
    assert "\n" not in str(caught.value)
    return caught.value
