"""Clients that go from worker to worker by their cursor, whatever happens: each event once, or a gap says so.

Everything that a worker's feed, a log and a socket can do happens in any order; the commits tell what is owed.
"""

from collections.abc import Sequence
from typing import Any
from unittest import mock

import trio
from hypothesis import example, given, note, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from bridge.core.grants import EVERYTHING
from bridge.core.topics import Subscription
from bridge.hub import Buffers
from bridge.hub.encoding import Protocol
from bridge.hub.talk import Talk
from bridge.telemetry import log
from tests.support.hub_world import CHANNELS, UNLIMITED, Traveller, Worker, World

Step = tuple[str, int, int]

TRAFFIC = ["nothing", "commit", "commit", "commit", "commit_b", "work", "work"]
FEEDS = ["lose_log", "open_session", "lose_session", "join", "join", "stall", "unstall"]
LOSSES = ["break_log", "join_anyway", "restart", "trim"]
MOVES = ["leave", "go", "leave", "go", "wait", "pong", "tick"]
READING = ["stop", "read", "read"]
SLOWLY = [*READING, "trickle", "trickle", "shed"]

BOTH = Subscription(frozenset(CHANNELS))
ONLY_A, ONLY_B = Subscription(frozenset({"a"})), Subscription(frozenset({"b"}))


def scenarios(*names: Sequence[str], least: int = 40) -> st.SearchStrategy[list[Step]]:
    return st.lists(
        st.tuples(
            st.sampled_from([name for some in names for name in some]),
            st.integers(0, 3),
            st.sampled_from([0, 1, 2, 3, 5, 9]),
        ),
        min_size=least,
        max_size=3 * least,
    )


class Scene:
    """Two workers and some travellers."""

    def __init__(
        self,
        nursery: trio.Nursery,
        wanted: Sequence[dict[str | None, Subscription]],
        *,
        history_entries: int,
        client_bytes: int,
        drops: bool,
    ) -> None:
        self.world = World()
        self._nursery = nursery
        self._options = history_entries, client_bytes, drops
        self.workers = [self._make(), self._make()]
        self.restarts = 0
        protocols: list[Protocol] = ["ws", "sse"]
        self.travellers = [
            Traveller(self.world, nursery, wants, protocols[number % 2] if len(wants) == 1 else "ws")
            for number, wants in enumerate(wanted)
        ]
        for worker in self.workers:
            worker.join_log()

    def _make(self) -> Worker:
        history_entries, client_bytes, drops = self._options
        return Worker(self.world, history_entries=history_entries, buffers=Buffers(client_bytes, 1 << 24, drops=drops))

    async def do(self, step: Step) -> None:
        name, who, much = step
        worker, traveller = self.workers[who % 2], self.travellers[who % len(self.travellers)]
        connection = traveller.connection
        match name:
            case "commit":
                self.world.commit(1 + much)
            case "commit_b":
                self.world.commit(1 + much, "b")
            case "work":
                worker.work(much or UNLIMITED)
            case "lose_log":
                worker.lose_log()
            case "open_session":
                worker.open_session()
            case "lose_session":
                worker.lose_session()
            case "join":
                worker.join_log(much or UNLIMITED)
            case "join_anyway" if not self.world.stalled:
                worker.join_log(give_up=True)
            case "stall":
                self.world.stalled = True
            case "unstall":
                self.world.stalled = False
                self.world.write()
            case "break_log":
                self.world.break_log()
            case "trim":
                self.world.trim(1 + 2 * much)
            case "restart":
                self._restart(who % 2)
            case "leave":
                traveller.leave(much)
            case "go":
                traveller.connect(self.workers[much % 2], UNLIMITED if much < 5 else 300 * much)
            case "wait":
                await self._catch_up()
                await trio.sleep(much)
            case "tick":
                worker.hub.tick(after_pause=True)
            case "pong" if connection is not None:
                Talk(connection.worker.hub, connection.client, EVERYTHING, trio.current_time).hear('{"type":"ping"}')
            case "stop" if connection is not None:
                connection.socket.room = 40 * much
            case "read" if connection is not None:
                connection.socket.give_room(200 * much or UNLIMITED)
            case "trickle" if connection is not None:
                connection.socket.give_room(17 * (much + 1))
            case "shed" if connection is not None:
                connection.client.too_slow()
        await wait_all_tasks_blocked()
        for each in self.travellers:
            each.take()
            if each.connection is not None and each.connection.client not in each.connection.worker.hub.members:
                each.leave(0)

    def _restart(self, number: int) -> None:
        for traveller in self.travellers:
            if traveller.connection is not None and traveller.connection.worker is self.workers[number]:
                traveller.leave(0)
        self.workers[number] = self._make()
        self.restarts += 1

    async def _catch_up(self) -> None:
        """Before time passes, every worker gets what there is: none is seconds behind."""
        await self.do(("unstall", 0, 0))
        for worker in self.workers:
            worker.work(UNLIMITED)

    async def come_to_rest(self) -> None:
        """All is well again, everybody is somewhere and reads."""
        await self.do(("unstall", 0, 0))
        for worker in self.workers:
            worker.join_log()
            worker.join_log(give_up=True)
            assert worker.in_log
        for name in ("wait", "wait", "commit", "commit_b", "wait"):
            for traveller in self.travellers:
                traveller.connect(self.workers[0], UNLIMITED)
                assert traveller.connection is not None
                traveller.connection.socket.give_room(UNLIMITED)
            await self._catch_up()
            await self.do((name, 0, 30 if name == "wait" else 0))
        for traveller in self.travellers:
            traveller.take()


def run_scene(steps: Sequence[Step], wanted: Sequence[dict[str | None, Subscription]], **options: Any) -> Scene:
    """The scene when all has come to rest."""
    scenes: list[Scene] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scene = Scene(nursery, wanted, **options)
            scenes.append(scene)
            for step in steps:
                await scene.do(step)
            await scene.come_to_rest()
            for traveller in scene.travellers:
                assert traveller.connection is not None
                assert traveller.connection.scopes == set(), "a task is left"
                traveller.leave(0)
            for worker in scene.workers:
                assert len(worker.hub.members) == 0
                assert worker.hub.members.lacking == {}
                assert worker.hub._waiting == {}
                assert worker.hub.buffers.total_bytes == 0
            nursery.cancel_scope.cancel()

    with (
        mock.patch("trio.lowlevel.wait_writable", lambda socket: socket.wait_writable()),
        mock.patch.object(log, "disabled", True),
    ):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    return scenes[0]


def complaints(scene: Scene) -> list[str]:
    found: list[str] = []
    for number, traveller in enumerate(scene.travellers):
        wrong = [f"{number}: {line}" for line in traveller.complaints()]
        for message in traveller.messages if wrong else ():
            note(f"{number}: {message}")
        found += wrong
    return found


def ended_twice(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The gaps that a client was told the end of more than once."""
    ends = [message for message in messages if message["type"] in ("gap", "filled") and not message.get("pending")]
    bounds = [(end["after"], end["before"]) for end in ends if end.get("reason") != "unknown_position"]
    return [one for one in dict.fromkeys(bounds) if bounds.count(one) > 1]


ROOMY: dict[str, Any] = {"history_entries": 10_000, "client_bytes": 1 << 20, "drops": False}
ONE_EACH: list[dict[str | None, Subscription]] = [{None: BOTH}, {None: ONLY_A}, {None: ONLY_B}, {None: BOTH}]


@given(scenarios(TRAFFIC, FEEDS, MOVES))
@settings(deadline=None)
def test_nothing_is_lost_where_the_log_has_everything(steps: list[Step]) -> None:
    scene = run_scene(steps, ONE_EACH, **ROOMY)
    assert complaints(scene) == []


@given(scenarios(TRAFFIC, FEEDS, ["restart", "leave", "go", "go", "pong", "tick"]))
@settings(deadline=None)
def test_a_process_that_begins_anew_gets_its_past_from_the_log(steps: list[Step]) -> None:
    """But what it cannot relate to its own session in time: so no time passes here until the log is back."""
    scene = run_scene(steps, ONE_EACH, **ROOMY)
    assert complaints(scene) == []
    assert [traveller.final_gaps for traveller in scene.travellers] == [[], [], [], []]


AHEAD_OF_A_NEW_TERM: list[Step] = [
    *(("lose_log", 2, 2), ("open_session", 0, 3), ("break_log", 0, 1), ("join_anyway", 0, 3), ("go", 0, 1)),
    *(("commit", 0, 2), ("commit", 1, 1), ("work", 1, 0), ("leave", 0, 3)),
]
"""A client comes back to a worker that has begun with a new term of the log, and has read nothing of it."""


@given(scenarios(TRAFFIC, FEEDS, LOSSES, MOVES), st.sampled_from([1, 4, 20, 1000]))
@example(AHEAD_OF_A_NEW_TERM, 1000)
@settings(deadline=None)
def test_each_event_comes_once_or_a_gap_says_so(steps: list[Step], history_entries: int) -> None:
    scene = run_scene(steps, ONE_EACH, history_entries=history_entries, client_bytes=1 << 20, drops=False)
    assert complaints(scene) == []


SHED_BEHIND_A_BREAK: list[Step] = [
    *(("commit_b", 3, 0), ("commit", 1, 0), ("stall", 3, 9), ("go", 3, 9), ("break_log", 2, 1), ("trickle", 3, 9)),
    *(("trim", 1, 0), ("commit", 3, 3), ("unstall", 0, 5), ("lose_log", 3, 1), ("join", 1, 5), ("shed", 3, 0)),
]
"""What is held is taken away when something that nothing relates to it was missed already."""

A_GAP_OVERTAKEN: list[Step] = [
    *(("commit", 0, 2), ("go", 3, 2), ("stop", 3, 0), ("work", 0, 5), ("commit", 2, 9), ("wait", 3, 5)),
    *(("stop", 3, 5), ("shed", 3, 3), ("leave", 3, 0)),
]
"""The gap that says what was missed is held when more is missed."""

A_GAP_OPENS_IN_A_REPLAY: list[Step] = [
    *(("lose_log", 3, 1), ("go", 2, 0), ("leave", 2, 9), ("commit", 1, 3), ("go", 2, 3), ("trickle", 2, 0)),
    *(("open_session", 3, 2), ("shed", 2, 1), ("read", 2, 9)),
]
"""The replay that tells of a pending gap is missed."""


A_GAP_OPENS_BEHIND_A_BREAK: list[Step] = [
    *(("go", 2, 9), ("commit_b", 0, 5), ("break_log", 3, 3), ("stop", 2, 9), ("break_log", 3, 0), ("lose_log", 1, 0)),
    *(("join_anyway", 3, 0), ("trickle", 2, 3), ("lose_log", 3, 3), ("open_session", 1, 5), ("read", 2, 2)),
    ("restart", 3, 3),
]
"""Nothing relates the pending gap to where the client stood that has not heard of it."""


@given(
    scenarios(TRAFFIC, FEEDS, LOSSES, MOVES, SLOWLY),
    st.sampled_from([4, 1000]),
    st.sampled_from([300, 1500]),
    st.booleans(),
)
@example(SHED_BEHIND_A_BREAK, 1000, 600, True)
@example(A_GAP_OVERTAKEN, 1000, 300, True)
@example(A_GAP_OPENS_IN_A_REPLAY, 1000, 1500, True)
@example(A_GAP_OPENS_BEHIND_A_BREAK, 1000, 300, True)
@settings(deadline=None)
def test_clients_that_read_slowly(steps: list[Step], history_entries: int, client_bytes: int, drops: bool) -> None:
    scene = run_scene(steps, ONE_EACH, history_entries=history_entries, client_bytes=client_bytes, drops=drops)
    assert complaints(scene) == []
    assert [ended_twice(traveller.messages) for traveller in scene.travellers] == [[], [], [], []]


BURST_INTO_A_FULL_SOCKET: list[Step] = [
    ("commit", 0, 9),
    ("commit", 0, 9),
    ("go", 0, 0),
    ("stop", 0, 0),
    ("work", 0, 0),
]
"""More than the client's buffer holds comes at once, and nothing was in it."""


@given(scenarios(TRAFFIC, FEEDS, MOVES, READING), st.booleans())
@example(BURST_INTO_A_FULL_SOCKET, True)
@settings(deadline=None)
def test_several_subscriptions(steps: list[Step], drops: bool) -> None:
    wanted: list[dict[str | None, Subscription]] = [{None: ONLY_A, "x": ONLY_B}, {"x": ONLY_A, "y": ONLY_B}]
    scene = run_scene(steps, wanted, history_entries=1000, client_bytes=1500, drops=drops)
    assert complaints(scene) == []


OVERLAPPING: list[dict[str | None, Subscription]] = [
    {None: ONLY_A, "x": BOTH},
    {None: BOTH, "x": ONLY_B},
    {"x": BOTH, "y": BOTH},
    {"x": ONLY_A, "y": BOTH, "z": ONLY_B},
]


ONE_GAP_OF_TWO_SUBSCRIPTIONS: list[Step] = [
    *(("lose_log", 1, 0), ("open_session", 1, 0), ("go", 3, 0), ("leave", 3, 0), ("go", 3, 1)),
    *(("join", 1, 0), ("leave", 3, 0)),
]

BROUGHT_ELSEWHERE: list[Step] = [
    *(("commit", 0, 1), ("commit_b", 0, 1), ("lose_log", 0, 0), ("go", 0, 1), ("lose_log", 1, 0)),
    *(("open_session", 0, 0), ("join", 0, 1), ("leave", 0, 0), ("join", 1, 0), ("go", 0, 1)),
    *(("leave", 0, 3), ("go", 0, 0)),
]
"""What one subscription has brought at another worker comes late here, where another subscription wants it too."""


@given(scenarios(TRAFFIC, FEEDS, MOVES))
@example(ONE_GAP_OF_TWO_SUBSCRIPTIONS)
@example(BROUGHT_ELSEWHERE)
@settings(deadline=None)
def test_an_event_comes_once_however_many_subscriptions_want_it(steps: list[Step]) -> None:
    scene = run_scene(steps, OVERLAPPING, **ROOMY)
    assert complaints(scene) == []


A_GAP_BEHIND_A_BREAK: list[Step] = [
    *(("restart", 1, 0), ("open_session", 1, 0), ("break_log", 0, 0), ("commit", 0, 0), ("go", 0, 1), ("wait", 0, 0)),
    *(("lose_session", 1, 0), ("open_session", 1, 0), ("restart", 1, 0)),
]
"""A gap begins at a position that the other worker can relate to what came before a break of the log alone."""

BROUGHT_FROM_A_MARKER_ON: list[Step] = [
    *(("commit", 0, 0), ("break_log", 0, 0), ("go", 0, 0), ("commit", 0, 0), ("work", 1, 0), ("lose_log", 1, 0)),
    *(("open_session", 1, 0), ("restart", 0, 0), ("commit_b", 0, 1), ("wait", 0, 0), ("commit", 0, 1), ("go", 0, 5)),
]
"""What a subscription has brought begins with the marker of a session."""

A_MARKER_TRIMMED_AWAY: list[Step] = [
    *(("go", 0, 0), ("lose_log", 0, 0), ("open_session", 0, 0), ("commit", 0, 1), ("break_log", 0, 0), ("trim", 0, 1)),
    ("work", 0, 0),
]
"""The log has lost what would relate its older term to the session that was heard beside it."""


BETWEEN_SESSIONS: list[Step] = [
    *(("go", 3, 9), ("lose_log", 3, 3), ("trickle", 3, 2), ("open_session", 1, 1), ("commit_b", 0, 9), ("work", 1, 0)),
    *(("leave", 3, 2), ("lose_session", 1, 9), ("open_session", 1, 2), ("go", 3, 1)),
]
"""What two subscriptions want came by a session that nothing relates to what was before and after."""


TOLD_BY_NOBODY: list[Step] = [
    *(("go", 3, 5), ("lose_log", 0, 9), ("open_session", 2, 3), ("leave", 3, 5), ("commit_b", 3, 0), ("wait", 2, 3)),
    *(("go", 3, 2), ("leave", 3, 0)),
]
"""A gap is filled for a subscription that never said that it was pending, and for another one that did."""

TOLD_BY_TWO: list[Step] = [
    *(("go", 3, 2), ("leave", 3, 1), ("lose_log", 1, 0), ("go", 3, 3), ("commit_b", 3, 9), ("open_session", 3, 2)),
    *(("commit", 1, 2), ("work", 1, 5), ("leave", 3, 1)),
]
"""A gap is filled for two subscriptions, one after the other."""


@given(scenarios(TRAFFIC, FEEDS, LOSSES, MOVES, READING), st.sampled_from([600, 1500]))
@example(A_GAP_BEHIND_A_BREAK, 1500)
@example(BETWEEN_SESSIONS, 1500)
@example(A_MARKER_TRIMMED_AWAY, 1500)
@example(BROUGHT_FROM_A_MARKER_ON, 1500)
@example(TOLD_BY_NOBODY, 600)
@example(TOLD_BY_TWO, 1500)
@settings(deadline=None)
def test_an_event_comes_once_also_where_its_replay_was_interrupted(steps: list[Step], client_bytes: int) -> None:
    scene = run_scene(steps, OVERLAPPING, history_entries=1000, client_bytes=client_bytes, drops=False)
    assert complaints(scene) == []


WANTED_BY_THE_NEXT_TOO: list[Step] = [
    *(("commit", 0, 5), ("go", 3, 1), ("lose_log", 1, 0), ("join", 3, 3), ("commit", 0, 9), ("commit_b", 2, 3)),
    *(("leave", 3, 0), ("work", 1, 9), ("lose_log", 1, 3), ("go", 3, 5), ("join", 3, 9), ("commit_b", 3, 5)),
    *(("wait", 0, 0), ("read", 3, 9), ("trickle", 3, 5), ("leave", 3, 1)),
]
"""The replay of one subscription brings what the replay of another one was to bring, and is missed."""


@given(scenarios(TRAFFIC, FEEDS, MOVES, SLOWLY), st.sampled_from([600, 1500]))
@example(WANTED_BY_THE_NEXT_TOO, 1500)
@settings(deadline=None)
def test_several_subscriptions_that_want_the_same_of_a_client_that_reads_slowly(
    steps: list[Step], client_bytes: int
) -> None:
    scene = run_scene(steps, OVERLAPPING, history_entries=1000, client_bytes=client_bytes, drops=True)
    assert complaints(scene) == []
