"""REDIS_URL: what it may say, and that what is wrong is refused in one line that shows no password."""

import ssl
from pathlib import Path

import pytest

from bridge.errors import SettingsError
from bridge.links.redis_url import RedisTarget, parse_redis_url


@pytest.mark.parametrize(
    ("url", "target", "place"),
    [
        ("redis://localhost:6379", RedisTarget(), "localhost:6379"),
        ("redis://", RedisTarget(), "localhost:6379"),
        ("redis://h/3", RedisTarget(host="h", database=3), "h:6379"),
        ("redis://h?db=4", RedisTarget(host="h", database=4), "h:6379"),
        ("redis://:p%40ss@h:1", RedisTarget(host="h", port=1, password="p@ss"), "h:1"),
        ("redis://u:p@h", RedisTarget(host="h", username="u", password="p"), "h:6379"),
        ("redis://[::1]:7", RedisTarget(host="::1", port=7), "[::1]:7"),
        ("unix:///run/r.sock?db=2", RedisTarget(path="/run/r.sock", database=2), "unix:/run/r.sock"),
        ("unix://u:p@/r", RedisTarget(path="/r", username="u", password="p"), "unix:/r"),
        ("redis://h?socket_timeout=5&protocol=3&health_check_interval=30", RedisTarget(host="h"), "h:6379"),
    ],
)
def test_urls_that_name_a_redis(url: str, target: RedisTarget, place: str) -> None:
    parsed = parse_redis_url(url)
    assert parsed == target
    assert str(parsed) == place


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("localhost:6379", "redis://"),
        ("http://h", "redis://"),
        ("redis://h:port", "port"),
        ("redis://:secret#1@h:6379", "percent-encoded"),
        ("redis://:se/cret@h:6379", "percent-encoded"),
        ("redis://h/abc", "'abc'"),
        ("redis://h?db=x", "'db'"),
        ("redis://h/-1", "from 0"),
        ("redis://h?no_such_option=1", "no_such_option"),
        ("redis://h?ssl_ca_certs=/x", "rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://h?ssl_ca_certs=/does/not/exist", "/does/not/exist"),
        ("rediss://h?ssl_certfile=/does/not/exist&ssl_password=secret", "/does/not/exist"),
        ("rediss://h?ssl_min_version=7", "ssl_min_version"),
        ("rediss://h?ssl_validate_ocsp=1", "ssl_validate_ocsp"),
        ("unix://", "socket"),
    ],
)
def test_urls_that_are_refused(url: str, part: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_redis_url(url)
    line = str(caught.value)
    assert line.startswith("REDIS_URL")
    assert part in line
    assert "secret" not in line
    assert "\n" not in line


def test_passwords_are_not_shown() -> None:
    target = parse_redis_url("redis://u:secret@h")
    assert "secret" not in repr(target) + str(target)


def test_tls_is_checked_unless_the_url_says_otherwise(tmp_path: Path) -> None:
    checked = parse_redis_url("rediss://h").tls
    assert checked is not None
    assert (checked.verify_mode, checked.check_hostname) == (ssl.CERT_REQUIRED, True)
    any_host = parse_redis_url("rediss://h?ssl_check_hostname=false").tls
    assert any_host is not None
    assert (any_host.verify_mode, any_host.check_hostname) == (ssl.CERT_REQUIRED, False)
    unchecked = parse_redis_url("rediss://h?ssl_cert_reqs=none&ssl_min_version=772").tls
    assert unchecked is not None
    assert (unchecked.verify_mode, unchecked.check_hostname) == (ssl.CERT_NONE, False)
    assert unchecked.minimum_version is ssl.TLSVersion.TLSv1_3
