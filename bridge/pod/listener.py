"""The listener's work: from its LISTEN session into the log in Redis. It serves no port; the workers speak for it."""

import os
import shutil

import trio

from bridge.health import ListenerHealth, Process, RelayHealth
from bridge.links.openers import RealLinks
from bridge.pod.member import Member, taken
from bridge.pod.table import Table
from bridge.rates import Rates
from bridge.relay.outlet import Outlet
from bridge.relay.relay import Relay
from bridge.telemetry import Metrics

LOOK_SECONDS = 0.25
LAST_SECONDS = 5.0
"""What workers may take beyond the time for draining when the supervisor is gone."""


async def hear(member: Member) -> None:
    """Bring notifications into the log, and to the workers, until an order ends it."""
    settings = member.assignment.settings
    metrics = Metrics()
    nonce = member.assignment.nonce
    relay = Relay(settings, RealLinks(settings), metrics, with_redis=settings.use_redis_notifier, nonce=nonce)
    relay_health = RelayHealth(relay)
    rates = Rates(metrics)
    health = ListenerHealth(relay_health, Process(settings, metrics, rates, embedded=member.assignment.embedded))
    member.observe = lambda: taken(metrics, health.status())
    outlet = Outlet(relay, settings.digest, trims=not settings.use_redis_notifier)
    async with trio.open_nursery() as nursery:
        await nursery.start(outlet.serve, member.assignment.pod_socket)
        nursery.start_soon(relay.run)
        nursery.start_soon(rates.run)
        nursery.start_soon(_say_whether_it_works, member, relay_health)
        member.ready()
        async for _ in member.signals:  # files are read again where tokens are checked; anything else is the end
            if member.ending:
                break
        if member.orphaned.is_set():
            await _workers_gone(member)
            if (pod_socket := member.assignment.pod_socket) is not None:
                shutil.rmtree(pod_socket.parent, ignore_errors=True)  # made for this pod alone
        nursery.cancel_scope.cancel()


async def _say_whether_it_works(member: Member, health: RelayHealth) -> None:
    said: bool | None = None
    while True:
        works = health.working
        if works != said and member.says_whether_it_works(works):
            said = works
        await trio.sleep(LOOK_SECONDS)


async def _workers_gone(member: Member) -> None:
    """Nobody orders the end any more: wait until the workers have sent their clients away."""
    given = member.assignment
    table = Table(given.table, given.rows)
    with trio.move_on_after(given.settings.drain_seconds + LAST_SECONDS):
        while any(map(_runs, table.pids())):  # noqa: ASYNC110, other processes tell nobody
            await trio.sleep(LOOK_SECONDS)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
