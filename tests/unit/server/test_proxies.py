"""Whose request it is, behind proxies and beside them."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.server.http import Request
from bridge.server.proxies import MAX_HOPS, address_of, client_address, is_trusted, site

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


def request(*forwarded: str) -> Request:
    headers = [(b"host", b"x")] + [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return Request("GET", "/", headers)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", ["1.2.3.4"], "203.0.113.9"),  # no proxy of ours: its word counts for nothing
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),  # the client may write what it likes at the left
        ("10.0.0.1", ["6.6.6.6", "1.2.3.4, 10.9.9.9"], "1.2.3.4"),
        ("10.0.0.1", ["1.2.3.4, fd00::7"], "1.2.3.4"),
        ("10.0.0.1", ["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
        ("10.0.0.1", ["garbage"], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4, garbage, 10.3.3.3"], "10.3.3.3"),
        ("10.0.0.1", [", ,"], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
        ("10.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1%eth0"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["::ffff:1.2.3.4"], "1.2.3.4"),
    ],
)
def test_the_rightmost_address_that_is_not_trusted(peer: str, forwarded: list[str], client: str) -> None:
    assert str(client_address(address_of(peer), request(*forwarded), TRUSTED)) == client


def test_nobody_is_trusted_by_default() -> None:
    assert str(client_address(address_of("127.0.0.1"), request("1.2.3.4"), ())) == "127.0.0.1"


def test_a_peer_without_an_address_is_nobody() -> None:
    assert client_address(address_of(""), request("1.2.3.4"), TRUSTED) is None


def test_a_header_of_many_hops_is_read_so_far_only() -> None:
    hops = ["1.2.3.4", *["10.0.0.2"] * MAX_HOPS]
    assert str(client_address(address_of("10.0.0.1"), request(", ".join(hops)), TRUSTED)) == "10.0.0.2"


def test_a_network_of_ipv6_is_one_address() -> None:
    one, other, far = (address_of(f"2001:db8:0:{n}::{n}{n}") for n in (1, 1, 2))
    assert one is not None
    assert other is not None
    assert far is not None
    assert site(one) == site(other) != site(far)
    v4 = address_of("1.2.3.4")
    assert v4 is not None
    assert site(v4) == "1.2.3.4"


@given(st.text(max_size=60), st.text(max_size=30))
def test_any_text_gives_a_trusted_proxy_or_an_address_that_stands_there(left: str, right: str) -> None:
    peer = address_of("10.0.0.1")
    headers = [(b"x-forwarded-for", f"{left},{right}".encode("utf-8", "replace"))]
    found = client_address(peer, Request("GET", "/", headers), TRUSTED)
    assert found is not None
    assert is_trusted(found, TRUSTED) or found in [address_of(text) for text in (left + "," + right).split(",")]
