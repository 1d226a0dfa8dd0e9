"""Whatever fails, nothing is lost silently and nothing comes twice: random worlds, faults and interleavings.

Every run is in virtual time and repeats from its plan; a failure prints the command that replays it with the bridge's
log. ``SIM_PROFILE=deep`` runs twenty times as many.
"""

import os

from hypothesis import HealthCheck, Phase, given, settings

from tests.sim.plan import LASTING, SUDDEN, Plan, plans, steps
from tests.sim.simulate import Result, simulate

RUNS = {"ci": 330, "deep": 6_700}[os.environ.get("SIM_PROFILE", "ci")]
LONG = settings(
    max_examples=RUNS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)

NOT_YET = {"wire_deaf", "skew"}


def expect_nothing_broken(plan: Plan) -> Result:
    result = simulate(plan)
    assert not result.violations, "\n".join([f"python -m tests.sim.replay '{plan.text()}'", *result.violations])
    return result


@LONG
@given(plans(steps(sorted({*SUDDEN, *LASTING} - NOT_YET)), most_steps=8))
def test_many_failures_lose_nothing_silently(plan: Plan) -> None:
    expect_nothing_broken(plan)


@LONG
@given(
    plans(
        steps([n for n in SUDDEN + LASTING if "redis" not in n and "wire" not in n and n not in NOT_YET]),
        most_steps=6,
        with_redis=False,
    )
)
def test_without_redis_nothing_is_lost_silently(plan: Plan) -> None:
    expect_nothing_broken(plan)
