"""Where a worker begins on a tape, and what it learns of what came before."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.events import Notification, Past, entry_json, read_entry
from bridge.core.pod_wire import Segment, View
from bridge.core.position import Position
from bridge.feed.delivery import Delivery, Item
from bridge.feed.pod_place import Earlier, Place, first_place
from bridge.telemetry import Metrics

METRICS = Metrics()
VIEW = View("proven", (), (Segment(10, 40, 100, 120), Segment(20, 0, 120, 130)), 130)


def delivery() -> Delivery:
    return Delivery(lambda _: None, METRICS)


def test_where_nothing_was_delivered_the_newest_session_begins() -> None:
    assert first_place("n", VIEW, delivery()) == Place("n", 120, None)


def test_an_empty_tape_is_waited_for() -> None:
    assert first_place("n", View("lost", (), (), 7), delivery()) == Place("n", 7, None)


def test_behind_what_was_delivered() -> None:
    some = delivery()
    some.begin(Position(10, 49))
    assert first_place("n", VIEW, some) == Place("n", 110, Position(10, 49))
    some.begin(Position(10, 99))
    assert first_place("n", VIEW, some) == Place("n", 120, Position(10, 59)), "it is behind what was delivered"
    some.timeline.relate(Position(30, 3), Position(20, 5))
    some.begin(Position(30, 3))
    assert first_place("n", VIEW, some) == Place("n", 126, Position(20, 5))
    some.begin(Position(10, 5))
    assert first_place("n", VIEW, some) == Place("n", 100, None), "it was trimmed"


def test_what_is_not_related_has_no_place() -> None:
    some = delivery()
    some.begin(Position(5, 1))
    assert first_place("n", VIEW, some) is None


def test_at_the_oldest_hole_that_the_session_can_fill() -> None:
    some = delivery()
    some.begin(Position(20, 2))
    some.timeline.relate(Position(30, 0), Position(20, 6))
    some.continue_with(Position(30, 0), "failover", fillable=True)
    some.passed(Position(30, 0))
    assert first_place("n", VIEW, some) == Place("n", 123, Position(20, 2))


@given(st.integers(0, 12), st.integers(1, 12), st.lists(st.integers(1, 5)))
def test_earlier_events_are_those_between_the_first_on_the_tape_and_the_beginning(
    first: int, began: int, sizes: list[int]
) -> None:
    found: list[Item] = []
    some = Delivery(found.extend, METRICS)
    some.timeline.relate(Position(30, 0), Position(20, began))
    some.continue_with(Position(30, 0), "failover", fillable=True)
    found.clear()
    earlier = Earlier(some)
    seq = first
    for size in [*sizes, 20]:
        lines = [entry_json(Position(20, seq + offset), Notification("a", b"1")) for offset in range(size)]
        earlier.take([read_entry(line) for line in lines])
        seq += size
    if first >= began:
        assert found == [], "the tape holds nothing of it"
        return
    (past,) = found
    assert isinstance(past, Past)
    assert past.floor == Position(20, first - 1)
    assert [event.position.seq for event in past.events] == list(range(first, began))


def test_earlier_events_behind_a_break_begin_anew() -> None:
    found: list[Item] = []
    some = Delivery(found.extend, METRICS)
    some.timeline.relate(Position(30, 0), Position(20, 9))
    some.continue_with(Position(30, 0), "failover", fillable=True)
    found.clear()
    earlier = Earlier(some)
    for seqs in ((1, 2, 3), (6, 7), (8, 9)):
        earlier.take([read_entry(entry_json(Position(20, seq), Notification("a", b"1"))) for seq in seqs])
    (past,) = found
    assert isinstance(past, Past)
    assert past.floor == Position(20, 5)
    assert [event.position.seq for event in past.events] == [6, 7, 8]
