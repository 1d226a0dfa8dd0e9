"""What an error reply means is decided by its first word alone."""

import pytest

from bridge.errors import BridgeError, LogRefused, RedisLost, RedisUnusable
from bridge.links.redis_errors import NoPermission, RedisReplyError, code_of, error_for


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("NOAUTH Authentication required.", RedisUnusable),
        ("WRONGPASS invalid username-password pair or user is disabled.", RedisUnusable),
        ("NOPERM User x has no permissions to run the 'get' command", NoPermission),
        ("DENIED Redis is running in protected mode", RedisUnusable),
        ("MOVED 3999 127.0.0.1:6381", RedisUnusable),
        ("CLUSTERDOWN Hash slot not served", RedisUnusable),
        ("LOADING Redis is loading the dataset in memory", RedisLost),
        ("BUSY Redis is busy running a script", RedisLost),
        ("MASTERDOWN Link with MASTER is down", RedisLost),
        ("READONLY You can't write against a read only replica.", RedisLost),
        ("OOM command not allowed when used memory > 'maxmemory'.", LogRefused),
        ("MISCONF Redis is configured to save RDB snapshots", LogRefused),
        ("NOREPLICAS Not enough good replicas to write.", LogRefused),
        ("NOSCRIPT No matching script.", RedisReplyError),
        ("WRONGTYPE Operation against a key", RedisReplyError),
        ("ERR unknown command", RedisReplyError),
        ("", RedisReplyError),
    ],
)
def test_the_first_word_decides(text: str, kind: type[BridgeError]) -> None:
    error = error_for(text)
    assert type(error) is kind
    assert text in str(error)
    assert "\n" not in str(error)


def test_an_error_about_the_command_keeps_its_code() -> None:
    error = error_for("NOSCRIPT No matching script. Please use EVAL.")
    assert isinstance(error, RedisReplyError)
    assert error.code == code_of(error.text) == "NOSCRIPT"


def test_a_word_in_the_middle_decides_nothing() -> None:
    assert type(error_for("ERR somebody wrote OOM here")) is RedisReplyError
