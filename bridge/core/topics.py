"""Which clients want an event: subscriptions, and an index over them whose cost follows the matches.

Clients with equal subscriptions form a group, so that the work for an event is done once for all of them. The index
maps channel, then the set of compared fields, then their values to groups: a thousand clients that each follow another
match cost one look-up an event, not a thousand comparisons.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from bridge.core.events import Event, fields

Group = TypeVar("Group")

_Names = tuple[str, ...]
_Values = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one client asked for: events of these channels whose payload has all these fields, compared as text."""

    channels: frozenset[str]
    where: tuple[tuple[str, str], ...] = ()
    """Sorted pairs of field and value; empty means every event of the channels."""


class Topics(Generic[Group]):
    """An index from events to the groups that want them. What a group is, is the caller's business."""

    def __init__(self) -> None:
        self._index: dict[str, dict[_Names, dict[_Values, list[Group]]]] = {}

    def add(self, subscription: Subscription, group: Group) -> None:
        """From now on `match` gives `group` for the events of this subscription."""
        names, values = _split(subscription)
        for channel in subscription.channels:
            self._index.setdefault(channel, {}).setdefault(names, {}).setdefault(values, []).append(group)

    def remove(self, subscription: Subscription, group: Group) -> None:
        """Undo `add`. Raises KeyError or ValueError where it was not added."""
        names, values = _split(subscription)
        for channel in subscription.channels:
            by_names = self._index[channel]
            by_values = by_names[names]
            by_values[values].remove(group)
            if not by_values[values]:
                del by_values[values]
            if not by_values:
                del by_names[names]
            if not by_names:
                del self._index[channel]

    def match(self, event: Event) -> list[Group]:
        """Every group that wants this event, once for each time it was added. The payload is parsed only if needed."""
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
                present = fields(event.data)
            found += by_values.get(tuple(map(present.get, names)), ())
        return found


def _split(subscription: Subscription) -> tuple[_Names, _Values]:
    return tuple(name for name, _ in subscription.where), tuple(value for _, value in subscription.where)
