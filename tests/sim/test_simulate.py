"""The simulation itself: a plan is a run, again and again, and a quiet world is a quiet run."""

from typing import get_args

import pytest

from tests.sim.plan import LASTING, SUDDEN, Plan, ProcessPlan, Readers, Step, read
from tests.sim.runtime import LOOPS, Loop
from tests.sim.simulate import simulate

PROCESSES = (ProcessPlan("both"), ProcessPlan("worker"), ProcessPlan("listener"), ProcessPlan("both", 1))


@pytest.mark.parametrize("readers", get_args(Readers))
@pytest.mark.parametrize("loop", LOOPS)
def test_a_plan_repeats_its_run(loop: Loop, readers: Readers) -> None:
    steps = tuple(Step(0.3, name, number, 0.8, 3) for number, name in enumerate(SUDDEN + LASTING))
    plan = Plan(7, PROCESSES, steps, readers=readers)
    assert read(plan.text()) == plan
    one, other = simulate(plan, loop).world, simulate(plan, loop).world
    assert one is not None
    assert other is not None
    assert one.committed == other.committed
    assert [view.messages for view in one.views] == [view.messages for view in other.views]


@pytest.mark.parametrize("readers", get_args(Readers))
@pytest.mark.parametrize("loop", LOOPS)
def test_where_nothing_fails_everything_comes_without_a_gap(loop: Loop, readers: Readers) -> None:
    result = simulate(Plan(1, PROCESSES, (Step(1.0, "burst", much=500),), history_entries=1000, readers=readers), loop)
    assert result.violations == []
    assert result.gaps == []
    assert result.world is not None
    assert all(view.complete and len(view.messages) > 300 for view in result.world.views)
