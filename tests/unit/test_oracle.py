"""The oracle sees what it is there to see: every kind of broken promise, and none where all is well."""

from typing import Any

import pytest

from tests.support.oracle import Message, View, gaps, violations

COMMITTED = [("a", n) for n in range(10)]
SUBSCRIBED: Message = {"type": "subscribed", "channels": ["a"], "where": {}, "position": None}


def event(n: int, term: int = 7, **more: Any) -> Message:
    return {"type": "notification", "id": f"{term}-{n + 100}", "channel": "a", "payload": {"n": n}, **more}


def gap(after: int | None, before: int | None, **more: Any) -> Message:
    return {"type": "gap", **bounds(after, before), "reason": "failover", **more}


def filled(after: int | None, before: int | None) -> Message:
    return {"type": "filled", **bounds(after, before)}


def bounds(after: int | None, before: int | None) -> Message:
    return {
        "after": None if after is None else f"7-{after + 100}",
        "before": None if before is None else f"7-{before + 100}",
    }


def events(*numbers: int) -> list[Message]:
    return [event(n) for n in numbers]


def late(n: int) -> Message:
    return event(n, late=True)


def judged(*messages: Message, complete: bool = True, asked: int = 0) -> list[str]:
    view = View("client", frozenset({"a"}), asked, asked, [SUBSCRIBED, *messages], complete)
    return violations(COMMITTED, [view])


FINE: dict[str, list[Message]] = {
    "everything": events(*range(10)),
    "a final gap": [*events(0, 1), gap(1, 4), *events(*range(4, 10))],
    "a gap without bounds": [*events(0, 1), gap(None, None), *events(*range(4, 10))],
    "a gap that is filled": [
        *events(0, 1), gap(1, 4, pending=True), *events(4, 5), late(2), late(3), filled(1, 4), *events(*range(6, 10)),
    ],
    "a gap that is filled in part": [
        *events(0, 1), gap(1, 4, pending=True), *events(4, 5), late(3), gap(1, 4), *events(*range(6, 10)),
    ],
    "what came late in a gap follows it where both come from a history": [
        *events(0, 1), gap(1, 6), late(3), late(4), *events(*range(6, 10)),
    ],
    "what comes while a gap is pending need not be late": [
        *events(0, 1), gap(1, 8, pending=True), *events(3, 4), gap(1, 8), *events(8, 9),
    ],
    "a pending gap that ends at once": [*events(0, 1), gap(1, 8, pending=True), gap(1, 8), *events(8, 9)],
    "a gap at the end": [*events(*range(8)), gap(7, None)],
    "two losses with nothing between": [*events(0, 1), gap(1, 3), gap(3, 5), *events(*range(5, 10))],
}  # fmt: skip

BROKEN: dict[str, list[Message]] = {
    "came twice": events(0, 1, 1, *range(2, 10)),
    "not marked late": events(0, 2, 1, *range(3, 10)),
    "no gap was announced": events(0, 1, *range(3, 10)),
    "#8, #9 are missing": events(*range(8)),
    "never ended": [*events(0, 1), gap(1, 3, pending=True), *events(*range(3, 10))],
    "is said to be filled": [*events(0, 1), gap(1, 3, pending=True), *events(3), filled(1, 3), *events(*range(4, 10))],
    "every gap there was filled": [
        *events(0, 1), gap(1, 3, pending=True), filled(1, 3), *events(*range(3, 10)),
    ],
    "ends no pending gap": [*events(*range(10)), filled(1, 3)],
    "announced again": [*events(0, 1), gap(1, 3), gap(1, 3), *events(*range(3, 10))],
    "wrong way round": [*events(0, 1, 2), gap(2, 1), *events(*range(3, 10))],
    "never committed": events(*range(11)),
}  # fmt: skip


@pytest.mark.parametrize("messages", FINE.values(), ids=FINE)
def test_what_may_be(messages: list[Message]) -> None:
    assert judged(*messages) == []


@pytest.mark.parametrize(("what", "messages"), BROKEN.items(), ids=BROKEN)
def test_what_must_not_be(what: str, messages: list[Message]) -> None:
    found = judged(*messages)
    assert any(what in line for line in found), found


def test_a_client_is_owed_what_is_committed_after_it_subscribed() -> None:
    assert judged(*events(*range(6, 10)), asked=6) == []
    assert judged(*events(*range(5, 10)), asked=6) == []  # it was on its way
    assert judged(*events(*range(7, 10)), asked=6) != []
    assert any("older than the subscription" in line for line in judged(event(6), late(3), *events(7, 8, 9), asked=6))


def test_a_client_that_left_is_owed_no_end() -> None:
    assert judged(*events(0, 1), gap(1, 5, pending=True), *events(5), complete=False) == []
    assert judged(*events(0, 1, 3), complete=False) != []


def test_bounds_are_known_from_what_others_saw() -> None:
    narrow = [SUBSCRIBED, *events(0, 1), gap(1, 3), *events(*range(4, 10))]
    views = [
        View(name, frozenset({"a"}), 0, 0, messages, complete=True)
        for name, messages in (("one", narrow), ("other", [SUBSCRIBED, *events(*range(10))]))
    ]
    (found,) = violations(COMMITTED, views)
    assert "only gap(7-101, 7-103) announced there" in found


def test_an_id_means_one_notification() -> None:
    views = [
        View(name, frozenset({"a"}), 9, 9, [SUBSCRIBED, message], complete=False)
        for name, message in (("one", event(9)), ("other", {**event(8), "id": "7-109"}))
    ]
    assert any("elsewhere" in line for line in violations(COMMITTED, views))


def test_ids_of_one_term_follow_the_commits() -> None:
    view = View("client", frozenset({"a"}), 8, 8, [SUBSCRIBED, event(8), {**event(9), "id": "7-50"}])
    assert any("do not follow" in line for line in violations(COMMITTED, [view]))


def test_gaps_are_counted() -> None:
    view = View("client", frozenset({"a"}), 0, 0, [SUBSCRIBED, gap(1, 3, pending=True), filled(1, 3)])
    assert len(gaps(view)) == 1
