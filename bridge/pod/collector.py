"""What all processes of a pod say together, for whoever asks one of its workers.

Every answer is fresh: all children are asked, for `ANSWER_SECONDS` at most. Those who ask while others are being
answered get the next answer together, so that a crowd of questions costs no more than one at a time.
"""

from collections.abc import Sequence

import msgspec
import trio
from prometheus_client import Counter, ProcessCollector

from bridge.pod import snapshot
from bridge.pod.charge import Charge
from bridge.pod.merge_metrics import Role, add_up, merge
from bridge.pod.merge_status import Part, merge_status
from bridge.pod.snapshot import Family
from bridge.pod.together import Together
from bridge.telemetry.metrics import PREFIX, Registry

ANSWER_SECONDS = 0.4
"""Who asks while another answer is made waits twice as long, with `bridge.pod.member.ASK_SECONDS` of patience."""
LOOK_SECONDS = 2.0
"""How often all are asked anyway: what a process counted since is lost when it is killed."""


class Collector:
    """Adds up what the children say."""

    def __init__(self, charges: Sequence[Charge]) -> None:
        self._charges = charges
        self._registry = Registry()
        ProcessCollector(registry=self._registry)
        self._restarts = Counter(
            PREFIX + "process_restarts",
            "How often a process of this pod ended by itself, or was killed, and was started again.",
            ["role"],
            registry=self._registry,
        )
        for charge in charges:
            self._restarts.labels(charge.role)
        self._gone: list[Family] = []
        """What processes counted that have ended."""
        self._began = trio.current_time()
        self._looked = Together(self._look)

    async def run(self) -> None:
        """Keep what the children count. Never returns."""
        while True:
            await self._looked.get()
            await trio.sleep(LOOK_SECONDS)

    def bury(self, charge: Charge) -> None:
        """This child has ended, and another one takes its place."""
        self._restarts.labels(charge.role).inc()
        if (last := charge.take_snapshot()) is not None:
            self._gone = add_up(self._gone, last.families)

    async def status(self) -> bytes:
        """/status of all as JSON; empty where nobody has said anything yet."""
        await self._looked.get()
        whole = merge_status([_part(each) for each in self._charges], trio.current_time() - self._began)
        return msgspec.json.encode(whole) if whole else b""

    async def metrics(self) -> bytes:
        """/metrics of all as text."""
        await self._looked.get()
        own = snapshot.families(self._registry)
        parts: list[tuple[Role, Sequence[Family]]] = [("supervisor", own), ("supervisor", self._gone)]
        parts[:0] = [(each.role, each.snapshot.families) for each in self._charges if each.snapshot is not None]
        return snapshot.text(merge(parts))

    async def _look(self) -> None:
        async with trio.open_nursery() as nursery:
            for charge in self._charges:
                nursery.start_soon(charge.look, ANSWER_SECONDS)


def _part(charge: Charge) -> Part:
    status = charge.snapshot.status if charge.snapshot is not None else None
    return Part(charge.name, charge.role, charge.pid, charge.restarts, charge.state, status)
