"""Who gets a place, and who must wait or leave, in virtual time."""

import logging
import resource
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from bridge.server.limits import ALWAYS_AN_ADDRESS, GRACE_SECONDS, MAX_VISITORS, Lobby, Places, prepare_descriptors


class Peer:
    """A connection, and whether it was ended."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)

    @property
    def ended(self) -> bool:
        try:
            return self.theirs.recv(1) == b""
        except BlockingIOError:
            return False


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made = [Peer() for _ in range(8)]
    yield made
    for peer in made:
        peer.ours.close()
        peer.theirs.close()


async def test_a_crowd_gets_its_moment_and_then_the_first_one_makes_room(
    peers: list[Peer], autojump_clock: trio.testing.MockClock
) -> None:
    lobby = Lobby(capacity=3)
    for peer in peers[:3]:
        await lobby.room()
        assert lobby.enter(peer.ours, None)
        await trio.sleep(0.1)
    started = trio.current_time()
    await lobby.room()
    assert trio.current_time() == pytest.approx(started + GRACE_SECONDS - 0.3)
    assert [peer.ended for peer in peers[:3]] == [True, False, False]
    assert lobby.count == 2


async def test_who_leaves_makes_room_at_once(peers: list[Peer], autojump_clock: trio.testing.MockClock) -> None:
    lobby = Lobby(capacity=1)
    visitor = lobby.enter(peers[0].ours, None)
    assert visitor is not None

    async def leave() -> None:
        await trio.sleep(0.5)
        lobby.leave(visitor)
        lobby.leave(visitor)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await lobby.room()
    assert trio.current_time() == 0.5
    assert not peers[0].ended
    assert lobby.count == 0


async def test_who_was_answered_goes_to_the_end_of_the_line(
    peers: list[Peer], autojump_clock: trio.testing.MockClock
) -> None:
    lobby = Lobby(capacity=2)
    first, _ = lobby.enter(peers[0].ours, None), lobby.enter(peers[1].ours, None)
    assert first is not None
    await trio.sleep(5)
    lobby.answered(first)
    await lobby.room()
    assert [peer.ended for peer in peers[:2]] == [False, True]
    lobby.leave(first)
    lobby.answered(first)
    assert lobby.count == 0, "who has left does not come back by an answer"


async def test_one_address_gets_its_part_of_the_lobby(peers: list[Peer]) -> None:
    lobby = Lobby(capacity=8)
    first, second = (lobby.enter(peer.ours, "1.2.3.4") for peer in peers[:2])
    assert first is not None
    assert second is not None
    assert lobby.enter(peers[2].ours, "1.2.3.4") is None
    assert lobby.enter(peers[2].ours, "1.2.3.5") is not None
    assert lobby.enter(peers[3].ours, None) is not None
    lobby.leave(first)
    assert lobby.enter(peers[4].ours, "1.2.3.4") is not None


async def test_places_in_all_and_for_one_address(caplog: pytest.LogCaptureFixture) -> None:
    places = Places(4 * ALWAYS_AN_ADDRESS + 8)
    assert places.an_address == ALWAYS_AN_ADDRESS + 2
    for _ in range(places.an_address):
        places.take("1.2.3.4")
    assert places.enough("1.2.3.4")
    assert places.enough("1.2.3.4")
    assert not places.enough("1.2.3.5")
    assert not places.enough(None)
    assert [record.levelno for record in caplog.records] == [logging.WARNING], "said once"
    assert "1.2.3.4 has 102 clients" in caplog.text
    assert "BRIDGE_TRUSTED_PROXIES" in caplog.text
    for _ in range(places.an_address):
        places.release("1.2.3.4")
    assert not places.enough("1.2.3.4")
    assert (places.taken, places._sites) == (0, {})


async def test_few_places_are_for_any_address() -> None:
    assert Places(2).an_address == ALWAYS_AN_ADDRESS
    places = Places(1)
    places.take(None)
    assert places.full
    places.release(None)
    assert not places.full


def test_the_limit_of_open_files_is_raised_and_a_low_one_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [(1024, 1024)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[0])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: now.__setitem__(0, both))
    visitors = prepare_descriptors(10_000, a_connection=1)
    assert visitors == (1024 - 128) // 8
    assert len(caplog.records) == 1
    assert "BRIDGE_MAX_CLIENTS is 10000, but 1024 open files are enough for 784" in caplog.text
    caplog.clear()
    now[0] = (1024, 50_000)
    assert prepare_descriptors(10_000, a_connection=3) == MAX_VISITORS
    assert now[0] == (50_000, 50_000)
    now[0] = (1024, resource.RLIM_INFINITY)
    assert prepare_descriptors(10**7, a_connection=3) == MAX_VISITORS
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_a_limit_that_cannot_be_raised_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(what: int, both: tuple[int, int]) -> None:
        raise PermissionError("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 100_000))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert prepare_descriptors(100, a_connection=1) == 16
    assert "enough for 112" not in caplog.text
