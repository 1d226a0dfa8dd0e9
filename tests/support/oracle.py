"""What a client may see, judged from outside: the same oracle for the simulation and for real processes.

It knows what was committed, in commit order, and what each connected client received, as JSON. Payloads are numbers,
unique in their channel: ``{"n": 17, ...}`` or just ``17``. From `subscribed` on, a client gets exactly what was
committed on its channels: each once, in order but for what is marked late, nothing that is older than its
subscription; and where something is missing, a gap says so at its place, with bounds that enclose all that is missing.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Committed = tuple[str, int]
"""Channel and number of a notification."""

_SHOWN = 6


@dataclass
class View:
    """One client, from its handshake to its end. Counts are of notifications committed, over all channels."""

    name: str
    channels: frozenset[str]
    asked: int
    """Committed for certain when it asked to subscribe."""
    subscribed: int | None = None
    """Committed at most when `subscribed` arrived: all that follow are owed. None: the message never came."""
    messages: list[Message] = field(default_factory=list)
    """All that it received, in order."""
    complete: bool = False
    """Whether it stayed to the end, and everything had time to arrive."""


def violations(committed: Sequence[Committed], views: Iterable[View]) -> list[str]:
    """Every promise that was broken, one line each; none where all is well."""
    views = list(views)
    ids = Ids(committed)
    found = [line for view in views for line in ids.learn(view)]
    found += ids.out_of_order()
    for view in views:
        found += _Judge(committed, ids, view).verdict()
    return found


def gaps(view: View) -> list[Message]:
    """The gaps that a client was told of, pending ones included."""
    return [message for message in view.messages if message["type"] == "gap"]


class Ids:
    """What ids mean, from all that clients saw: an id is one notification, and ids of one term follow the commits."""

    def __init__(self, committed: Sequence[Committed]) -> None:
        self._index = {one: index for index, one in enumerate(committed)}
        self._terms: dict[int, dict[int, int]] = {}
        self._sorted: dict[int, tuple[list[int], list[int]]] = {}

    def index(self, message: Message) -> int | None:
        """Which commit this notification is; None where nobody committed it."""
        payload = message["payload"]
        number = payload["n"] if isinstance(payload, dict) else payload
        return self._index.get((message["channel"], number))

    def learn(self, view: View) -> Iterator[str]:
        """Note what this client saw; says where that contradicts what was seen before."""
        for message in view.messages:
            if message["type"] != "notification" or (index := self.index(message)) is None:
                continue
            term, seq = _position(message["id"])
            known = self._terms.setdefault(term, {}).setdefault(seq, index)
            if known != index:
                yield f"{view.name}: the id {message['id']} is #{index} here and #{known} elsewhere"

    def out_of_order(self) -> list[str]:
        """Terms whose numbers do not follow the commits."""
        return [
            f"the ids of term {term} do not follow the order of the commits"
            for term in self._terms
            if (indexes := self._of(term)[1]) != sorted(set(indexes))
        ]

    def knows_term(self, text: str) -> bool:
        """Whether anything of this id's term was seen."""
        return _position(text)[0] in self._terms

    def newest_until(self, text: str) -> int:
        """The newest commit known to have this id or an older one of its term; -1 where none is known."""
        term, seq = _position(text)
        seqs, indexes = self._of(term)
        at = bisect_right(seqs, seq)
        return indexes[at - 1] if at else -1

    def oldest_from(self, text: str) -> int | None:
        """The oldest commit known to have this id or a newer one of its term; None where none is known."""
        term, seq = _position(text)
        seqs, indexes = self._of(term)
        at = bisect_left(seqs, seq)
        return indexes[at] if at < len(seqs) else None

    def _of(self, term: int) -> tuple[list[int], list[int]]:
        found = self._sorted.get(term)
        if found is None:
            pairs = sorted(self._terms.get(term, {}).items())
            found = self._sorted[term] = ([seq for seq, _ in pairs], [index for _, index in pairs])
        return found


@dataclass(eq=False)
class _Announced:
    """A gap that the client was told of, and how it ended."""

    after: str | None
    before: str | None
    pending: bool
    ended: str = ""
    """"" while pending, "filled" or "final"."""

    def __str__(self) -> str:
        return f"gap({self.after}, {self.before}{', pending' if self.pending else ''})"

    def encloses(self, index: int, ids: Ids) -> bool:
        """Whether the bounds leave room for this commit, as far as the ids are known."""
        return self.begins_before(index, ids) and self.ends_behind(index, ids)

    def has_room(self, ids: Ids) -> bool:
        """Whether the bounds are in order, as far as the ids are known."""
        if self.after is None or self.before is None:
            return True
        oldest = ids.oldest_from(self.before)
        return oldest is None or ids.newest_until(self.after) < oldest

    def begins_before(self, index: int, ids: Ids) -> bool:
        return self.after is None or ids.newest_until(self.after) < index

    def ends_behind(self, index: int, ids: Ids) -> bool:
        if self.before is None:
            return True
        oldest = ids.oldest_from(self.before)
        return oldest is None or oldest > index


@dataclass
class _Hole:
    """What was passed over between two events that came in order, and the gaps that were announced there."""

    missing: set[int]
    gaps: list[_Announced]


class _Judge:
    """Reads one client's messages, one after the other."""

    def __init__(self, committed: Sequence[Committed], ids: Ids, view: View) -> None:
        self._committed = committed
        self._ids = ids
        self._view = view
        self._found: list[str] = []
        self._seen: set[int] = set()
        self._newest = -1
        """The newest commit that came in order."""
        self._owed: int | None = None
        """The first commit that this client must get or be told of."""
        self._start = view.asked
        """The first commit that may come late."""
        self._announced: list[_Announced] = []
        self._since_newest: list[_Announced] = []
        self._holes: list[_Hole] = []

    def verdict(self) -> list[str]:
        view = self._view
        for number, message in enumerate(view.messages):
            match message["type"]:
                case "subscribed":
                    self._subscribed(number, message)
                case "notification":
                    self._event(message)
                case "gap":
                    self._gap(message)
                case "filled":
                    self._filled(message)
                case "position" | "pong":
                    pass
                case other:
                    self._say(f"an unexpected message of type {other}")
        if view.complete:
            self._end()
        for hole in self._holes:
            self._check_hole(hole)
        return self._found

    def _subscribed(self, number: int, message: Message) -> None:
        if number != 0 or self._view.subscribed is None:
            self._say("`subscribed` is not the first message")
            return
        self._owed = self._view.subscribed
        if message["position"] is not None and self._ids.knows_term(message["position"]):
            self._newest = self._ids.newest_until(message["position"])
            self._owed = max(self._owed, self._newest + 1)
            self._start = min(self._start, self._newest + 1)  # behind the commits, where the source lags
        elif message["position"] is not None:
            self._start = 0  # a position that nobody else has seen anything of: how far behind it lies cannot be told

    def _event(self, message: Message) -> None:
        index = self._ids.index(message)
        if index is None:
            self._say(f"{message} was never committed")
            return
        if message["channel"] not in self._view.channels:
            self._say(f"#{index} is on the channel {message['channel']}, which it has not asked for")
        if self._owed is None:
            self._say(f"#{index} came before `subscribed`")
            self._owed = index
        late = message.get("late", False)
        if index in self._seen:
            self._say(f"#{index} came twice, now as {message['id']}{' (late)' if late else ''}")
            return
        self._seen.add(index)
        if late and index < self._start:
            self._say(f"#{index} came late, and is older than the subscription, which begins at #{self._start}")
        if late:
            return  # also where nothing newer has come: then it came late in a gap that a history brought with it
        if index < self._newest:
            self._say(f"#{index} came after #{self._newest}, and is not marked late")
            return
        self._pass_over(index)
        self._newest = index
        self._owed = min(self._owed, index)  # one that was on its way: what follows it is owed, too

    def _pass_over(self, index: int) -> None:
        """The next event in order is this one: what lies between, and has not come, needs a gap right here."""
        first = self._newest + 1 if self._newest >= (self._owed or 0) else self._owed or 0
        missing = self._missing(first, index)
        here = self._since_newest + [gap for gap in self._announced if not gap.ended and gap not in self._since_newest]
        if missing and not here:
            place = f"before #{index}" if index < len(self._committed) else "at the end"
            self._say(f"{_numbers(missing)} missing {place}, and no gap was announced there")
        elif missing:
            self._holes.append(_Hole(missing, here))
        self._since_newest = []

    def _missing(self, first: int, end: int) -> set[int]:
        channels, committed = self._view.channels, self._committed
        return {i for i in range(first, end) if committed[i][0] in channels and i not in self._seen}

    def _gap(self, message: Message) -> None:
        after, before, pending = message["after"], message["before"], message.get("pending", False)
        gap = _Announced(after, before, pending, "" if pending else "final")
        for earlier in self._announced:
            if (earlier.after, earlier.before) != (after, before):
                continue
            if not earlier.ended:
                if pending:
                    self._say(f"{gap} was announced twice")
                earlier.ended = gap.ended
                if earlier not in self._since_newest:
                    self._since_newest.append(earlier)
                return
            if after is not None or before is not None:
                self._say(f"{gap} was announced again after it had ended ({earlier.ended})")
                return
        if not gap.has_room(self._ids):
            self._say(f"{gap} has its bounds the wrong way round")
        self._announced.append(gap)
        self._since_newest.append(gap)

    def _filled(self, message: Message) -> None:
        bounds = message["after"], message["before"]
        for gap in self._announced:
            if (gap.after, gap.before) == bounds and not gap.ended:
                gap.ended = "filled"
                for hole in self._holes:
                    left = {i for i in hole.missing - self._seen if gap.encloses(i, self._ids)}
                    if gap in hole.gaps and left and all(one.ended == "filled" for one in hole.gaps):
                        self._say(f"{gap} is said to be filled, but {_numbers(left)} missing")
                return
        self._say(f"filled{bounds} ends no pending gap")

    def _end(self) -> None:
        if self._owed is None:
            self._say("`subscribed` never came")
            return
        self._pass_over(len(self._committed))
        for gap in self._announced:
            if not gap.ended:
                self._say(f"{gap} never ended")

    def _check_hole(self, hole: _Hole) -> None:
        """What is still missing in the end must lie within gaps that were not filled."""
        missing = hole.missing - self._seen
        if not missing:
            return
        lost = [gap for gap in hole.gaps if gap.ended != "filled"]
        if not lost:
            self._say(f"{_numbers(missing)} missing, and every gap there was filled")
            return
        if not any(gap.begins_before(min(missing), self._ids) for gap in lost) or not any(
            gap.ends_behind(max(missing), self._ids) for gap in lost
        ):
            self._say(f"{_numbers(missing)} missing, but only {', '.join(map(str, lost))} announced there")
        final = [gap for gap in lost if all(gap.encloses(i, self._ids) for i in missing)]
        if len({gap.after for gap in final}) < len(final):
            self._say(f"{_numbers(missing)} missing, and told so more than once: {', '.join(map(str, final))}")

    def _say(self, text: str) -> None:
        self._found.append(f"{self._view.name}: {text}")


def _position(text: str) -> tuple[int, int]:
    term, _, seq = text.partition("~")[0].partition("-")
    return int(term), int(seq)


def _numbers(indexes: Iterable[int]) -> str:
    ordered = sorted(indexes)
    shown = ", ".join(f"#{i}" for i in ordered[:_SHOWN])
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"{shown}{more} {'are' if len(ordered) > 1 else 'is'}"
