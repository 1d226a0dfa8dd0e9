"""What a running bridge answers, judged; and where it is looked for."""

from datetime import UTC, datetime
from typing import Any

import pytest

from bridge.doctor.running import Answer, Place, expected, judge, named
from bridge.errors import BridgeError, SettingsError
from bridge.settings import Settings

PLACE = Place("http://h:8000")
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
WELL: dict[str, Any] = {"status": "ok", "mode": "redis", "clients": 3, "version": "1.0", "links": {}}


def levels(ready: bool = True, **changes: Any) -> list[str]:
    return [finding.level for finding in judge(Answer(PLACE, None, ready, WELL | changes), NOW)]


def test_well() -> None:
    assert levels() == ["good"]
    assert levels(links={"redis": {"state": "writable", "error": None, "appending": True}}) == ["good", "good"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": "degraded", "mode": "direct", "reason": "Redis is lost"}, ["bad"]),
        ({"status": "down", "mode": "none"}, ["bad"]),
        ({"ready": False}, ["bad"]),
        ({"ready": False, "draining": True}, ["warning"]),
        ({"links": {"postgres": {"state": "suspect"}}}, ["good", "warning"]),
        ({"links": {"postgres": {"state": "lost", "error": "gone"}}}, ["good", "bad"]),
        ({"links": ["what", "is", "this"]}, ["good"]),
        ({"clients": 95, "max_clients": 100}, ["good", "warning"]),
        ({"clients": 85, "max_clients": 100}, ["good"]),
        ({"gaps": [{"at": "2026-01-31T11:55:00Z", "reason": "failover"}]}, ["good", "warning"]),
        ({"gaps": [{"at": "2026-01-31T11:05:00Z", "reason": "failover"}]}, ["good"]),
        ({"gaps": [{"at": 17}, "?", {}]}, ["good"]),
        ({"switches": [{"at": "2026-01-31T11:55:00Z", "mode": "none", "reason": "starting"}]}, ["good"]),
        ({"switches": [{"at": "2026-01-31T11:55:00Z", "mode": "none", "reason": "Redis lost"}]}, ["good", "warning"]),
        ({"switches": [{"at": "2026-01-31T11:55:00Z", "mode": "redis", "reason": None}]}, ["good"]),
    ],
)
def test_what_it_says(changes: dict[str, Any], expected: list[str]) -> None:
    assert levels(**changes) == expected


def test_unreached_is_worse_where_it_was_named() -> None:
    error = BridgeError("Connection refused")
    assert judge(Answer(PLACE, error))[0].level == "bad"
    assert judge(Answer(Place("http://h", named=False), error))[0].level == "warning"


def test_a_password_in_the_url_is_not_shown() -> None:
    (finding,) = judge(Answer(named("http://me:geheim@h:1"), BridgeError("no")))
    assert "geheim" not in finding.text
    with pytest.raises(SettingsError) as refused:
        named("ftp://me:geheim@h:1")
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "http://h:0", "http://h:x", "ws://h", ""])
def test_no_url(url: str) -> None:
    with pytest.raises(SettingsError, match="--url"):
        named(url)


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "http://127.0.0.1:9000"), ("::", "http://[::1]:9000"), ("h", "http://h:9000")]
)
def test_where_the_settings_put_it(host: str, url: str) -> None:
    assert expected(Settings(host=host, port=9000)) == Place(url, named=False, verified=False)
    secure = expected(Settings(host=host, port=9000, tls_cert="c", tls_key="k"))
    assert secure.url == url.replace("http", "https")
