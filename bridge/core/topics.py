"""Which clients want an event: subscriptions, and an index over them whose cost follows the matches.

Clients that want the same form a group, so that the work for an event is done once for all of them. The index maps
channel, then the set of compared fields, then their values to groups: a thousand clients that each follow another
match cost one look-up an event, not a thousand comparisons. A field that may have any of several values is entered
once for each, and several such fields once for each combination.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Generic, TypeVar

from bridge.core.events import Event, Published
from bridge.core.events import fields as payload_fields

MAX_FIELDS = 16
"""Compared fields of one subscription."""
MAX_ALTERNATIVES = 256
"""Combinations of the values of one subscription: so many entries it has in the index, for each of its channels."""

Where = tuple[tuple[str, tuple[str, ...]], ...]
"""Fields in order, each once, with the values that it may have: at least one, in order, each once."""

Group = TypeVar("Group")

_Names = tuple[str, ...]
_Values = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one client asked for: events of these channels whose payload has all these fields, compared as text."""

    channels: frozenset[str]
    where: Where = ()
    """Empty means every event of the channels."""

    def matches(self, event: Event | Published, fields: Mapping[str, str] | None = None) -> bool:
        """Whether the event is wanted. `fields` are those of its payload, where the caller knows them already."""
        if event.channel not in self.channels:
            return False
        if not self.where:
            return True
        present = payload_fields(event.data) if fields is None else fields
        return all(present.get(name) in values for name, values in self.where)


def alternatives(where: Where) -> int:
    """How many combinations of values there are."""
    return prod(len(values) for _, values in where)


class Topics(Generic[Group]):
    """An index from events to the groups that want them. What a group is, is the caller's business, but hashable.

    A group may be added for several subscriptions.
    """

    def __init__(self) -> None:
        self._index: dict[str, dict[_Names, dict[_Values, dict[Group, int]]]] = {}
        """In the end how often each group was added there, by equal subscriptions."""
        self._added: dict[Group, int] = {}
        self._repeated = 0
        """Groups with more than one subscription. Only they can be found twice: one event has one value a field."""

    def add(self, subscription: Subscription, group: Group) -> None:
        """From now on `match` gives `group` for the events of this subscription."""
        for channel, names, values in _entries(subscription):
            groups = self._index.setdefault(channel, {}).setdefault(names, {}).setdefault(values, {})
            groups[group] = groups.get(group, 0) + 1
        added = self._added[group] = self._added.get(group, 0) + 1
        self._repeated += added == 2

    def remove(self, subscription: Subscription, group: Group) -> None:
        """Undo `add`. Raises KeyError where it was not added."""
        added = self._added[group] - 1
        for channel, names, values in _entries(subscription):
            by_names = self._index[channel]
            by_values = by_names[names]
            groups = by_values[values]
            groups[group] -= 1
            if not groups[group]:
                del groups[group]
            if not groups:
                del by_values[values]
            if not by_values:
                del by_names[names]
            if not by_names:
                del self._index[channel]
        if added:
            self._added[group] = added
        else:
            del self._added[group]
        self._repeated -= added == 1

    def match(self, event: Event | Published) -> list[Group]:
        """Every group that wants this event, each once. The payload is parsed only if needed."""
        by_names = self._index.get(event.channel)
        if by_names is None:
            return []
        found: list[Group] = []
        present: dict[str, str] | None = None
        for names, by_values in by_names.items():
            if not names:
                found += by_values[()]
                continue
            if present is None:
                present = payload_fields(event.data)
            found += by_values.get(tuple(map(present.get, names)), ())
        return list(dict.fromkeys(found)) if self._repeated and len(found) > 1 else found

    def match_all(self, events: Sequence[Event]) -> dict[Group, Sequence[int]]:
        """Every group that wants any of these events, with the indexes of those that it wants, in order."""
        if len(events) == 1:
            return dict.fromkeys(self.match(events[0]), (0,))
        by_names = self._index.get(events[0].channel, {}) if len({event.channel for event in events}) == 1 else None
        if by_names is not None and by_names.keys() <= {()}:  # nobody compares fields: each group wants all of them
            return dict.fromkeys(by_names[()][()], range(len(events))) if by_names else {}
        found: dict[Group, list[int]] = {}
        for index, event in enumerate(events):
            for group in self.match(event):
                wanted = found.get(group)
                if wanted is None:
                    found[group] = [index]
                else:
                    wanted.append(index)
        return {**found}


def _entries(subscription: Subscription) -> Iterator[tuple[str, _Names, _Values]]:
    names = tuple(name for name, _ in subscription.where)
    combinations = list(product(*(values for _, values in subscription.where)))
    for channel in subscription.channels:
        for values in combinations:
            yield channel, names, values
