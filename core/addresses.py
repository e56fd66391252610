"""The address a request comes from, and the network that address stands for."""

from __future__ import annotations

import ipaddress
import logging
from typing import Any

from django.conf import settings
from django.http import HttpRequest

logger = logging.getLogger("deepextension.addresses")

# A home or an office usually has a whole /64 of IPv6: one machine can change its address at will
# within it.
IPV6_PREFIX = 64
UNKNOWN = "unknown"

_warned_of_proxy = False


def client_address(request: HttpRequest) -> str:
    """The network that a request comes from, as text: an IPv4 address, an IPv6 /64, or "unknown".

    X-Forwarded-For can be written by anyone. Only the entries that our own proxies appended are
    trusted: with TRUSTED_PROXY_COUNT = 2 the second entry from the right is the client."""
    remote = request.META.get("REMOTE_ADDR", "")
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "")
    proxies = settings.TRUSTED_PROXY_COUNT

    if not proxies:
        _warn_of_proxy(forwarded)
        return network(remote)

    entries = [entry.strip() for entry in forwarded.split(",") if entry.strip()]

    if len(entries) < proxies:
        # The request did not come through all of them.
        return network(remote)

    return network(entries[-proxies])


def network(address: str) -> str:
    """The network of one address, without a port; "unknown" for what is no address."""
    without_port = address.rpartition(":")[0]
    parsed: Any = _parse(address) or _parse(without_port)

    if parsed is None:
        return UNKNOWN
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)

    return str(ipaddress.IPv6Network((int(parsed), IPV6_PREFIX), strict=False))


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _warn_of_proxy(forwarded: str) -> None:
    """Behind a proxy that is not declared, everybody shares one address, and one lock-out."""
    global _warned_of_proxy

    if not forwarded or _warned_of_proxy:
        return

    _warned_of_proxy = True
    logger.warning(
        "A request came with X-Forwarded-For, but TRUSTED_PROXY_COUNT is 0. If the platform is "
        "behind a proxy, set it to the number of proxies: until then everybody behind the proxy "
        "counts as one address when sign-ins are limited."
    )
