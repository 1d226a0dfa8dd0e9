"""The pure parts of the benchmarks: the frame walker in C, statistics, tables, the report and its picture."""

import random
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks.chart import bars, spoken
from benchmarks.lib.compiled import compiled
from benchmarks.lib.publisher import PAYLOAD_BYTES, payload
from benchmarks.lib.stats import Latency, median, quantile
from benchmarks.lib.table import Cell, markdown, shown, terminal
from benchmarks.report import chart, page
from bridge.core.wire import text_frame

PREFIX = '{"a"'


def frame(opcode: int, payload: bytes) -> bytes:
    return bytes([0x80 | opcode]) + text_frame(payload)[1:]


def walked(data: bytes, prefix: str, read_bytes: int) -> tuple[int, ...]:
    """Messages, payload bytes and timestamps that the walker sees in it, read in such pieces."""
    done = subprocess.run(
        [compiled("receiver"), "walk", prefix, str(read_bytes)], input=data, capture_output=True, timeout=60, check=True
    )
    return tuple(map(int, done.stdout.split()))


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 7, 64, 1000, 1 << 18])
def test_messages_are_counted_however_the_stream_is_cut(read_bytes: int) -> None:
    draw = random.Random(read_bytes)
    data, messages, payload_bytes, timed = [], 0, 0, 0
    for _ in range(300):
        match draw.randrange(5):
            case 0:  # a control frame, which counts nowhere
                data.append(frame(draw.choice([9, 10]), b"x" * draw.randrange(126)))
            case 1:  # too short to begin with the prefix, or empty
                text = b"{" * draw.randrange(4)
                data.append(frame(1, text))
                payload_bytes += len(text)
            case 2:
                text = b'{"b"' + b"y" * draw.choice([0, 121, 122, 200, 65531, 65532])
                data.append(frame(1, text))
                payload_bytes += len(text)
            case 3:
                text = b'{"a"' + b"z" * draw.choice([0, 1, 121, 122, 500, 600, 3000])
                data.append(frame(draw.choice([1, 2]), text))
                payload_bytes, messages = payload_bytes + len(text), messages + 1
            case _:
                text = b'{"a":1,"sent":"123456"' + b"z" * draw.choice([1, 300, 70000])
                data.append(frame(1, text))
                payload_bytes, messages, timed = payload_bytes + len(text), messages + 1, timed + 1
    assert walked(b"".join(data), PREFIX, read_bytes) == (messages, payload_bytes, timed)


def test_a_message_counts_when_its_last_byte_has_come() -> None:
    whole = frame(1, b'{"a"' + b"x" * 1000)
    assert walked(whole[:-1], PREFIX, 1 << 18)[0] == 0
    assert walked(whole, PREFIX, 1 << 18)[0] == 1


def test_payloads_have_one_length_and_all_differ() -> None:
    assert {len(payload(number)) for number in (0, 1, 99, 1_000_000, 8_999_999)} == {PAYLOAD_BYTES}
    assert len({payload(number) for number in range(100)}) == 100


def test_quantiles_and_medians() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
    assert quantile(range(1, 101), 0.99) == 99
    assert quantile(range(1, 101), 1) == 100
    assert quantile([7], 0.5) == 7
    found = Latency.of_ns(range(1_000_000, 1_001_000_000, 1_000_000))
    assert (found.count, found.median, found.p99, found.p999, found.most) == (1000, 500, 990, 999, 1000)
    for wrong in (median, lambda values: quantile(values, 0.5)):
        with pytest.raises(ValueError, match="no values"):
            wrong([])


def test_tables_line_up() -> None:
    rows: list[dict[str, Cell]] = [
        {"name": "a", "rate": 1234567.0, "ratio": 0.5},
        {"name": "longer", "rate": 5, "more": None},
    ]
    assert terminal(rows).splitlines() == [
        "name         rate  ratio  more",
        "a       1,234,567    0.5",
        "longer          5",
    ]
    assert markdown(rows, ["name", "rate"]).splitlines() == [
        "| name | rate |",
        "| --- | --: |",
        "| a | 1,234,567 |",
        "| longer | 5 |",
    ]
    assert [shown(cell) for cell in (None, True, 3, 0.12345, 12.345, 123.45)] == [
        "",
        "True",
        "3",
        "0.123",
        "12.3",
        "123",
    ]


def test_rates_are_spoken_in_few_characters() -> None:
    assert [spoken(value) for value in (23_184_000, 5_000_000, 128_127, 1040, 950)] == [
        "23.2 M",
        "5 M",
        "128 k",
        "1.04 k",
        "950",
    ]


def fanout() -> dict[str, object]:
    rows = [
        {"system": "bridge <direct>", "kind": "bridge", "clients": 1000, "burst/s": 2e7, "one by one/s": 1e5},
        {"system": "NATS", "kind": "peer", "clients": 1000, "burst/s": 5e6, "one by one/s": 8e4},
        {"system": "NATS", "kind": "peer", "clients": 1, "burst/s": 1e6, "one by one/s": 8e3},
    ]
    target = {"name": "fast", "value": "4 times", "wanted": "1.5 times", "met": False, "limited_by": "the kernel"}
    return {
        "benchmark": "fanout",
        "title": "Fan-out",
        "machine": {"processor": "A & B", "processors": "2"},
        "versions": {"Python": "3.11"},
        "rows": rows,
        "targets": [target],
        "notes": ["a note"],
    }


def test_the_picture_is_well_formed_and_shows_every_system_once() -> None:
    drawn = chart(fanout())
    assert drawn is not None
    words = [element.text for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("bridge <direct>") == words.count("NATS") == 1
    assert {"20 M", "5 M", "100 k", "80 k"} <= set(words)
    assert chart(fanout() | {"rows": []}) is None
    assert "<svg" in bars("nothing", [], [], "")


def test_the_page_names_targets_tables_and_notes() -> None:
    text = page([fanout()], picture=True)
    assert "| fanout | fast | 4 times | 1.5 times | **not met**: the kernel |" in text
    assert "**1,000 clients**" in text
    assert "| NATS | 5,000,000 | 80,000 |" in text
    assert "- a note" in text
    assert "benchmarks.svg" in text
    assert "benchmarks.svg" not in page([fanout()], picture=False)
