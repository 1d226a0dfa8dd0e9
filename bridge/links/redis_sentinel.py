"""Where the master of a service is now: all Sentinels in the URL are asked at once, through redis-py's Sentinel.

Asked one after the other, a machine that is off would cost the whole timeout. The newest word counts: a Sentinel that
was cut off from the others still names the master from before, with an older epoch of the configuration.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel

from bridge.errors import RedisLost, RedisUnusable
from bridge.links.redis_url import Address, RedisTarget, SentinelTarget, place

GRACE_SECONDS = 0.1
"""After the first answer: how long the others may take, as long as a majority has not answered."""

MAX_THREADS = 16
"""Of their own: where host names are not resolved for long, the waiting threads must not starve PostgreSQL's."""

_limiter = RunVar[anyio.CapacityLimiter]("threads that ask Sentinels")


@dataclass(frozen=True, order=True)
class Word:
    """What one Sentinel says. The greatest one is the newest."""

    epoch: int
    host: str
    port: int


async def find_master(target: SentinelTarget, timeout_seconds: float) -> RedisTarget:
    """The master as the Sentinels name it now, within `timeout_seconds`; it was not asked itself.

    Raises RedisLost where no Sentinel names one, RedisUnusable where each of them answers and a person has to change
    something. Leaves behind threads where a Sentinel has not answered: each step of theirs is over within half of
    `timeout_seconds`, but for a host name whose resolution takes longer.
    """
    words: list[Word] = []
    troubles: dict[Address, RedisLost] = {
        address: RedisLost(f"{place(*address)} has not answered") for address in target.sentinels
    }
    majority = len(target.sentinels) // 2 + 1

    async def ask(address: Address, scope: anyio.CancelScope) -> None:
        try:
            word = await anyio.to_thread.run_sync(
                _ask, target, address, timeout_seconds / 2, abandon_on_cancel=True, limiter=_threads()
            )
        except RedisLost as error:
            troubles[address] = error
            return
        words.append(word)
        scope.deadline = min(scope.deadline, anyio.current_time() + GRACE_SECONDS)
        if len(words) >= majority:
            scope.cancel()

    async with anyio.create_task_group() as group:
        group.cancel_scope.deadline = anyio.current_time() + timeout_seconds
        for address in target.sentinels:
            group.start_soon(ask, address, group.cancel_scope)
    if not words:
        unusable = all(isinstance(error, RedisUnusable) for error in troubles.values())
        reasons = "; ".join(map(str, troubles.values()))
        raise (RedisUnusable if unusable else RedisLost)(f"no Sentinel names a master of {target.service!r}: {reasons}")
    newest = max(words)
    return dataclasses.replace(target.master, host=newest.host, port=newest.port)


def _threads() -> anyio.CapacityLimiter:
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(MAX_THREADS)
        _limiter.set(limiter)
    return limiter


def _ask(target: SentinelTarget, address: Address, socket_seconds: float) -> Word:
    """Ask one Sentinel, in a thread. Connecting and answering may each take `socket_seconds`; nothing is retried."""
    options = {
        "username": target.username,
        "password": target.password,
        "socket_timeout": socket_seconds,
        "socket_connect_timeout": socket_seconds,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "decode_responses": True,
        "encoding_errors": "replace",
    }
    sentinel = Sentinel([address], sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    (client,) = sentinel.sentinels
    where = place(*address)
    try:
        with client:
            masters = cast(dict[str, dict[str, Any]], client.sentinel_masters())
            named = client.execute_command(  # type: ignore[no-untyped-call]
                "SENTINEL GET-MASTER-ADDR-BY-NAME", target.service
            )
    except (AuthenticationError, NoPermissionError) as error:
        raise RedisUnusable(
            f"{where} does not let us in, see sentinel_username and sentinel_password ({_line(error)})"
        ) from error
    except (RedisConnectionError, RedisTimeoutError, OSError, UnicodeError) as error:
        raise RedisLost(f"{where} cannot be reached ({_line(error)})") from error
    except ResponseError as error:
        raise RedisUnusable(f"{where} is no Sentinel, or refuses to answer ({_line(error)})") from error
    except (RedisError, TypeError, ValueError, LookupError) as error:
        raise RedisUnusable(f"{where} is no Sentinel ({_line(error)})") from error
    state = masters.get(target.service)
    if state is None or named is None:
        raise RedisUnusable(f"{where} does not know it, only {', '.join(map(repr, sorted(masters))) or 'nothing'}")
    # In a failover the promoted one is named first, and described only once all replicas follow it.
    is_described = named == (state["ip"], state["port"])
    if is_described and not sentinel.check_master_state(state, target.service):  # type: ignore[no-untyped-call]
        raise RedisLost(f"{where} has seen it go down, and no other one in its place yet")
    return Word(state["config-epoch"], *named)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
