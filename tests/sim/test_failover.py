"""Whatever fails, nothing is lost silently and nothing comes twice: random worlds, faults and interleavings.

Every run is in virtual time, on trio or asyncio, and repeats from its plan; a failure prints the command that replays
it with the bridge's log. ``SIM_PROFILE=ci`` runs sixteen hundred, always the same ones; ``deep`` runs thirty thousand,
others every time. Half of them are on trio, half on asyncio.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.sim.plan import LASTING, POD_LASTING, POD_SUDDEN, SUDDEN, Plan, plans, pods, steps
from tests.sim.runtime import LOOPS, Loop
from tests.sim.simulate import Result, simulate

PROFILE = os.environ.get("SIM_PROFILE", "quick")
RUNS = {"quick": 300, "ci": 1_000, "deep": 20_000}[PROFILE]

on_both_loops = pytest.mark.parametrize("loop", LOOPS)

ONE_FAILURE = (
    "kill", "end", "pause", "session_terminated", "session_cut", "session_silent", "wire_cut", "wire_silent",
    "wire_deaf", "block_redis", "slow_redis", "slow_postgres", "redis_restart", "redis_stall", "redis_oom",
    "redis_readonly", "redis_loading", "flush", "evict", "postgres_stall", "garbage", "burst", "skew",
)  # fmt: skip
"""What loses nothing while there is a second listener, and the history is longer than what the failure lasts."""

REDIS_FAILURE = frozenset(
    name for name in ONE_FAILURE if "redis" in name or "wire" in name or name in ("flush", "evict")
)
"""What a process with a listener of its own does not even notice."""

POD_FAILURE = POD_LASTING + POD_SUDDEN
ONE_FAILURE_OF_A_POD = (
    *POD_FAILURE, "pause", "slow_postgres", "block_postgres", "postgres_stall", "garbage", "burst", "skew",
)  # fmt: skip
"""What loses nothing while the pod's only listener lives, also without Redis."""

WITHOUT_REDIS = tuple(name for name in SUDDEN + LASTING if "redis" not in name and "wire" not in name)


def runs(part: float) -> settings:
    """A part of all the runs of the profile. Shrinking is worth its time: a small plan is easy to understand."""
    return settings(
        max_examples=int(RUNS * part / len(LOOPS)),
        derandomize=PROFILE != "deep",
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )


def expect_nothing_broken(plan: Plan, loop: Loop) -> Result:
    try:
        result = simulate(plan, loop)
    except BaseException as error:
        error.add_note(replaying(plan, loop))
        raise
    expect_none(result.violations, plan, loop)
    return result


def expect_none(unwanted: list[str], plan: Plan, loop: Loop) -> None:
    assert not unwanted, "\n".join([replaying(plan, loop), *unwanted])


def replaying(plan: Plan, loop: Loop) -> str:
    return f"python -m tests.sim.replay {loop} '{plan.text()}'"


@on_both_loops
@runs(0.4)
@given(plans(steps(ONE_FAILURE), most_steps=1, least_listeners=2, two_sets=False, histories=[1000]))
def test_no_single_failure_loses_anything(loop: Loop, plan: Plan) -> None:
    result = expect_nothing_broken(plan, loop)
    unwanted = result.final_gaps
    if plan.steps[0].do in REDIS_FAILURE:
        unwanted += [gap for gap in result.gaps if gap.startswith("both")]
    expect_none(unwanted, plan, loop)


@on_both_loops
@runs(0.5)
@given(plans(steps(SUDDEN + LASTING), most_steps=8))
def test_many_failures_lose_nothing_silently(loop: Loop, plan: Plan) -> None:
    expect_nothing_broken(plan, loop)


@on_both_loops
@runs(0.1)
@given(plans(steps(WITHOUT_REDIS), most_steps=8, with_redis=False))
def test_without_redis_nothing_is_lost_silently(loop: Loop, plan: Plan) -> None:
    expect_nothing_broken(plan, loop)


@on_both_loops
@runs(0.1)
@given(
    plans(
        steps(ONE_FAILURE + POD_FAILURE), most_steps=1, histories=[1000], of=pods(others=("both",), least_listeners=2)
    )
)
def test_no_single_failure_loses_anything_in_a_pod(loop: Loop, plan: Plan) -> None:
    unwanted = expect_nothing_broken(plan, loop).final_gaps
    expect_none(unwanted, plan, loop)


@on_both_loops
@runs(0.1)
@given(plans(steps(ONE_FAILURE_OF_A_POD), most_steps=1, histories=[1000], with_redis=False, of=pods(others=())))
def test_without_redis_no_failure_inside_a_pod_loses_anything(loop: Loop, plan: Plan) -> None:
    unwanted = expect_nothing_broken(plan, loop).final_gaps
    expect_none(unwanted, plan, loop)


@on_both_loops
@runs(0.2)
@given(plans(steps(SUDDEN + LASTING + POD_FAILURE), most_steps=8, of=pods()))
def test_many_failures_lose_nothing_silently_in_a_pod(loop: Loop, plan: Plan) -> None:
    expect_nothing_broken(plan, loop)


@on_both_loops
@runs(0.2)
@given(plans(steps(WITHOUT_REDIS + POD_FAILURE), most_steps=8, with_redis=False, of=pods(others=())))
def test_without_redis_nothing_is_lost_silently_in_a_pod(loop: Loop, plan: Plan) -> None:
    expect_nothing_broken(plan, loop)
