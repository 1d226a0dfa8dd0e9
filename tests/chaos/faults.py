"""The faults that chaos draws from: each is begun, lasts for a while, and is ended."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.world import KINDS, POD, SERVING, World
from tests.support.postgres import free_port
from tests.support.proxy import HALF_OPEN, STALLED, Proxy, Weather, only_pongs, subscribers

TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'"


def nothing() -> None:
    """A fault that is over when it has begun."""


@dataclass(frozen=True)
class Fault:
    """`what` names it in the report."""

    what: str
    begin: Callable[[], object]
    end: Callable[[], object] = nothing
    longest_seconds: float = 4.0
    single: bool = True
    """Whether it is one failure as the guarantee means it: nothing may be lost, announced or not."""


Maker = Callable[[World, random.Random], Fault]


def of_redis(world: World, chance: random.Random) -> Fault:
    redis = world.redis

    def keys() -> None:
        found = [key for key in redis.command("KEYS", "chaos:*") if chance.random() < 0.5]
        if found:
            redis.command("DEL", *found)

    return chance.choice(
        [
            Fault("Redis killed", redis.kill, redis.start),
            Fault("Redis ended and started", redis.stop, redis.start),
            Fault(
                "Redis stopped", lambda: os.kill(redis.pid, signal.SIGSTOP), lambda: os.kill(redis.pid, signal.SIGCONT)
            ),
            Fault("FLUSHALL", lambda: redis.command("FLUSHALL")),
            Fault("some keys gone", keys),
            Fault("scripts gone", lambda: redis.command("SCRIPT", "FLUSH")),
            Fault(
                "normal connections killed", lambda: redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            ),
            Fault("subscribers killed", lambda: redis.command("CLIENT", "KILL", "TYPE", "pubsub")),
            Fault(
                "Redis out of memory",
                lambda: redis.command("CONFIG", "SET", "maxmemory", 1),
                lambda: redis.command("CONFIG", "SET", "maxmemory", 0),
            ),
            Fault(
                "Redis a replica of nothing",
                lambda: redis.command("REPLICAOF", "127.0.0.1", free_port()),
                lambda: redis.command("REPLICAOF", "NO", "ONE"),
            ),
        ]
    )


def of_postgres(world: World, chance: random.Random) -> Fault:
    postgres = world.postgres

    def start() -> None:
        for _ in range(20):
            try:
                postgres.start()
            except RuntimeError:  # memory of the server that was killed may still be in use
                time.sleep(0.2)
            else:
                return

    def synchronous(name: str) -> None:
        postgres.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        postgres.execute("SELECT pg_reload_conf()")

    def terminate(condition: str = "") -> None:
        postgres.execute(TERMINATE + condition)

    one = " AND pid = (SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' ORDER BY random() LIMIT 1)"
    return chance.choice(
        [
            Fault("PostgreSQL restarted", postgres.stop, start, 1.0, single=False),
            Fault("PostgreSQL crashed", lambda: postgres.stop(immediate=True), start, 1.0, single=False),
            Fault("PostgreSQL killed", postgres.kill, start, 1.0, single=False),
            Fault("PostgreSQL stopped", postgres.pause, postgres.resume),
            Fault("a commit waits", lambda: synchronous("nobody"), lambda: synchronous("")),
            *[Fault("a session terminated", lambda: terminate(one))] * 4,
            Fault("all sessions terminated", terminate, single=False),
        ]
    )


def of_a_process(world: World, chance: random.Random) -> Fault:
    name = chance.choice(list(KINDS))
    if name == POD:
        return of_a_child(world, chance)
    pid = world.fleet.processes[name].process.pid

    def kill() -> None:
        world.killed(name)
        os.kill(pid, signal.SIGKILL)
        world.fleet.processes[name].process.wait()

    stop = Fault(f"{name} stopped", lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT), 6.0)
    return chance.choice([Fault(f"{name} killed", kill), stop, stop])


def of_a_child(world: World, chance: random.Random) -> Fault:
    """Of the pod: the listener or a worker, which the supervisor starts again."""
    children = world.pod_children()
    if not children:
        return of_a_link(world, chance)
    role = chance.choice(sorted(children))
    pid = chance.choice(children[role])

    def kill() -> None:
        if role == "worker":
            world.killed(POD)
        os.kill(pid, signal.SIGKILL)

    what = f"{POD}'s {role} {pid}"
    stop = Fault(f"{what} stopped", lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT), 6.0)
    return chance.choice([Fault(f"{what} killed", kill), stop])


def of_a_link(world: World, chance: random.Random) -> Fault:
    name = chance.choice(list(KINDS))
    to_redis = chance.random() < 0.6
    proxy = world.to_redis[name] if to_redis else world.to_postgres[name]
    what = f"{name} to {'Redis' if to_redis else 'PostgreSQL'}"

    def weather(name: str, kind: Weather, *, then_cut: bool) -> Fault:
        return Fault(f"{what} {name}", lambda: proxy.impose(kind), lambda: _clear(proxy, cut=then_cut), 6.0)

    faults = [
        Fault(f"{what} cut", proxy.cut),
        Fault(f"{what} refused", proxy.refuse, proxy.heal),
        weather("stalled", STALLED, then_cut=False),
        weather("stalled, then cut", STALLED, then_cut=True),
        weather("half-open", HALF_OPEN, then_cut=False),
        weather("half-open, then cut", HALF_OPEN, then_cut=True),
        weather("mute", Weather(up="hold"), then_cut=chance.random() < 0.5),
        weather("slow", Weather(delay_seconds=chance.uniform(0.01, 0.3)), then_cut=False),
    ]
    if to_redis and name in SERVING:
        deaf = Weather(deaf=only_pongs)
        faults.append(Fault(f"{what} deaf", lambda: proxy.impose(deaf, subscribers, also_new=False), proxy.heal, 6.0))
    return chance.choice(faults)


def _clear(proxy: Proxy, *, cut: bool) -> None:
    if cut:
        proxy.cut()
    proxy.heal()


MAKERS: tuple[Maker, ...] = (of_redis, of_postgres, of_a_process, of_a_link)
WEIGHTS = (4, 2, 3, 4)


def draw(world: World, chance: random.Random) -> list[Fault]:
    """One fault, or two of different kinds at once."""
    makers = chance.choices(MAKERS, WEIGHTS, k=2 if chance.random() < 0.25 else 1)
    return [maker(world, chance) for maker in dict.fromkeys(makers)]


def draw_single(world: World, chance: random.Random) -> list[Fault]:
    """One failure against which the guarantee holds."""
    while True:
        (maker,) = chance.choices(MAKERS, WEIGHTS)
        fault = maker(world, chance)
        if fault.single:
            return [fault]
