"""Whose address a request comes from, and whether it is one of ours."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest

Address = IPv4Address | IPv6Address


def client_address(request: HttpRequest) -> Address | None:
    """The peer's address; behind a configured proxy the last of X-Forwarded-For, which the proxy itself wrote.

    None for a last one that cannot be read, or a header that is not ASCII and that the server hands on as nothing:
    the peer is the proxy, which is trusted.
    """
    forwarded = request.headers.get("X-Forwarded-For") if settings.CONTIMG_BEHIND_PROXY else None
    return _parsed(request.META.get("REMOTE_ADDR", "") if forwarded is None else forwarded.rpartition(",")[2])


def is_trusted(request: HttpRequest) -> bool:
    """Is it one of CONTIMG_TRUSTED_ADDRESSES? Never when a proxy that was not configured stands between."""
    if not settings.CONTIMG_BEHIND_PROXY and any(name in request.headers for name in _MARKS_OF_A_PROXY):
        return False
    address = client_address(request)
    return address is not None and any(address in network for network in settings.CONTIMG_TRUSTED_ADDRESSES)


_MARKS_OF_A_PROXY = ("X-Forwarded-For", "Forwarded", "X-Real-IP")


def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address  # ::ffff:127.0.0.1, as a dual-stack socket says it


def network_of(request: HttpRequest) -> str:
    """Whom a throttle counts: an IPv4 address, or the /64 in which one IPv6 client may take any address."""
    address = client_address(request)
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), 64), strict=False))
    return str(address)
