"""Origins as browsers send them, and patterns as operators write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.origins import Origin, OriginPattern, parse_host


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://example.com", Origin("https", "example.com", 443)),
        ("HTTP://Example.COM", Origin("http", "example.com", 80)),
        ("http://localhost:3000", Origin("http", "localhost", 3000)),
        ("http://[::1]:5173", Origin("http", "[::1]", 5173)),
        ("capacitor://localhost", Origin("capacitor", "localhost", None)),
        ("null", None),
        ("", None),
        ("example.com", None),
        ("//example.com", None),
        ("https://", None),
        ("https://example.com/", None),
        ("https://user@example.com", None),
        ("https://example.com, https://example.com", None),
        ("https://example.com:x", None),
        ("https://exämple.com", None),
        ("https://example.com\n", None),
        ("https://*", None),
        ("file:///", None),
    ],
)
def test_origins(text: str, origin: Origin | None) -> None:
    assert Origin.parse(text) == origin


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        (
            "https://a.example",
            ["https://a.example", "https://A.example:443"],
            ["http://a.example", "https://b.a.example"],
        ),
        ("https://a.example", [], ["https://a.example:444", "https://a.example.evil.com", "null", "https://aXexample"]),
        ("https://a.example/", ["https://a.example"], []),
        ("http://a.example:8080", ["http://a.example:8080"], ["http://a.example", "http://a.example:80"]),
        ("http://a.example:80", ["http://a.example"], ["https://a.example"]),
        ("https://*.example", ["https://a.example", "https://a.b.example"], ["https://example", "https://.evil.com"]),
        ("https://*.example", [], ["https://aexample", "https://a.example.evil.com", "https://a.example:8443"]),
        ("https://app-*.example", ["https://app-1.example", "https://app-.example"], ["https://app.example"]),
        (
            "http://localhost:*",
            ["http://localhost:3000", "http://localhost"],
            ["https://localhost", "http://a.localhost:1"],
        ),
        ("http://[::1]:3000", ["http://[::1]:3000"], ["http://[::2]:3000"]),
        ("capacitor://localhost", ["capacitor://localhost"], ["http://localhost"]),
        ("https://*", ["https://a.example", "https://[::1]"], ["http://a.example", "https://a.example:8443"]),
        ("*", ["https://a.example", "http://b:8080"], ["null", "capacitor://localhost", "file://x"]),
    ],
)
def test_patterns(pattern: str, fitting: list[str], others: list[str]) -> None:
    read = OriginPattern.parse(pattern)
    for text in fitting:
        assert (origin := Origin.parse(text)) is not None
        assert read.fits(origin)
    for text in others:
        origin = Origin.parse(text)
        assert origin is None or not read.fits(origin)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "example.com",
        "https://",
        "https://a/b",
        "https://u@a",
        "*://a",
        "https://a:0",
        "https://a:65536",
        "a b",
    ],
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^an origin is written|^a port is"):
        OriginPattern.parse(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Example.com", ("example.com", None)),
        ("example.com:8000", ("example.com", 8000)),
        ("[::1]:8000", ("[::1]", 8000)),
        ("", None),
        ("a:b", None),
        ("localhost:8000:1", None),
        ("user@localhost", None),
        ("::1", None),
    ],
)
def test_hosts(text: str, host: tuple[str, int | None] | None) -> None:
    assert parse_host(text) == host


@given(st.text())
def test_an_origin_fits_the_pattern_that_is_written_the_same(text: str) -> None:
    origin = Origin.parse(text)
    if origin is not None:
        assert OriginPattern.parse(text).fits(origin)
