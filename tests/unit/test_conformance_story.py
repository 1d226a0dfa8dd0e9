"""The judge of the conformance suite: it finds what is missing, doubled, disordered or left open, and nothing else."""

from typing import Any

import pytest

from conformance.lib.story import Story, problems


def note(number: int, late: bool = False) -> dict[str, Any]:
    message: dict[str, Any] = {"type": "notification", "id": f"1-{number}", "payload": {"n": number}}
    return message | ({"late": True} if late else {})


def gap(after: int, before: int, pending: bool = False) -> dict[str, Any]:
    message: dict[str, Any] = {"type": "gap", "after": f"1-{after}", "before": f"1-{before}", "reason": "failover"}
    return message | ({"pending": True} if pending else {})


def filled(after: int, before: int) -> dict[str, Any]:
    return {"type": "filled", "after": f"1-{after}", "before": f"1-{before}"}


@pytest.mark.parametrize(
    "story",
    [
        [note(1), note(2), note(3), note(4)],
        [note(1), gap(1, 4), note(4)],
        [note(1), gap(1, 3, pending=True), note(3), note(2, late=True), filled(1, 3), note(4)],
        [note(1), gap(1, 3, pending=True), note(3), note(4), gap(1, 3)],
        [gap(0, 5)],
    ],
)
def test_what_was_promised(story: list[dict[str, Any]]) -> None:
    assert problems(Story(story), 4) == []


@pytest.mark.parametrize(
    ("story", "problem"),
    [
        ([note(1), note(2), note(4)], "3 is missing"),
        ([note(1), note(2), note(3)], "4 is missing"),
        ([note(1), note(2), note(2), note(3), note(4)], "2 came 2 times"),
        ([note(1), note(3), note(2), note(4)], "2 came after 3"),
        ([note(1), gap(1, 2), note(2), note(4)], "3 is missing"),
        ([note(1), gap(1, 3, pending=True), note(3), filled(1, 3), note(4)], "2 is missing"),
        ([note(1), gap(1, 3, pending=True), note(3), note(2, late=True), note(4)], "has not ended"),
        ([note(1), note(2), note(-3), note(3), note(4)], "rolled back"),
    ],
)
def test_what_was_not(story: list[dict[str, Any]], problem: str) -> None:
    assert any(problem in found for found in problems(Story(story), 4))
