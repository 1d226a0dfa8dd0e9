"""Repeat one run with the bridge's log in virtual time: ``python -m tests.sim.replay trio|asyncio '<plan>'``."""

import sys

from tests.sim.plan import read
from tests.sim.runtime import LOOPS
from tests.sim.simulate import simulate


def main() -> int:
    """Exit code 1 where a promise was broken."""
    loop, plan = sys.argv[1:]
    result = simulate(read(plan), LOOPS[LOOPS.index(loop)], verbose=True)
    print("\n".join(result.final_gaps + result.violations or ["all is well"]))
    return bool(result.violations)


if __name__ == "__main__":
    sys.exit(main())
