"""Going on where a client was: what it lacks after its cursor comes from the history, then it hears what is live.

A cursor says all about a client, so a replay that is interrupted (to wait until the client has read) begins again from
the cursor that it has reached, whatever has changed meanwhile; its last step and going live are one.

A client that hears something already cannot go back: what a further subscription lacks comes late
(`bridge.hub.late`).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from bridge.core import events
from bridge.core.cursor import Cursor, OpenGap, concerning
from bridge.core.events import Gap, GapReason
from bridge.core.history import Bounds
from bridge.core.position import Position
from bridge.hub.client import Chunk, Client, State
from bridge.hub.encoding import Message, encode, end_message, event_message, gap_message
from bridge.hub.lack import Lack
from bridge.hub.late import LateReplay, merged
from bridge.hub.members import Member, Wish
from bridge.hub.missed import tell_lost

if TYPE_CHECKING:
    from bridge.hub.hub import Hub

POLL_SECONDS = 0.1
WAITING_SECONDS = 1.0
"""The same while the hub is not live."""
RELATE_SECONDS = 3.0
"""How long this process may take to hear of what another one has told the client: that one may have noticed a failure
of Redis seconds before (`BRIDGE_HEARTBEAT_TIMEOUT_SECONDS`), and have given positions of a session of its own."""
RECENT_TERM = 600 * 100 << 22
"""Terms of the last ten minutes, by a clock that may have been set: they begin with the time in units of 10 ms, shifted
by 22 bits. An older one that is not known by now never will be."""
BEHIND_SECONDS = 30.0
"""How long this process may be behind another one, whose position it can relate."""
AHEAD = 100_000
"""And by how many positions."""
ROUND_BYTES = 256 * 1024
ROUND_EVENTS = 1000
"""Events that are looked at in one round: a filter may want none of them, and everybody else waits meanwhile."""


def resume(hub: "Hub", client: Client, name: str | None, wish: Wish) -> None:
    """Begin a subscription from the cursor of its wish; at once if all is at hand, else by a task of the client."""
    try:
        wish.cursor = Cursor.parse(wish.asked or "")
    except ValueError:
        Resumption(hub, client, name, wish, None).give_up()
        return
    resumption = Resumption(hub, client, name, wish, wish.cursor)
    if not (resumption.ready and resumption.begin()):
        client.run(resumption.finish)


class Resumption:
    """One subscription on its way from a cursor to what is live."""

    def __init__(self, hub: "Hub", client: Client, name: str | None, wish: Wish, cursor: Cursor | None) -> None:
        self._hub = hub
        self._client = client
        self._name = name
        self._wish = wish
        self._cursor = cursor
        self._begun = False
        self._late: LateReplay | None = None
        """For a client that hears something already."""
        self._since: Position | None = None
        self._goes_back = True
        """Whether nothing was sent of the replay yet."""
        self._round_bytes = min(ROUND_BYTES, hub.buffers.client_bytes // 2)

    @property
    def ready(self) -> bool:
        """Whether this process is live, has come as far, and can place all that the cursor says."""
        history = self._hub.history
        return (
            self._cursor is not None
            and self._placed
            and history.is_sure_of(self._cursor.position)
            and all(history.places(gap) for gap in self._cursor_gaps)
        )

    @property
    def _placed(self) -> bool:
        if not self._hub.live or self._cursor is None:
            return False
        return self._hub.history.knows(self._cursor.position) and not self._ahead

    @property
    def _cursor_gaps(self) -> tuple[OpenGap, ...]:
        return self._cursor.open_gaps if self._cursor is not None else ()

    @property
    def _hopeless(self) -> bool:
        """Whether waiting will not make it ready: an old term, or a position far beyond everything."""
        here = self._hub.position
        if here is None or self._cursor is None:
            return True
        if self._placed:
            return False
        position = self._cursor.position
        if self._hub.history.knows(position):
            return self._ahead > AHEAD
        return position.term < here.term - RECENT_TERM

    @property
    def _ahead(self) -> int:
        """By how many positions the cursor is ahead of all that was delivered here, as far as both can be related."""
        if self._cursor is None:
            return 0
        position, here = self._cursor.position, self._hub.position
        began = self._hub.timeline.convert(here, position.term) if here is not None else None
        come = [one.seq for one in (began, self._hub.newest(position.term)) if one is not None]
        return max(0, position.seq - max(come)) if come else 0

    @property
    def _over(self) -> bool:
        """Whether the client has gone, or wants something else by this name."""
        member = self._hub.members.find(self._client)
        if self._client.state is not State.OPEN or member is None:
            return True
        return self._wish not in (member.awaited.get(self._name), self._live_wish(member))

    def _live_wish(self, member: Member) -> Wish | None:
        heard = member.heard.get(self._name)
        return heard.wish if heard is not None else None

    async def finish(self) -> None:
        """Wait until it is ready, a bounded time, and go round by round until it is live."""
        waited_seconds = 0.0
        while not (self._begun or self.ready):
            if self._over:
                return
            if self._hub.live:
                too_long = waited_seconds > (BEHIND_SECONDS if self._ahead else RELATE_SECONDS)
                if too_long and self._placed:
                    break
                if too_long or self._hopeless:
                    self.give_up()
                    return
                waited_seconds += POLL_SECONDS
            await anyio.sleep(POLL_SECONDS if self._hub.live else WAITING_SECONDS)
        if self._over or (not self._begun and self.begin()):
            return
        while not self._over:
            await self._client.flushed()
            async with self._hub.replay_turn:
                await anyio.lowlevel.checkpoint()
                if self._over or self._go_on():
                    return

    def give_up(self) -> None:
        """The cursor means nothing here: say so, and begin with what is live."""
        hub, client, cursor = self._hub, self._client, self._cursor
        lacks = hub.members.lacking.get(client, ())
        hears = bool(hub.members.get(client).heard)
        # Who loses the gap that follows must not go on from behind it.
        told = hub.fanout.cursor_of(lacks) if hears else cursor
        hub.greet(client, self._name, self._wish, told, anew=hears)
        hub.join(client, self._name, (), hub.position)
        here = hub.fanout.cursor_of(lacks)
        if here is None:
            return
        lost = cursor.open_gaps if cursor is not None else ()
        after = cursor.position if cursor is not None and not self._ahead else None
        last = Gap(after, here.position.plus(1), "unknown_position")
        base = Cursor(cursor.position) if cursor is not None and not hears else here
        self._wish.ended.update((gap.bounds, "unknown_position") for gap in lost)
        tell_lost(hub, client, lost, last, base, here)

    def begin(self) -> bool:
        """Say `subscribed` and replay as much as may be sent at once; True if that was all."""
        hub, cursor = self._hub, self._cursor
        if cursor is None:
            return True
        self._begun = True
        gaps = tuple(concerning(cursor.open_gaps, self._name))
        self._wish.cursor = Cursor(cursor.position, gaps)
        self._wish.gaps = frozenset(gap.bounds for gap in gaps)
        self._since = cursor.position
        here: Cursor | None = self._wish.cursor
        if hub.members.get(self._client).heard:
            self._late = LateReplay(hub, self._client, self._name, self._wish, self._round_bytes, ROUND_EVENTS)
            self._late.join(self._wish.cursor)
            here = hub.cursor(self._client)  # that of the connection, which says what is to come late
        hub.greet(self._client, self._name, self._wish, here)
        return self._go_on()

    def _go_on(self) -> bool:
        cursor = self._wish.cursor
        if self._late is not None:
            return self._late.go_on()
        return cursor is None or self._catch_up(cursor)

    def _catch_up(self, cursor: Cursor) -> bool:
        """One round of the replay in order; True if the client is live after it."""
        if not self._hub.history.knows(cursor.position):
            self._skip(cursor)
            return True
        begun = cursor
        frames: list[bytes] = []
        others: list[Message] = []
        size = 0
        ties: dict[Bounds, frozenset[Bounds]] = {}
        for looked, (message, here) in enumerate(self._missing(cursor, ties), 1):
            self._wish.cursor = cursor = here
            if message is not None:
                frames.append(encode(self._client.protocol, message))
                if message.kind != "notification":
                    others.append(message)
                size += len(frames[-1])
            if size > self._round_bytes or looked >= ROUND_EVENTS:
                break
        else:
            self._send(frames, others, begun, cursor)
            lacks = tuple(Lack(gap, set(ties[gap.bounds])) for gap in cursor.open_gaps)
            self._hub.join(self._client, self._name, lacks, self._since)
            return True
        self._send(frames, others, begun, cursor)
        return False

    def _skip(self, cursor: Cursor) -> None:
        """What follows has gone from the history while the client read what came before: say so, and go live."""
        hub = self._hub
        hub.join(self._client, self._name, (), self._since)
        here = hub.cursor(self._client)
        if here is None:
            return
        last = Gap(cursor.position, here.position.plus(1), "history_trimmed")
        self._wish.ended.update((gap.bounds, "failover") for gap in cursor.open_gaps)
        tell_lost(hub, self._client, cursor.open_gaps, last, Cursor(cursor.position), here)

    def _missing(
        self, cursor: Cursor, ties: dict[Bounds, frozenset[Bounds]]
    ) -> Iterator[tuple[Message | None, Cursor]]:
        """What the client lacks, and its cursor after each; `ties` gets what its open gaps are tied to."""
        history, wants = self._hub.history, self._wish.subscription.matches
        position, gaps = cursor.position, list(cursor.open_gaps)

        def here() -> Cursor:
            return Cursor(position, tuple(gaps))

        insides = [history.inside(gap) for gap in gaps]
        for event, inside in merged(insides):
            for at, begins in inside.items():
                gaps[at] = gaps[at].advanced(event.position, self._hub.timeline, begins=begins)
            new = wants(event) and not any(gaps[at].was_had(event, self._hub.timeline) for at in inside)
            yield (event_message(events.late(event, None), here()) if new else None), here()
        for gap, rest in list(zip(gaps, insides, strict=True)):
            if rest.rest == "pending":
                ties[gap.bounds] = rest.ties
                if gap.silent:
                    gaps[gaps.index(gap)] = replace(gap, silent=False)
                    yield gap_message(Gap(gap.after, gap.before, "failover", pending=True), here()), here()
                continue
            gaps.remove(gap)
            lost: GapReason | None = None if rest.rest == "filled" else "failover"
            self._wish.ended[gap.bounds] = lost
            silent = gap.silent and lost is None
            yield (None if silent else end_message(Lack(gap, set(), lost), here())), here()
        latest: Bounds | None = None
        for item in history.after(position):
            if isinstance(item, Gap):
                position = item.passed or position
                latest = (item.after, item.before)
                if item.pending and item.after is not None and item.before is not None:
                    gaps.append(OpenGap(item.after, item.before))
                    ties[gaps[-1].bounds] = self._hub.gaps.pending_before(item.before)
                yield gap_message(item, here()), here()
                continue
            if not item.late:
                position = item.position
            elif gaps and latest == gaps[-1].bounds:
                gaps[-1] = gaps[-1].advanced(item.position, self._hub.timeline)
            yield (event_message(item, here()) if wants(item) else None), here()

    def _send(self, frames: list[bytes], others: list[Message], before: Cursor, after: Cursor) -> None:
        """Messages between these cursors; those of `others` among them are no events."""
        if frames:
            known = {gap.bounds for gap in before.open_gaps}
            opened = [gap for gap in after.open_gaps if gap.bounds not in known]
            said = (*(gap for gap in before.open_gaps if gap not in after.open_gaps), *opened)
            chunk = Chunk(b"".join(frames), before.position, said, opens=len(opened), goes_back=self._goes_back)
            self._goes_back = False
            self._hub.fanout.count_replay(len(frames) - len(others), others, chunk.size)
            self._client.write(chunk)
