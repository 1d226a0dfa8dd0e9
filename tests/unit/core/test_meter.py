"""The meter agrees with a library that reads the frames, however the bytes are divided."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.meter import FrameMeter
from tests.support.server import client_frame

SIZES = st.sampled_from([0, 1, 5, 125, 126, 127, 65535, 65536])


def data_frame(size: int, *, first: bool, last: bool) -> bytes:
    frame = bytearray(client_frame(b"x" * size, 1 if first else 0))
    if not last:
        frame[0] &= 0x7F
    return bytes(frame)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(at)]


@given(st.lists(st.lists(SIZES, min_size=1, max_size=5), max_size=4), st.lists(st.integers(0), max_size=20))
def test_frames_are_counted_however_they_arrive(messages: list[list[int]], cuts: list[int]) -> None:
    frames = []
    for sizes in messages:
        for index, size in enumerate(sizes):
            frames.append(data_frame(size, first=index == 0, last=index == len(sizes) - 1))
            frames.append(client_frame(b"?" * (size % 126), 9))
    meter = FrameMeter()
    assert sum(meter.feed(piece) for piece in pieces(b"".join(frames), cuts)) == len(frames)
    assert meter.fragments == 0


@given(st.integers(1, 300), st.lists(st.integers(0), max_size=20))
def test_the_fragments_of_a_message_under_way(count: int, cuts: list[int]) -> None:
    data = b"".join(data_frame(0, first=n == 0, last=False) + client_frame(b"", 10) for n in range(count))
    meter = FrameMeter()
    for piece in pieces(data, cuts):
        meter.feed(piece)
    assert meter.fragments == count


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_any_bytes_are_counted_in_little_space(parts: list[bytes]) -> None:
    meter = FrameMeter()
    for part in parts:
        assert 0 <= meter.feed(part) <= len(part) // 2 + 7
        assert len(meter._head) < 14
