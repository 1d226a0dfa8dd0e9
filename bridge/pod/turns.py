"""Who of the workers takes the next connections from the socket that they share: who has the fewest goes first.

All wake when connections wait. A worker that has notably more than another one that runs lets the others go first for
a few milliseconds, and takes what is left then: nobody waits longer, whatever the others do. A worker that is stopped
no longer counts after a quarter of a second.
"""

from collections.abc import Callable

import trio

from bridge.pod.table import BEAT_SECONDS, Table
from bridge.server.limits import Places

YIELD_SECONDS = 0.001
YIELDS = 5
LEAVING_SECONDS = 0.05
LEAST_LEAD, MOST_LEAD, LEAD_SHARE = 1, 256, 8
"""How many connections more than another a worker may have: the more there are, the more, so that a crowd is not
taken one by one in turns. Measured with two workers, 3,000 clients at once: 20,300 handshakes a second; with at most 32
16,100; without any turns 17,800."""


def allowance(own: int, fewest: int) -> int:
    """How many more a worker with `own` connections may take before another with the `fewest` has its turn."""
    return fewest + min(MOST_LEAD, LEAST_LEAD + fewest // LEAD_SHARE) - own


class Turns:
    """One worker's turns. `connections` says how many it has open now."""

    def __init__(self, table: Table, row: int, places: Places) -> None:
        self._table = table
        self._row = row
        self._places = places
        self.connections: Callable[[], int] = lambda: places.taken

    async def run(self) -> None:
        """Show that this worker runs. Never returns."""
        while True:
            self.note()
            await trio.sleep(BEAT_SECONDS)

    def note(self) -> None:
        """Show the others how many connections there are now."""
        self._table.beat(self._row, connections=self.connections(), accepting=not self._places.closed)

    async def quota(self, most: int) -> int:
        """How many connections to take now, `most` at most; waits a little first where others have fewer.

        None while this worker sends its clients away and others do not.
        """
        self.note()
        allowed = self._allowed(most)
        if allowed > 0:
            return allowed
        if self._places.closed:
            await trio.sleep(LEAVING_SECONDS)
            return 0
        for _ in range(YIELDS):
            await trio.sleep(YIELD_SECONDS)
            if (allowed := self._allowed(most)) > 0:
                return allowed
        return 1

    def _allowed(self, most: int) -> int:
        fewest = min(self._table.others_accepting(self._row), default=None)
        if fewest is None:
            return most
        if self._places.closed:
            return 0
        return min(most, allowance(self.connections(), fewest))
