"""The log as text and as JSON, and the lines that are promised."""

import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from bridge import telemetry
from bridge.errors import PostgresLost, RedisLost, RedisUnusable
from bridge.telemetry import fields, setup_logging
from tests.support.tokens import token


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level, hook = root.handlers[:], root.level, sys.excepthook
    yield
    logging.captureWarnings(False)
    sys.excepthook = hook
    root.handlers[:] = before
    root.setLevel(level)
    telemetry.log.setLevel(logging.NOTSET)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was logged as JSON; every line has to be an object."""
    text = capsys.readouterr().err
    assert text.splitlines() == text.split("\n")[:-1]
    return [json.loads(line) for line in text.splitlines()]


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
    assert "test_logs.py" in text


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


def test_json_has_fields_for_the_lines_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json", "info", channel_set="0123abcd")
    telemetry.redis_failed(RedisLost("silent"))
    telemetry.switched_to_direct()
    telemetry.switched_to_redis()
    telemetry.connection_error(RedisUnusable("no password"), first=False)
    telemetry.connection_error(PostgresLost("gone"), first=True)
    telemetry.reconnecting(0.3000001)
    telemetry.connected_to_postgres()
    lines = lines_of(capsys)
    assert all(line["channel_set"] == "0123abcd" for line in lines)
    assert all(set(line) >= {"time", "level", "message"} for line in lines)
    failed, direct, redis, unusable, gone, again, connected = lines
    assert (failed["link"], failed["mode"], failed["reason"]) == ("redis", "none", "silent")
    assert failed["message"].startswith("Redis connection failed: silent. Attempting fallback")
    assert (direct["mode"], redis["mode"]) == ("direct", "redis")
    assert (unusable["link"], unusable["error"]) == ("redis", "RedisUnusable")
    assert "stack" not in unusable
    assert (gone["link"], gone["error"]) == ("postgres", "PostgresLost")
    assert isinstance(gone["stack"], str)
    assert again["seconds"] == 0.3
    assert connected["link"] == "postgres"


def test_the_fields_of_a_call_replace_none_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json", "info")
    telemetry.log.info("what happened", extra=fields(message="x", level="y", time="z", reason="r", path=Path("a")))
    (line,) = lines_of(capsys)
    assert (line["message"], line["level"], line["reason"], line["path"]) == ("what happened", "INFO", "r", "a")
    assert line["time"] != "z"


def test_libraries_and_warnings_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json", "info")
    logging.getLogger("library").error("broken\nin two lines \x85\u2028 and more")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    broken, old = lines_of(capsys)
    assert (broken["logger"], broken["message"]) == ("library", "broken\nin two lines \x85\u2028 and more")
    assert old["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in old["message"]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_token_in_the_text_of_an_error_is_taken_out(
    log_format: Literal["json", "text"], capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging(log_format, "debug")
    good = token({"channels": ["a"]})
    texts = [good, f"/ws?token={good}&x=1", "/ws?token=4711-opaque", f"bearer.{good}", "Authorization: Bearer 4711-x"]
    for text in texts:
        try:
            raise ValueError(f"cannot read {text!r}, sorry")
        except ValueError:
            telemetry.log.exception("A bug: %s", text)
    said = capsys.readouterr().err
    assert "cannot read" in said
    assert "sorry" in said
    assert "&x=1" in said
    assert "4711" not in said
    for part in good.split("."):
        assert part not in said
    if log_format == "json":
        assert len([json.loads(line) for line in said.splitlines()]) == len(texts)


def test_what_ends_the_process_is_a_line_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json", "info")
    try:
        raise ExceptionGroup("two", [ValueError("a bug"), KeyError("another")])
    except ExceptionGroup as error:
        sys.excepthook(type(error), error, error.__traceback__)
    (line,) = lines_of(capsys)
    assert (line["level"], line["error"]) == ("CRITICAL", "ExceptionGroup")
    assert "ValueError: a bug" in line["stack"]
    setup_logging("text", "info")
    assert sys.excepthook is sys.__excepthook__


def test_an_error_that_cannot_be_written_as_text_is_still_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json", "info")
    telemetry.connection_error(RedisLost("from \udcff the \0 wire"), first=False)
    (line,) = lines_of(capsys)
    assert line["message"].startswith("Connection error: from ")
