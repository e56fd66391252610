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
    believed: with TRUSTED_PROXY_COUNT = 2 the second entry from the right is the client."""
    remote = request.META.get("REMOTE_ADDR", "")
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "")
    proxies = settings.TRUSTED_PROXY_COUNT

    if not proxies:
        _warn_of_proxy(forwarded)
        return network(remote)

    entries = [entry.strip() for entry in forwarded.split(",") if entry.strip()]
    # With fewer entries than proxies the request did not come through all of them.
    return network(entries[-proxies]) if len(entries) >= proxies else network(remote)


def network(address: str) -> str:
    """The network of one address; a port behind it is dropped. "unknown" for what is no address."""
    found: Any = _parse(address) or _parse(address.rpartition(":")[0])
    if found is None:
        return UNKNOWN

    if found.version == 6 and found.ipv4_mapped:
        return str(found.ipv4_mapped)
    if found.version == 6:
        return str(ipaddress.IPv6Network((int(found), IPV6_PREFIX), strict=False))

    return str(found)


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _warn_of_proxy(forwarded: str) -> None:
    """Behind a proxy that is not declared all people share one address, and one lock-out."""
    global _warned_of_proxy

    if not forwarded or _warned_of_proxy:
        return

    _warned_of_proxy = True
    logger.warning(
        "A request came with X-Forwarded-For, but TRUSTED_PROXY_COUNT is 0. If a proxy stands in "
        "front, set it to the "
        "number of proxies: until then everybody behind it counts as one address when sign-ins are "
        "limited."
    )
