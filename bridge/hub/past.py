"""What lies before the beginning of a process, when the log brings it: clients that were elsewhere then lack of it."""

from bridge.core import events
from bridge.core.events import Past
from bridge.core.position import Timeline
from bridge.hub.gaps import Gaps
from bridge.hub.members import Members


def tell_past(past: Past, members: Members, gaps: Gaps, timeline: Timeline) -> None:
    """Tell those who lack something of it, late, and how their gap ends: what lies before all that is known is lost."""
    lacks = {lack for some in members.lacking.values() for lack in some if past.hole in lack.ties}
    begins = [timeline.convert(lack.gap.after, past.floor.term) or past.floor.beginning for lack in lacks]
    for lack, begin in zip(lacks, begins, strict=True):
        if begin < past.floor:
            lack.lost = lack.lost or "history_trimmed"
    for event in past.events:
        if lacks and event.position > min(begins):
            gaps.late(events.late(event, past.hole))
    gaps.settle(past.hole, None)
