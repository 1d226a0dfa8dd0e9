"""The arguments of `open_feed` and `subscribe`: over the environment, refused in one line that names them."""

from pathlib import Path
from typing import Any

import pytest

from bridge.errors import SettingsError
from bridge.inprocess.options import checked_cursor, read_settings, read_subscription

KNOWN = frozenset({"a", "b"})


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "DB_HOST", "USE_REDIS_NOTIFIER", "REDIS_URL", "BRIDGE_CHANNELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def read(
    db_url: str | None = None,
    use_redis: bool | None = None,
    redis_url: str | None = None,
    channels: Any = None,
    **more: object,
) -> Any:
    return read_settings(db_url, use_redis, redis_url, channels, more)


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/db")
    monkeypatch.setenv("USE_REDIS_NOTIFIER", "true")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:1")
    assert read().database_url == "postgresql://elsewhere/db"
    assert read().use_redis_notifier
    settings = read("postgresql://here/db", False, "redis://here:2", ["x", "y"], retry_seconds=1)
    assert (settings.database_url, settings.use_redis_notifier) == ("postgresql://here/db", False)
    assert (settings.redis_url, settings.channels, settings.retry_seconds) == ("redis://here:2", ("x", "y"), 1.0)


def test_channels_may_be_written_as_in_the_environment() -> None:
    assert read("postgresql://here/db", channels="x, y").channels == ("x", "y")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "there is nothing to listen to: give db_url"),
        ({"db_url": "postgresql://here:0/db"}, "db_url: "),
        ({"use_redis": True, "redis_url": "http://here"}, "redis_url: 'http://here' is not allowed"),
        ({"db_url": "postgresql://here/db", "retry_secs": 1}, "unknown setting 'retry_secs'; there are "),
        ({"db_url": "postgresql://here/db", "retry_seconds": -1}, "retry_seconds: '-1' is not allowed"),
        ({"db_url": "postgresql://here/db", "retry_seconds": object()}, "retry_seconds: <object"),
        ({"db_url": "postgresql://here/db", "channels": ["a,b"]}, "channels: a name with a comma"),
        ({"db_url": "postgresql://here/db", "channels": []}, "channels"),
        ({"db_url": "postgresql://here/db", "channels": ["bridge_sync"]}, "the bridge itself uses that channel"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=r"^[^\n]*$") as refused:
        read(**arguments)
    assert said in str(refused.value)


def test_redis_alone_is_enough() -> None:
    assert read(use_redis=True).embedded


def test_a_subscription_compares_as_text() -> None:
    wanted = read_subscription(["a"], {"n": 7, "t": "x", "b": True, "z": None, "any": [1, "two"]}, KNOWN)
    assert wanted.channels == {"a"}
    assert dict(wanted.where) == {"n": ("7",), "t": ("x",), "b": ("true",), "z": ("null",), "any": ("1", "two")}
    assert read_subscription([], None, KNOWN).channels == KNOWN


@pytest.mark.parametrize(
    ("channels", "where", "said"),
    [
        (["c"], None, "unknown channel 'c'; there are a, b"),
        ([], {"n": []}, "'n' has no value"),
        ([], {"n": [object()]}, "'n' is compared with text"),
        ([], {str(n): 1 for n in range(17)}, "at most 16 fields"),
        ([], {"n": range(257)}, "256 combinations"),
        ([["a"]], None, "a name is text, not list; give one argument for each"),
        ([], "n=7", "give fields and their values"),
        ([], {"n": {"m": 1}}, "where: 'n' is compared with text"),
        ([], {"n": object()}, "where: 'n' is compared with text"),
        ([], {"n": b"7"}, "where: 'n' is compared with text"),
        ([], {"n": bytearray(b"7")}, "where: 'n' is compared with text"),
        ([], {"n": [b"7"]}, "where: 'n' is compared with text"),
        ([], {"n": [["7"]]}, "where: 'n' is compared with text"),
        ([], {1: 1}, "where: a field is text, not int"),
        ([], {b"n": 1, "n": 1}, "where: a field is text, not bytes"),
        ([], [("n", 1)], "give fields and their values"),
    ],
)
def test_a_subscription_that_cannot_be_is_refused(channels: list[Any], where: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=r"^[^\n]*$") as refused:
        read_subscription(channels, where, KNOWN)
    assert said in str(refused.value)


@pytest.mark.parametrize("after", [7, b"1-1"])
def test_a_cursor_is_text(after: Any) -> None:
    assert checked_cursor("1-1") == "1-1"
    assert checked_cursor(None) is None
    with pytest.raises(SettingsError, match=r"after: a cursor is text, not (int|bytes)"):
        checked_cursor(after)
