"""The listener's side of the pod link, asked over a real socket."""

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import trio
import trio.testing

from bridge.core.pod_wire import (
    MAX_ANSWER_ENTRIES,
    VERSION,
    Answer,
    Frames,
    Hello,
    Look,
    Pull,
    Relation,
    Segment,
    View,
    frame,
)
from bridge.core.position import Position
from bridge.errors import PodLost
from bridge.links.pod import open_pod
from bridge.relay.outlet import KEPT_LINES, MAX_READERS, SILENT_TICKS, TICK_SECONDS
from tests.support.pod import DIGEST, FakePod

TERM = 7 << 22


@asynccontextmanager
async def serving(pod: FakePod, path: Path) -> AsyncIterator[Path]:
    async with trio.open_nursery() as nursery:
        await nursery.start(pod.outlet.serve, path)
        yield path
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "listener.sock"


def payloads(answer: Answer) -> list[int]:
    return [int(entry.event.data.rpartition(b":")[2][:-1]) for entry in answer.entries() if entry.event is not None]


async def test_it_says_who_it_is_and_what_it_holds(path: Path) -> None:
    pod = FakePod()
    pod.open(TERM)
    pod.hear(1, 2)
    pod.hear_marker(TERM + 1)
    async with serving(pod, path), open_pod(path) as link:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (link.hello.version, link.hello.digest) == (VERSION, DIGEST)
        view = await link.look()
        assert view.session == "proven"
        assert view.segments == (Segment(TERM, 0, 0, 4),)
        assert view.relations == (Relation(TERM, TERM + 1, -3),)
        assert (await link.look()).relations == ()
