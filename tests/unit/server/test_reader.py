"""One task reads for many sockets, and a number that is used again never brings one owner's bytes to another."""

import os
import socket
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from bridge.server.reader import OWNERS_A_TURN, Reader

Pair = tuple[socket.socket, socket.socket]


class Listening:
    """Reads a byte each time it is called, and does something more."""

    def __init__(self, raw: socket.socket, then: Callable[[], object] = lambda: None) -> None:
        self.raw = raw
        self.heard = b""
        self.calls = 0
        self.closed = 0
        self._then = then

    def on_readable(self) -> None:
        self.calls += 1
        self.heard += self.raw.recv(1)
        self._then()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [socket.socketpair() for _ in range(OWNERS_A_TURN + 8)]
    for here, _ in made:
        here.setblocking(False)
    yield made
    for here, there in made:
        here.close()
        there.close()


async def test_each_owner_is_called_until_it_has_read_all(pairs: list[Pair]) -> None:
    reader = Reader()
    owners = [Listening(here) for here, _ in pairs]
    async with trio.open_nursery() as nursery:
        for owner in owners[1:]:
            reader.add(owner.raw, owner)
        nursery.start_soon(reader.run)
        await trio.testing.wait_all_tasks_blocked()
        reader.add(owners[0].raw, owners[0])
        for number, (_, there) in enumerate(pairs):
            there.send(b"ab" if number % 2 else b"")
        with trio.fail_after(30):
            while any(owner.heard != (b"ab" if number % 2 else b"") for number, owner in enumerate(owners)):
                await trio.lowlevel.checkpoint()
        reader.remove(owners[1].raw)
        reader.remove(owners[1].raw)
        pairs[1][1].send(b"c")
        await trio.testing.wait_all_tasks_blocked()
        assert owners[1].heard == b"ab"
        assert len(reader) == len(owners) - 1
        nursery.cancel_scope.cancel()


async def test_a_turn_is_short_and_nobody_is_forgotten(pairs: list[Pair]) -> None:
    reader = Reader()
    owners = [Listening(here) for here, _ in pairs]
    for owner, (_, there) in zip(owners, pairs, strict=True):
        reader.add(owner.raw, owner)
        there.send(b"abc")
    reader.turn()
    assert sum(owner.calls for owner in owners) == OWNERS_A_TURN
    reader.turn()
    assert min(owner.calls for owner in owners) == 1, "who was not called comes first in the next turn"


def test_a_number_that_is_used_again_in_the_same_turn_brings_nothing_of_the_old_one(pairs: list[Pair]) -> None:
    reader = Reader()
    (one, tell_one), (two, tell_two), (three, tell_three) = pairs[:3]
    newcomers: list[Listening] = []

    def end(other: socket.socket) -> Callable[[], None]:
        """The other connection ends, and the next one gets its number."""

        def close_and_use_again() -> None:
            number = other.fileno()
            reader.remove(other)
            other.close()
            os.dup2(three.fileno(), number)
            newcomers.append(Listening(socket.socket(fileno=number)))
            reader.add(newcomers[0].raw, newcomers[0])

        return close_and_use_again

    first, second = Listening(one, end(two)), Listening(two, end(one))
    for owner, tell in ((first, tell_one), (second, tell_two)):
        reader.add(owner.raw, owner)
        tell.send(b"x")
    reader.turn()
    assert sorted([first.heard, second.heard]) == [b"", b"x"], "whoever came second was gone"
    (newcomer,) = newcomers
    assert newcomer.calls == 0, "the event was the old one's"
    tell_three.send(b"y")
    reader.turn()
    assert newcomer.heard == b"y"
    newcomer.raw.close()


def test_what_came_with_the_new_one_is_said_in_the_next_turn(pairs: list[Pair]) -> None:
    reader = Reader()
    (one, tell_one), _ = pairs[:2]

    def come_back() -> None:
        reader.remove(one)
        reader.add(one, owner)

    owner = Listening(one, come_back)
    reader.add(one, owner)
    tell_one.send(b"xy")
    reader.turn()
    assert owner.heard == b"x"
    reader.turn()
    assert owner.heard == b"xy"


async def test_all_are_closed_at_the_end_and_who_comes_too_late_at_once(pairs: list[Pair]) -> None:
    reader = Reader()
    owners = [Listening(here, reader_ends) for here, _ in pairs]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        for owner in owners[1:]:
            reader.add(owner.raw, owner)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [owner.closed for owner in owners] == [0, *[1] * (len(owners) - 1)]
    reader.add(owners[0].raw, owners[0])
    assert owners[0].closed == 1
    reader.remove(owners[0].raw)
    assert len(reader) == 0


def reader_ends() -> None:
    raise AssertionError("nothing has come")


def test_a_socket_that_was_closed_first_is_forgotten_too(pairs: list[Pair]) -> None:
    reader = Reader()
    here, there = pairs[0]
    owner = Listening(here)
    reader.remove(here)
    reader.add(here, owner)
    reader.remove(here)
    here.close()
    reader.remove(here)
    there.close()
    reader.turn()
    assert (owner.calls, len(reader)) == (0, 0)
