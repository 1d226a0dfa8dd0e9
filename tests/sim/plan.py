"""What happens in one run, as data: the processes, the faults and their times. A plan and its seed repeat a run."""

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec
from hypothesis import strategies as st

Kind = Literal["listener", "worker", "both"]
Readers = Literal["sockets", "tasks", "odd tasks"]
"""How clients read: behind sockets of the server (only on trio), or as tasks of the process itself; odd ones read more
slowly than events come, or cancel their waiting again and again."""


class ProcessPlan(msgspec.Struct, frozen=True, array_like=True):
    """A process that listens, serves clients, or does both. `channel_set`: which of the two sets it has.

    `pod`: for a worker of a pod, which of the processes is its listener.
    """

    kind: Kind
    channel_set: int = 0
    pod: int | None = None


class Step(msgspec.Struct, frozen=True, array_like=True):
    """`after` seconds, `do` something to the `who`-th of its kind, for `seconds` where it lasts, `much` of it."""

    after: float
    do: str
    who: int = 0
    seconds: float = 0.0
    much: int = 0


class Plan(msgspec.Struct, frozen=True, array_like=True):
    """One run."""

    seed: int
    processes: tuple[ProcessPlan, ...]
    steps: tuple[Step, ...]
    with_redis: bool = True
    history_entries: int = 100
    waits: bool = True
    """Whether the steps begin only when everything works."""
    readers: Readers = "sockets"
    """On asyncio, sockets are tasks."""

    def text(self) -> str:
        """One line that `read` understands."""
        return msgspec.json.encode(self).decode()


def read(text: str) -> Plan:
    return msgspec.json.decode(text, type=Plan)


LASTING = (
    "pause", "kill", "end", "block_redis", "block_postgres", "slow_redis", "slow_postgres", "postgres_stall",
    "postgres_restart", "postgres_refuse", "redis_stall", "redis_restart", "redis_oom", "redis_readonly",
    "redis_loading",
)  # fmt: skip
"""What lasts for a while."""
SUDDEN = (
    "session_terminated", "session_cut", "session_silent", "wire_cut", "wire_silent", "wire_deaf", "flush", "evict",
    "trim", "forget_newest", "skew", "burst", "big_burst", "garbage", "join", "leave",
)  # fmt: skip
"""What happens at once."""
POD_LASTING = ("block_pod", "slow_pod")
POD_SUDDEN = ("pod_cut", "pod_silent")
"""The same between the workers of a pod and its listener."""

_who = st.integers(0, 5)


def steps(names: Sequence[str], longest_seconds: float = 5.0) -> st.SearchStrategy[Step]:
    """One step of these."""
    return st.builds(
        Step,
        st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0, 2.5]),
        st.sampled_from(sorted(names)),
        _who,
        st.sampled_from([seconds for seconds in (0.05, 0.3, 0.8, 1.5, 2.5, 5.0) if seconds <= longest_seconds]),
        st.sampled_from([0, 1, 3, 10, 40, 150]),
    )


@st.composite
def processes(draw: st.DrawFn, *, least_listeners: int = 1, two_sets: bool = True) -> tuple[ProcessPlan, ...]:
    """One to three listeners, one to three workers, some of them in one process, with one or two sets of channels."""
    kinds: list[Kind] = draw(
        st.lists(st.sampled_from(["listener", "both", "worker"]), min_size=least_listeners, max_size=4)
    )
    while sum(kind != "worker" for kind in kinds) < least_listeners:
        kinds.append("listener")
    if all(kind == "listener" for kind in kinds):
        kinds.append("worker")
    plans = [ProcessPlan(kind) for kind in kinds]
    if two_sets and draw(st.booleans()):
        plans += [ProcessPlan("both", 1)]
    return tuple(plans)


@st.composite
def pods(
    draw: st.DrawFn, *, others: Sequence[Kind] = ("listener", "both", "worker"), least_listeners: int = 1
) -> tuple[ProcessPlan, ...]:
    """A pod: a listener with one to three workers; beside it another one, or processes that are not in a pod."""
    plans: list[ProcessPlan] = [ProcessPlan("listener")]
    plans += [ProcessPlan("worker", 0, 0)] * draw(st.integers(1, 3))
    if draw(st.booleans()):
        plans += [ProcessPlan("listener"), ProcessPlan("worker", 0, len(plans))]
    if others:
        plans += [ProcessPlan(kind) for kind in draw(st.lists(st.sampled_from(others), max_size=2))]
    if sum(one.kind != "worker" for one in plans) < least_listeners:
        plans += [ProcessPlan("listener")]
    return tuple(plans)


@st.composite
def plans(
    draw: st.DrawFn,
    step: st.SearchStrategy[Step],
    *,
    most_steps: int,
    least_listeners: int = 1,
    two_sets: bool = True,
    with_redis: bool = True,
    histories: Sequence[int] = (1000, 60, 20),
    of: st.SearchStrategy[tuple[ProcessPlan, ...]] | None = None,
) -> Plan:
    """Any plan with at most so many steps, and with any processes, or such as `of` draws."""
    return Plan(
        draw(st.integers(0, 2**32 - 1)),
        draw(of if of is not None else processes(least_listeners=least_listeners, two_sets=two_sets)),
        tuple(draw(st.lists(step, min_size=1, max_size=most_steps))),
        with_redis,
        draw(st.sampled_from(histories)),
        draw(st.booleans()),
        draw(st.sampled_from(get_args(Readers))),
    )
