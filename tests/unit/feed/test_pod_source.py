"""A worker is fed by its pod's listener, and by a session of its own only while that is of no use."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import anyio.abc
import pytest
import trio
import trio.testing

from bridge.core.events import Event, Filled, Gap, Heard, Marker, Notification, Past
from bridge.core.position import Position
from bridge.feed.delivery import Delivery, Item
from bridge.feed.direct_source import DirectSource
from bridge.feed.pod_source import PATIENCE_SECONDS, RELATE_SECONDS, PodSource
from bridge.feed.source import FeedState
from bridge.links.openers import OpenSession
from bridge.links.pod import PodLink, open_pod
from bridge.telemetry import Metrics
from tests.support.pod import DIGEST, FakePod, marker

T1, T2, OWN, LOG = 100, 200, 150, 50
METRICS = Metrics()


class OwnSession:
    """A session of the worker itself."""

    proven, suspect, round_trip_seconds = True, False, None

    def __init__(self, term: int) -> None:
        self.term = term
        self.marker = marker(term)
        self.last_proof = trio.current_time()
        self._seq = 0
        self._hear, self._heard = trio.open_memory_channel[Heard](100)

    def hear(self, *payloads: int) -> None:
        for payload in payloads:
            self._put(Notification("a", b"%d" % payload))

    def hear_marker(self, term: int) -> None:
        self._put(marker(term))

    def _put(self, body: Notification | Marker) -> None:
        self._seq += 1
        self._hear.send_nowait(Heard(Position(self.term, self._seq), body))

    def learned(self) -> Sequence[tuple[Position, Position]]:
        return ()

    async def receive(self) -> Sequence[Heard]:
        return [await self._heard.receive()]


class World:
    """A worker, its pod's listener behind a socket, and what clients would get."""

    def __init__(self, path: Path, *, beside_log: bool) -> None:
        self.delivered: list[Item] = []
        self.states: list[FeedState] = []
        self.delivery = Delivery(self.delivered.extend, METRICS)
        self.own: OwnSession | None = None
        self.own_term = OWN
        self.pod = FakePod()
        self.path = path
        direct = DirectSource(cast(OpenSession, self._session), self.delivery, 1.0, METRICS, beside_log=True)
        self.source = PodSource(self._open, DIGEST, self.delivery, direct, beside_log=beside_log)
        self._serves = False
        self._scopes: list[trio.CancelScope] = []

    @property
    def payloads(self) -> list[int]:
        """What was delivered; what came late is negative."""
        events = [item for item in self.delivered if isinstance(item, Event)]
        return [_payload(event) * (-1 if event.late else 1) for event in events]

    @property
    def gaps(self) -> list[Gap | Filled]:
        return [item for item in self.delivered if isinstance(item, Gap | Filled)]

    def serve(self, pod: FakePod | None = None) -> None:
        """The listener's process starts, or starts again as another one."""
        self.pod = self.pod if pod is None else pod
        self._serves = True

    def kill(self) -> None:
        """The listener's process ends."""
        self._serves = False
        for scope in self._scopes:
            scope.cancel()
        self._scopes.clear()

    async def accept(self, stream: anyio.abc.SocketStream) -> None:
        """What the kernel does: without a process it refuses."""
        async with stream:
            if self._serves:
                with trio.CancelScope() as scope:
                    self._scopes.append(scope)
                    await self.pod.outlet.serve_stream(stream)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[PodLink]:
        async with open_pod(self.path) as link:
            yield link

    @asynccontextmanager
    async def _session(self, **_: int) -> AsyncIterator[OwnSession]:
        self.own = OwnSession(self.own_term)
        try:
            yield self.own
        finally:
            self.own = None


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    async with (
        await anyio.create_unix_listener(world.path) as listener,
        trio.open_nursery() as nursery,
        anyio.create_task_group() as tasks,
    ):
        nursery.start_soon(listener.serve, world.accept, tasks)
        nursery.start_soon(world.source.run, world.states.append)
        yield
        tasks.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "listener.sock"


async def until(condition: "object", seconds: float = 30.0) -> None:
    """Wait until this callable is true, in virtual time."""
    assert callable(condition)
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.01)


async def fed(world: World) -> None:
    """The listener's process starts, and the worker is fed by it."""
    world.serve()
    await until(lambda: FeedState("direct") in world.states)


async def own_session(world: World) -> OwnSession:
    """The worker's own session, once it has one."""
    await until(lambda: world.own is not None)
    assert world.own is not None
    return world.own


async def test_it_begins_where_the_session_does_and_follows(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    world = World(path, beside_log=False)
    world.pod.open(T1)
    world.pod.hear(1, 2)
    async with running(world):
        world.serve()
        await until(lambda: world.payloads == [1, 2])
        assert world.states[-1] == FeedState("direct")
        world.pod.hear(3)
        await until(lambda: world.payloads == [1, 2, 3])
        assert world.gaps == [Gap(Position(T1, 0).beginning, Position(T1, 0), "history_trimmed")]
        assert world.source.pod_view.feeding
        assert world.source.view is None
        await trio.sleep(60)
        assert world.own is None
        assert [state.mode for state in world.states] == ["none", "direct"]


async def test_beside_the_log_it_goes_on_behind_what_the_log_brought(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(path, beside_log=True)
    world.pod.open(T1)
    world.pod.hear(1, 2, 3)
    world.pod.timeline.relate(Position(LOG, 10), Position(T1, 0))
    world.delivery.begin(Position(LOG, 12))
    world.delivery.open_beside()
    async with running(world):
        world.serve()
        await until(lambda: world.payloads == [3])
        assert world.gaps == []
        assert list(world.delivery.beside) == [T1]
        world.delivery.joined()
        world.pod.hear(4)
        await trio.sleep(2)
        assert world.payloads == [3], "the log brings it"


async def test_beside_the_log_an_unrelated_tape_begins_at_its_end(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(path, beside_log=True)
    world.pod.open(T1)
    world.pod.hear(1, 2, 3)
    world.delivery.begin(Position(LOG, 12))
    world.delivery.open_beside()
    async with running(world):
        await fed(world)
        world.pod.hear(4)
        await until(lambda: world.payloads == [4])
        world.kill()
        world.pod.hear(5)
        world.serve()
        await until(lambda: world.payloads == [4, 5])
        assert world.gaps == [Gap(Position(LOG, 12), Position(T1, 4), "postgres_session_lost", pending=True)]


async def test_a_short_absence_is_not_noticed(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    world = World(path, beside_log=False)
    world.pod.open(T1)
    async with running(world):
        await fed(world)
        world.delivered.clear()
        world.kill()
        world.pod.hear(1, 2)
        await trio.sleep(PATIENCE_SECONDS - 1.0)
        assert world.states[-1].mode == "none"
        world.serve()
        await until(lambda: world.states[-1] == FeedState("direct"))
        assert world.payloads == [1, 2]
        assert world.own is None
        assert world.gaps == []


async def test_the_own_session_is_the_last_resort_and_its_hole_is_filled(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(path, beside_log=False)
    world.pod.open(T1)
    async with running(world):
        await fed(world)
        world.pod.hear(1)
        await until(lambda: world.payloads == [1])
        world.delivered.clear()
        world.kill()
        killed = trio.current_time()
        world.pod.hear(2)
        own = await own_session(world)
        assert PATIENCE_SECONDS - 0.6 < trio.current_time() - killed < PATIENCE_SECONDS + 0.5
        world.pod.hear_marker(OWN)
        own.hear(3, 4)
        world.pod.hear(3, 4)
        await until(lambda: world.payloads == [3, 4])
        hole = Position(T1, 1), Position(OWN, 0)
        assert world.gaps == [Gap(*hole, "failover", pending=True)]
        assert world.states[-1].mode == "direct"
        assert not world.source.pod_view.feeding
        world.serve()
        await until(lambda: world.own is None)
        assert world.payloads == [3, 4, -2]
        assert world.gaps[1:] == [Filled(*hole)]
        world.pod.hear(5)
        await until(lambda: world.payloads == [3, 4, -2, 5])
        assert world.source.pod_view.feeding


async def test_another_process_of_the_listener_is_a_final_gap(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(path, beside_log=False)
    world.pod.open(T1)
    world.pod.hear(1)
    async with running(world):
        world.serve()
        await until(lambda: world.payloads == [1])
        world.delivered.clear()
        world.kill()
        again = FakePod()
        again.open(T2)
        again.hear(3)
        world.serve(again)
        await until(lambda: world.payloads == [3])
        assert world.gaps == [Gap(Position(T1, 1), Position(T2, 0), "postgres_session_lost")]
        assert world.own is None


async def test_another_process_is_joined_beside_the_own_session_once_both_are_related(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(path, beside_log=False)
    world.pod.open(T1)
    async with running(world):
        await fed(world)
        world.delivered.clear()
        world.kill()
        own = await own_session(world)
        own.hear(1)
        await until(lambda: world.payloads == [1])
        again = FakePod()
        again.open(T2)
        again.hear(2)
        world.serve(again)
        await trio.sleep(1)
        assert world.payloads == [1], "what the listener hears might be what the own session brings"
        own.hear_marker(T2)
        own.hear(2)
        await until(lambda: world.own is None)
        assert world.payloads == [1, 2]
        again.hear(3)
        await until(lambda: world.payloads == [1, 2, 3])
        hole = Position(T1, 0), Position(OWN, 0)
        assert world.gaps == [Gap(*hole, "failover", pending=True), Gap(*hole, "failover")]


async def test_a_tape_that_is_never_related_is_given_up_with_a_gap(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(path, beside_log=False)
    async with running(world):
        (await own_session(world)).hear(1)
        await until(lambda: world.payloads == [1])
        world.pod.open(T2)
        world.pod.hear(2)
        world.pod.listener.proven = False
        world.serve()
        await trio.sleep(2 * RELATE_SECONDS)
        assert world.own is not None, "nothing is better"
        world.pod.listener.proven = True
        began = trio.current_time()
        await until(lambda: world.own is None)
        assert RELATE_SECONDS - 1 < trio.current_time() - began < RELATE_SECONDS + 2
        world.pod.hear(3)
        await until(lambda: world.payloads == [1, 3])
        assert world.gaps[-1] == Gap(Position(OWN, 1), Position(T2, 2), "postgres_session_lost")
        assert world.states[-1] == FeedState("direct")
        await trio.sleep(20)
        assert world.own is None


async def test_what_came_before_an_own_session_began_is_learned_from_the_tape(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(path, beside_log=False)
    world.pod.open(T1)
    world.pod.hear(1, 2)
    async with running(world):
        own = await own_session(world)
        world.pod.hear_marker(OWN)
        own.hear(3)
        world.pod.hear(3)
        await until(lambda: world.payloads == [3])
        world.serve()
        await until(lambda: world.own is None)
        world.pod.hear(4)
        await until(lambda: world.payloads == [3, 4])
        (past,) = [item for item in world.delivered if isinstance(item, Past)]
        assert [_payload(event) for event in past.events] == [1, 2]
        assert past.floor == Position(T1, -1)
        hole = Position(OWN, 0).beginning, Position(OWN, 0)
        assert past.hole == hole
        assert world.gaps == [Gap(*hole, "history_trimmed", pending=True)]


async def test_a_listener_without_a_session_is_waited_for_as_long(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(path, beside_log=False)
    world.pod.open(T1)
    async with running(world):
        await fed(world)
        lost = trio.current_time()
        world.pod.lose()
        await until(lambda: world.states[-1].mode == "none", 0.1)
        assert world.states[-1].reason == "its LISTEN session is lost"
        own = await own_session(world)
        assert PATIENCE_SECONDS - 0.6 < trio.current_time() - lost < PATIENCE_SECONDS + 0.5
        await until(lambda: world.states[-1].mode == "direct")
        own.hear_marker(T2)
        world.pod.open(T2)
        await until(lambda: world.own is None)
        assert world.states[-1] == FeedState("direct")


async def test_a_listener_that_proves_nothing_feeds_until_an_own_session_does(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(path, beside_log=False)
    world.pod.open(T1)
    async with running(world):
        await fed(world)
        begun = len(world.states)
        world.pod.listener.proven = False
        await own_session(world)
        assert {state.mode for state in world.states[begun:]} <= {"direct"}
        world.pod.hear(1)
        await until(lambda: world.payloads == [-1])  # it has not heard the own session's marker: that was before
        assert world.own is not None, "it might not hear what comes next"
        world.pod.hear_marker(OWN)
        world.pod.listener.proven = True
        await until(lambda: world.own is None)
        assert {state.mode for state in world.states[begun:]} <= {"direct"}


async def test_inside_the_log_an_own_session_that_ends_does_not_clear_what_is_beside_the_log(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(path, beside_log=True)
    world.pod.open(T1)
    world.delivery.begin(Position(LOG, 3))
    world.delivery.open_beside()
    async with running(world):
        await fed(world)
        world.pod.hear(1)
        await until(lambda: world.payloads == [1])
        world.kill()
        await own_session(world)
        world.pod.hear_marker(OWN)
        world.serve()
        await until(lambda: world.own is None)
        assert world.delivery.beside_open
        assert list(world.delivery.beside) == [OWN, T1], "the newest one is heard now"
        assert [gap.pending for gap in world.gaps if isinstance(gap, Gap)] == [True, True], "the log settles them"


async def test_a_listener_with_other_channels_is_none(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    world = World(path, beside_log=False)
    world.source = PodSource(world._open, "ffffffff", world.delivery, world.source._direct, beside_log=False)
    world.pod.open(T1)
    world.pod.hear(1)
    async with running(world):
        world.serve()
        await own_session(world)
        assert world.payloads == []
        assert any("other channels" in state.reason for state in world.states)


async def test_the_age_of_what_is_heard_is_its_latency(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    world = World(path, beside_log=False)
    world.pod.open(T1)
    async with running(world):
        await fed(world)
        before = METRICS.latency.quantiles("received_to_delivered").samples
        world.pod.hear(1, at=trio.current_time() - 0.25)
        await until(lambda: world.payloads == [1])
        assert METRICS.latency.quantiles("received_to_delivered").samples == before + 1
        assert METRICS.latency._recent["received_to_delivered"][-1][1] == pytest.approx(0.25, abs=0.01)


def _payload(event: Event) -> int:
    text = event.data.removesuffix(b',"late":true}').removesuffix(b"}")
    return int(text.rpartition(b":")[2])
