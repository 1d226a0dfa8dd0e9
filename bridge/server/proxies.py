"""Whose request this is: the peer's own address, or behind proxies that are trusted, the one that they name.

`X-Forwarded-For` is written by everybody on the way, the client first, so only its right end can be believed: going
from right to left, the first address that is no trusted proxy is the client. What is no address is nobody's word: the
last proxy that was trusted then counts as the client itself.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from bridge.server.http import Request

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_HOPS = 32
"""Entries that are looked at: more proxies than that are a loop, or a lie."""
_IPV6_SITE_BITS = 64  # one customer's network, in which every address is free to take


@lru_cache(maxsize=4096)
def address_of(text: str) -> Address | None:
    """An IP address as sockets and proxies write it (brackets, a port, a zone, IPv4 in IPv6); None for others."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address: Address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_trusted(address: Address | None, trusted: Sequence[Network]) -> bool:
    """Whether an address is one of the trusted proxies."""
    return address is not None and any(address in network for network in trusted)


def client_address(peer: Address | None, request: Request, trusted: Sequence[Network]) -> Address | None:
    """The address of who asks; None where the peer has none (a socket that is no internet socket)."""
    if not trusted or not is_trusted(peer, trusted):
        return peer
    forwarded = request.tokens(b"x-forwarded-for")
    for entry in reversed(forwarded[-MAX_HOPS:]):
        address = address_of(entry)
        if address is None:
            return peer
        peer = address
        if not is_trusted(address, trusted):
            return address
    return peer


def site(address: Address) -> str:
    """What counts as one address where places are limited: an IPv4 address, or an IPv6 network of 64 bits."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _IPV6_SITE_BITS), strict=False))
    return str(address)
