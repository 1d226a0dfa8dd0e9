"""Positions of notifications, and how the positions of different LISTEN sessions are compared.

PostgreSQL gives a notification no id, but every session of a database hears the same notifications in the same order.
So a session counts from its own marker: position ``(term, seq)`` is the seq-th notification after the marker of the
session that calls itself *term*. When session *a* hears the marker of session *b* as its seq *j*, then ``(b, k)`` and
``(a, j + k)`` are the same notification for every k. A `Timeline` collects such relations and converts.
"""

import enum
import re
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from typing import NamedTuple, Self

NEWEST_TERMS = 10_000
"""Terms that a timeline remembers beside the pinned ones: weeks of sessions, in about 2 MB."""

_POSITION = re.compile(r"([1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})")
_LIMIT = 2**63


class Position(NamedTuple):
    """The seq-th counted notification after the marker of session `term`; negative seqs lie before that marker.

    Positions of one term are ordered. Positions of different terms say nothing about each other without a `Timeline`.
    """

    term: int
    seq: int

    def __str__(self) -> str:
        return f"{self.term}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The position written as ``term-seq``, the form of a Redis stream id. Raises ValueError for anything else."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise ValueError(f"not a position: {text!r}")
        term, seq = int(match[1]), int(match[2])
        if term >= _LIMIT or seq >= _LIMIT:
            raise ValueError(f"not a position: {text!r}")
        return cls(term, seq)

    @property
    def beginning(self) -> "Position":
        """Before everything that is related to it."""
        return Position(self.term, -_LIMIT)

    def plus(self, count: int) -> "Position":
        """The position `count` notifications later (earlier, if negative)."""
        return Position(self.term, self.seq + count)


_new_position = partial(tuple.__new__, Position)


def positions_from(first: Position, count: int) -> Iterator[Position]:
    """`count` positions of one term, `first` and those that follow it."""
    return map(_new_position, zip(repeat(first.term), range(first.seq, first.seq + count)))


class Relation(enum.Enum):
    """What `Timeline.relate` made of a statement."""

    NEW = "new"
    KNOWN = "known"
    CONTRADICTION = "contradiction"


class Timeline:
    """The relations between terms, as a weighted union-find whose roots are the newest term of their component.

    ``_parent[t] == (p, d)`` says that ``(t, k)`` and ``(p, k + d)`` are the same notification. Anybody may NOTIFY, so
    statements are not trusted: one that contradicts what is known is refused and changes nothing. Memory is bounded:
    the oldest terms are forgotten, but for the `pinned` ones (the log's term, those of open sessions) and the roots
    they are measured by. A forgotten term is an unknown one.
    """

    def __init__(self, newest_terms: int = NEWEST_TERMS) -> None:
        self.pinned: set[int] = set()
        self.version = 0
        """Grows with every change, so that what is built upon the roots can notice."""
        self._newest_terms = newest_terms
        self._parent: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._parent)

    def __contains__(self, term: int) -> bool:
        return term in self._parent

    def add(self, term: int) -> None:
        """Remember a term of which nothing else is known yet."""
        if term not in self._parent:
            self._parent[term] = (term, 0)
            self._forget_oldest()

    def relate(self, one: Position, other: Position) -> Relation:
        """Learn that both positions are the same notification."""
        self.add(one.term)
        self.add(other.term)
        a, b = self.root(one), self.root(other)
        if a.term == b.term:
            return Relation.KNOWN if a.seq == b.seq else Relation.CONTRADICTION
        older, newer = (a, b) if a.term < b.term else (b, a)
        self._parent[older.term] = (newer.term, newer.seq - older.seq)
        self.version += 1
        return Relation.NEW

    def root(self, position: Position) -> Position:
        """The same notification in the numbering of the newest term it is related to."""
        term, seq = position
        known = self._parent.get(term)
        if known is None or known[0] == term:
            return position
        parent, shift = known
        path = [term]
        grand, more = self._parent[parent]
        while grand != parent:
            path.append(parent)
            parent, shift = grand, shift + more
            grand, more = self._parent[parent]
        total = shift
        for step in path[:-1]:  # path compression: everyone on the way now points at the root
            _, own = self._parent[step]
            self._parent[step] = (parent, shift)
            shift -= own
        return Position(parent, seq + total)

    def convert(self, position: Position, term: int) -> Position | None:
        """The same notification in the numbering of `term`, or None where the two are not related."""
        if position.term == term:
            return position
        here, there = self.root(position), self.root(Position(term, 0))
        if here.term != there.term:
            return None
        return Position(term, here.seq - there.seq)

    def relations(self) -> Iterator[tuple[Position, Position]]:
        """All that is known, as pairs of equal positions; feeding them to `relate` builds the same timeline."""
        for term in list(self._parent):
            root = self.root(Position(term, 0))
            if root.term != term:
                yield Position(term, 0), root

    def _forget_oldest(self) -> None:
        slack = max(1, self._newest_terms // 10)  # so that the work is done once in many additions
        if len(self._parent) <= self._newest_terms + slack + 2 * len(self.pinned):
            return
        newest = sorted(self._parent)[-self._newest_terms :]
        keep = set(newest) | (self.pinned & self._parent.keys())
        roots = {term: self.root(Position(term, 0)) for term in keep}
        self._parent = {term: (root.term, root.seq) for term, root in roots.items()}
        for root in roots.values():
            self._parent[root.term] = (root.term, 0)
        self.version += 1
