"""Log lines, metrics, and values that can be awaited."""

import json
import logging
import re
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from bridge import telemetry
from bridge.errors import RedisLost
from bridge.telemetry import Metrics, Observable, setup_logging


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    telemetry.log.setLevel(logging.NOTSET)


def test_the_lines_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("text", "info")
    error = RedisLost("connection refused\nby the host")
    telemetry.redis_failed(error)
    telemetry.switching_to_direct()
    telemetry.switched_to_direct()
    telemetry.switching_to_redis()
    telemetry.switched_to_redis()
    telemetry.connection_error(error, first=False)
    telemetry.reconnecting(5.0)
    telemetry.reconnecting(0.3000001)
    telemetry.connected_to_redis()
    telemetry.connected_to_postgres()
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in lines)
    failed = "Redis connection failed: connection refused by the host. Attempting fallback to PostgreSQL direct LISTEN."
    assert [line.partition(" ")[2] for line in lines] == [
        f"WARNING  {failed}",
        "INFO     Switching to PostgreSQL direct LISTEN fallback mode",
        "INFO     Fallback to PostgreSQL direct LISTEN successful - realtime features recovered",
        "INFO     Redis connectivity restored, switching back to Redis mode",
        "INFO     Switch back to Redis mode successful",
        "ERROR    Connection error: connection refused by the host",
        "INFO     Reconnecting in 5 seconds...",
        "INFO     Reconnecting in 0.3 seconds...",
        "INFO     Connected to Redis",
        "INFO     Connected to PostgreSQL",
    ]


def test_the_first_failure_of_a_row_has_its_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("text", "info")
    try:
        raise RedisLost("gone")
    except RedisLost as error:
        telemetry.connection_error(error, first=True)
    text = capsys.readouterr().err
    assert "ERROR    Connection error: gone\nTraceback" in text
    assert "test_telemetry.py" in text


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json", "info")
    try:
        raise RedisLost("é\ngone")
    except RedisLost as error:
        telemetry.connection_error(error, first=True)
    (line,) = capsys.readouterr().err.splitlines()
    read = json.loads(line)
    assert (read["level"], read["message"]) == ("ERROR", "Connection error: é gone")
    assert "Traceback" in read["stack"]


def test_the_level_is_that_of_the_bridge(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("text", "warning")
    telemetry.connected_to_redis()
    logging.getLogger("library").info("chatter")
    setup_logging("text", "debug")
    telemetry.log.debug("detail")
    logging.getLogger("library").info("chatter")
    assert [line.split(maxsplit=1)[1] for line in capsys.readouterr().err.splitlines()] == ["DEBUG    detail"]


def test_an_error_without_a_text_has_its_type() -> None:
    assert telemetry.error_text(TimeoutError()) == "TimeoutError"


def test_metrics_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    one.received.inc(3)
    one.gaps.labels("failover").inc()
    one.append_seconds.observe(0.001)
    text = one.text().decode()
    assert "notify_bridge_notifications_received_total 3.0" in text
    assert 'notify_bridge_gaps_total{reason="failover"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    assert "notify_bridge_notifications_received_total 0.0" in other.text().decode()


async def test_a_value_that_is_there_needs_no_waiting() -> None:
    assert await Observable(3).wait_for(lambda value: value > 2) == 3


async def test_no_value_is_missed_however_briefly_it_was_set() -> None:
    state = Observable("down")
    seen: list[str] = []

    async def wait(wanted: str) -> None:
        seen.append(await state.wait_for(lambda value: value == wanted))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "up")
        nursery.start_soon(wait, "gone")
        await trio.testing.wait_all_tasks_blocked()
        state.set("up")
        state.set("down")
        state.set("gone")
    assert sorted(seen) == ["gone", "up"]
    assert state.value == "gone"


async def test_a_wait_that_is_cancelled_leaves_nothing() -> None:
    state = Observable(0)
    calls: list[int] = []

    def never(value: int) -> bool:
        calls.append(value)
        return False

    with trio.move_on_after(0.01):
        await state.wait_for(never)
    state.set(1)
    assert calls == [0]
