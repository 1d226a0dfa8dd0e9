"""The messages of a pod: whatever is said is understood, in whichever pieces it comes, and nothing else is."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.events import Notification, entry_json
from bridge.core.pod_wire import (
    MAX_ANSWER_ENTRIES,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    Answer,
    Frames,
    Hello,
    Look,
    Pull,
    Relation,
    Reply,
    Request,
    Segment,
    View,
    frame,
    read_reply,
    read_request,
)
from bridge.core.position import Position

terms = st.integers(1, 2**63 - 1)
seqs = st.integers(-(2**63), 2**63 - 1)
indexes = st.integers(0, 2**63 - 1)
states = st.sampled_from(["lost", "unproven", "proven"])
relations = st.lists(st.builds(Relation, terms, terms, seqs), max_size=5).map(tuple)
segments = st.lists(st.builds(Segment, terms, seqs, indexes, indexes), max_size=5).map(tuple)
requests = st.one_of(st.just(Look()), st.builds(Pull, indexes, st.none() | st.tuples(terms, seqs)))
short = st.text(max_size=64)
replies = st.one_of(
    st.builds(Hello, st.integers(0, 9), short, short),
    st.builds(View, states, relations, segments, indexes),
    st.builds(Answer, states, relations, indexes, indexes, st.none() | st.floats(0, 1e6, allow_nan=False), st.binary()),
)


def frames_of(data: bytes, pieces: list[int], limit: int) -> list[bytes]:
    """The frames that come out when the data arrives in pieces of these sizes, and then the rest."""
    frames, found = Frames(limit), []
    for size in [*pieces, len(data)]:
        frames.feed(data[:size])
        data = data[size:]
        while (body := frames.next()) is not None:
            found.append(body)
    assert frames.next() is None
    return found


def lines(*positions: Position) -> bytes:
    return b"\n".join(entry_json(position, Notification("a", b"1")) for position in positions)


@given(st.lists(requests, max_size=4), st.lists(st.integers(0, 9)))
def test_requests_arrive_as_they_were_sent(said: list[Request], pieces: list[int]) -> None:
    data = b"".join(map(frame, said))
    assert [read_request(body) for body in frames_of(data, pieces, MAX_REQUEST_BYTES)] == said


@given(st.lists(replies, max_size=4), st.lists(st.integers(0, 99)))
def test_replies_arrive_as_they_were_sent(said: list[Reply], pieces: list[int]) -> None:
    data = b"".join(map(frame, said))
    assert [read_reply(body) for body in frames_of(data, pieces, MAX_REPLY_BYTES)] == said


@given(st.binary())
def test_noise_is_refused_or_means_something(body: bytes) -> None:
    for read in (read_request, read_reply):
        try:
            message: Request | Reply = read(body)
        except ValueError:
            continue
        assert read(frame(message)[4:]) == message


@given(st.binary(min_size=4))
def test_noise_never_makes_a_frame_that_is_too_long(data: bytes) -> None:
    frames = Frames(10)
    frames.feed(data)
    try:
        while (body := frames.next()) is not None:
            assert 0 < len(body) <= 10
    except ValueError:
        assert not 0 < int.from_bytes(bytes(frames._rest[:4]), "big") <= 10


def test_a_frame_that_announces_too_much_is_refused_before_it_has_come() -> None:
    frames = Frames(10)
    frames.feed((11).to_bytes(4, "big"))
    with pytest.raises(ValueError, match="a frame of 11 bytes, and 1 to 10 are allowed"):
        frames.next()


@pytest.mark.parametrize(
    "message",
    [
        ["pull", -1, None],
        ["pull", 2**63, None],
        ["pull", 0, [0, 0]],
        ["pull", 0, [1, 2**63]],
        ["pull", 0, [1]],
        ["pull", "0", None],
        ["pull", True, None],
        ["look", 1],
        ["push"],
        [],
        {},
        None,
    ],
)
def test_a_request_that_is_not_as_it_should_be_is_refused(message: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_request(msgspec.msgpack.encode(message))


@pytest.mark.parametrize(
    "message",
    [
        ["hello", 1, "x" * 65, ""],
        ["view", "fine", [], [], 0],
        ["view", "lost", [[0, 1, 0]], [], 0],
        ["view", "lost", [], [[1, 0, -1, 1]], 0],
        ["answer", "lost", [], 0, 0, None, "text"],
        ["answer", "lost", [], 0, 0, "1", b""],
    ],
)
def test_a_reply_that_is_not_as_it_should_be_is_refused(message: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_reply(msgspec.msgpack.encode(message))


def test_the_entries_of_an_answer_are_one_unbroken_run() -> None:
    def answer(data: bytes) -> Answer:
        return Answer("proven", (), 0, 0, None, data)

    assert answer(b"").entries() == ()
    run = [Position(7, seq) for seq in range(MAX_ANSWER_ENTRIES)]
    assert [entry.position for entry in answer(lines(*run)).entries()] == run
    for wrong in (
        lines(*run, Position(7, MAX_ANSWER_ENTRIES)),
        lines(Position(7, 1), Position(7, 3)),
        lines(Position(7, 1), Position(8, 2)),
        lines(Position(7, 1), Position(7, 1)),
        lines(Position(7, 1)) + b"\n",
        b"\n",
        b"{}",
        b"\xff",
        b"[" * 100_000,
    ):
        with pytest.raises(ValueError, match=r"\w"):
            answer(wrong).entries()


@given(st.integers(1, 50), seqs.filter(lambda seq: abs(seq) < 2**60), st.integers(0, 100), st.integers(-80, 80))
def test_a_segment_knows_its_indexes(count: int, first_seq: int, start: int, away: int) -> None:
    segment = Segment(7, first_seq, start, start + count)
    positions = {index: Position(7, first_seq + index - start) for index in range(start, start + count)}
    newer = [index for index, position in positions.items() if position.seq > first_seq + away]
    assert segment.index_after(Position(7, first_seq + away)) == min(newer, default=segment.end)
    for index in range(start - 2, segment.end + 3):
        assert segment.before(index) == positions.get(index - 1)
