"""The places for clients of all workers together: BRIDGE_MAX_CLIENTS is a promise of the whole pod."""

from bridge.pod.table import Table
from bridge.server.limits import Places


class SharedPlaces(Places):
    """The places of all workers together, as one of them takes and releases them.

    Two workers that take the last place at the same moment both get it. What one address may have is divided.
    """

    def __init__(self, total: int, table: Table, row: int) -> None:
        super().__init__(total)
        self.an_address = -(-self.an_address // table.rows)
        self._table = table
        self._row = row

    @property
    def full(self) -> bool:
        return self._table.clients() >= self.total

    def take(self, site: str | None) -> None:
        super().take(site)
        self._table.set_clients(self._row, self.taken)

    def release(self, site: str | None) -> None:
        super().release(site)
        self._table.set_clients(self._row, self.taken)
