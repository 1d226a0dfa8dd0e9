"""Delivery: each once over all sources, late where newer ones went before, holes announced, filled or final."""

import json
from collections.abc import Sequence

from bridge.core import events
from bridge.core.events import Event, Filled, Gap, Notification
from bridge.core.position import Position
from bridge.feed.delivery import MAX_HOLES, Delivery, Item
from bridge.telemetry import Metrics

LOG, DIRECT, OTHER = 100, 200, 300


def event(term: int, seq: int) -> Event:
    return events.event(Position(term, seq), Notification("c", b"%d" % seq))


def run(term: int, first: int, last: int) -> list[Event]:
    return [event(term, seq) for seq in range(first, last + 1)]


class Sink:
    def __init__(self) -> None:
        self.items: list[Item] = []
        self.delivery = Delivery(self.take, Metrics())

    def take(self, items: Sequence[Item]) -> None:
        self.items += items

    @property
    def seqs(self) -> list[tuple[int, int, bool]]:
        return [(*item.position, item.late) for item in self.items if isinstance(item, Event)]

    @property
    def others(self) -> list[Item]:
        return [item for item in self.items if not isinstance(item, Event)]


def in_fallback() -> Sink:
    """The log was lost after 100-10; a session heard 1, 2, 3 and its marker is 100-15 (which nobody knows yet)."""
    sink = Sink()
    sink.delivery.begin(Position(LOG, 5))
    sink.delivery.offer(run(LOG, 6, 10))
    sink.delivery.continue_with(Position(DIRECT, 0), "failover", fillable=True)
    sink.delivery.passed(Position(DIRECT, 0))
    sink.delivery.beside[DIRECT] = None
    sink.delivery.offer(run(DIRECT, 1, 3))
    return sink


def test_what_is_older_than_the_beginning_is_not_delivered() -> None:
    sink = Sink()
    sink.delivery.begin(Position(LOG, 5))
    sink.delivery.offer(run(LOG, 3, 7))
    assert sink.seqs == [(LOG, 6, False), (LOG, 7, False)]


def test_a_hole_is_pending_at_once_and_filled_by_late_events() -> None:
    sink = in_fallback()
    gap = Gap(Position(LOG, 10), Position(DIRECT, 0), "failover", pending=True)
    assert sink.others == [gap]
    assert sink.delivery.unrelated(LOG) == [DIRECT]
    sink.delivery.timeline.relate(Position(DIRECT, 0), Position(LOG, 15))
    assert sink.delivery.unrelated(LOG) == []
    sink.items.clear()
    sink.delivery.offer(run(LOG, 9, 14))
    assert sink.seqs == [(LOG, seq, True) for seq in range(11, 15)]
    assert all(isinstance(item, Event) and item.hole == (gap.after, gap.before) for item in sink.items)
    assert json.loads(sink.items[0].data)["late"] is True  # type: ignore[union-attr]
    sink.delivery.passed(Position(LOG, 15))
    sink.delivery.offer(run(LOG, 16, 20))
    assert sink.seqs[4:] == [(LOG, 19, False), (LOG, 20, False)], "16 to 18 were heard directly"
    sink.delivery.joined()
    assert sink.others == [Filled(gap.after, gap.before)]
    assert list(sink.delivery.holes) == []


def test_a_hole_that_is_not_filled_ends_with_one_final_gap_and_stays_lost() -> None:
    sink = in_fallback()
    sink.delivery.timeline.relate(Position(DIRECT, 0), Position(LOG, 15))
    sink.delivery.offer(run(LOG, 13, 14))
    sink.delivery.joined()
    assert sink.others[1:] == [Gap(Position(LOG, 10), Position(DIRECT, 0), "failover")]
    assert [announced.gap.pending for announced in sink.delivery.recent_gaps] == [False]
    before = len(sink.items)
    sink.delivery.offer(run(LOG, 9, 18))
    assert len(sink.items) == before


def test_a_hole_that_cannot_be_related_is_final_when_it_is_settled() -> None:
    sink = in_fallback()
    sink.delivery.settle()
    assert sink.others[1:] == [Gap(Position(LOG, 10), Position(DIRECT, 0), "failover")]


def test_sources_that_are_known_to_join_leave_no_hole() -> None:
    sink = Sink()
    sink.delivery.begin(Position(LOG, 5))
    sink.delivery.timeline.relate(Position(DIRECT, 0), Position(LOG, 3))
    sink.delivery.continue_with(Position(DIRECT, 0), "failover", fillable=True)
    assert sink.items == []
    sink.delivery.offer(run(DIRECT, 1, 4))
    assert sink.seqs == [(DIRECT, 3, False), (DIRECT, 4, False)]


def test_without_a_log_a_break_is_final_at_once() -> None:
    sink = Sink()
    sink.delivery.begin(Position(DIRECT, 0))
    sink.delivery.offer(run(DIRECT, 1, 2))
    sink.delivery.continue_with(Position(OTHER, 0), "postgres_session_lost", fillable=False)
    sink.delivery.passed(Position(OTHER, 0))
    assert sink.others == [Gap(Position(DIRECT, 2), Position(OTHER, 0), "postgres_session_lost")]
    assert sink.delivery.position == Position(OTHER, 0)


def test_what_is_passed_again_does_not_lead_back() -> None:
    sink = Sink()
    sink.delivery.begin(Position(LOG, 5))
    sink.delivery.passed(Position(LOG, 6))
    sink.delivery.continue_with(Position(OTHER, 0), "postgres_session_lost", fillable=False)
    sink.delivery.passed(Position(OTHER, 0))
    sink.delivery.offer(run(OTHER, 1, 2))
    sink.delivery.passed(Position(LOG, 6))
    assert sink.delivery.position == Position(OTHER, 2)


def test_older_than_something_delivered_is_late_also_when_nothing_else_is_open() -> None:
    sink = Sink()
    sink.delivery.begin(Position(LOG, 0))
    sink.delivery.offer(run(LOG, 1, 2))
    sink.delivery.offer(run(LOG, 5, 6))
    sink.delivery.offer(run(LOG, 3, 7))
    assert sink.seqs[4:] == [(LOG, 3, True), (LOG, 4, True), (LOG, 7, False)]


def test_holes_are_bounded() -> None:
    sink = Sink()
    sink.delivery.begin(Position(1, 0))
    for term in range(2, MAX_HOLES + 12):
        sink.delivery.continue_with(Position(term, 0), "postgres_session_lost", fillable=True)
        sink.delivery.passed(Position(term, 0))
    assert len(sink.delivery.holes) == MAX_HOLES
    final = [item for item in sink.others if isinstance(item, Gap) and not item.pending]
    assert final[0] == Gap(Position(1, 0), Position(2, 0), "postgres_session_lost")
    assert len(final) == 10
