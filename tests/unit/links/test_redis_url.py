"""REDIS_URL: what it may say, and that what is wrong is refused in one line that shows no password."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import SettingsError
from bridge.links.redis_url import RedisTarget, SentinelTarget, parse_redis_url


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


def sentinel(*sentinels: tuple[str, int], own: tuple[str | None, str | None] = (None, None), **master: Any) -> Any:
    return SentinelTarget(sentinels, "service", RedisTarget(host="", port=0, **master), *own)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("h1:26379,h2:7/service/0", sentinel(("h1", 26379), ("h2", 7))),
        ("h1,h2/service", sentinel(("h1", 26379), ("h2", 26379))),
        ("h1/service/", sentinel(("h1", 26379))),
        ("h1/service/3", sentinel(("h1", 26379), database=3)),
        ("h1/service?db=4", sentinel(("h1", 26379), database=4)),
        ("[::1],[fe80::1%eth0]:7,10.0.0.1/service", sentinel(("::1", 26379), ("fe80::1%eth0", 7), ("10.0.0.1", 26379))),
        ("u:p%40ss@h1,h2/service", sentinel(("h1", 26379), ("h2", 26379), username="u", password="p@ss")),
        (":p@ss@h1/service", sentinel(("h1", 26379), password="p@ss")),
        ("h1/service?sentinel_password=s", sentinel(("h1", 26379), own=(None, "s"))),
        (
            "u:p@h1/service/1?sentinel_username=su&sentinel_password=s%2Fs&socket_timeout=5",
            sentinel(("h1", 26379), own=("su", "s/s"), username="u", password="p", database=1),
        ),
    ],
)
def test_urls_that_name_sentinels(url: str, target: SentinelTarget) -> None:
    parsed = parse_redis_url(f"redis+sentinel://{url}")
    assert parsed == target
    assert str(parsed) == "the master of 'service'"


def test_a_service_may_have_any_name() -> None:
    parsed = parse_redis_url("redis+sentinel://h/my%20service%2F%40")
    assert isinstance(parsed, SentinelTarget)
    assert parsed.service == "my service/@"


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
        ("rediss+sentinel://h/service", "redis://"),
        ("redis+sentinel://h", "service"),
        ("redis+sentinel://h/", "service"),
        ("redis+sentinel:///service", "cannot be read"),
        ("redis+sentinel://h1,/service", "cannot be read"),
        ("redis+sentinel://h1:x,h2/service", "port"),
        ("redis+sentinel://h1:0/service", "port"),
        ("redis+sentinel://h1:65536/service", "port"),
        ("redis+sentinel://::1/service", "cannot be read"),
        ("redis+sentinel://[h1]/service", "cannot be read"),
        ("redis+sentinel://h1/service/x", "'x'"),
        ("redis+sentinel://h1/service/-1", "from 0"),
        ("redis+sentinel://h1/service/1/2", "database"),
        ("redis+sentinel://h1/service?no_such_option=1", "no_such_option"),
        ("redis+sentinel://h1/service?ssl_cert_reqs=none", "TLS"),
        ("redis+sentinel://h1/service?sentinel_username=u", "sentinel_password"),
        ("redis+sentinel://:secret#1@h1/service", "percent-encoded"),
        ("redis+sentinel://:se/secret@h1/service", "percent-encoded"),
        ("redis+sentinel://u:1/secret@h1:1/service/0", "percent-encoded"),
        ("redis+sentinel://u:1?secret@h1/service/0", "service"),
        ("redis+sentinel://[secret]:secret@h1/service", "percent-encoded"),
        ("redis+sentinel://h1/service?sentinel_password=secret#1", "percent-encoded"),
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
    behind = parse_redis_url("redis+sentinel://u:secret@h/service?sentinel_password=secret2")
    assert "secret" not in repr(behind) + str(behind)


def tls_of(url: str) -> ssl.SSLContext:
    target = parse_redis_url(url)
    assert isinstance(target, RedisTarget)
    assert target.tls is not None
    return target.tls


def test_tls_is_checked_unless_the_url_says_otherwise(tmp_path: Path) -> None:
    checked = tls_of("rediss://h")
    assert (checked.verify_mode, checked.check_hostname) == (ssl.CERT_REQUIRED, True)
    any_host = tls_of("rediss://h?ssl_check_hostname=false")
    assert (any_host.verify_mode, any_host.check_hostname) == (ssl.CERT_REQUIRED, False)
    unchecked = tls_of("rediss://h?ssl_cert_reqs=none&ssl_min_version=772")
    assert (unchecked.verify_mode, unchecked.check_hostname) == (ssl.CERT_NONE, False)
    assert unchecked.minimum_version is ssl.TLSVersion.TLSv1_3
