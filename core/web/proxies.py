"""Whose headers about the client are trusted: those of the proxies in FORWARDED_ALLOW_IPS."""

from __future__ import annotations

import ipaddress
import logging
from functools import lru_cache

from django.conf import settings

# What a proxy says about the client behind it. From anybody else it is a claim.
FORWARDED = (
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-port",
)

Header = tuple[bytes, bytes]

logger = logging.getLogger("deepextension.web")

_has_warned = False


@lru_cache(1024)
def is_proxy(address: str) -> bool:
    """Whether the settings name this address, or a network that it is in."""
    for allowed in settings.FORWARDED_ALLOW_IPS:
        if allowed == "*":
            return True

        try:
            network = ipaddress.ip_network(allowed, strict=False)
            if ipaddress.ip_address(address) in network:
                return True
        except ValueError:
            continue

    return False


def trusted_headers(headers: list[Header], address: str) -> list[Header]:
    """The headers without claims that only a proxy may make."""
    if is_proxy(address):
        return headers

    trusted = [pair for pair in headers if pair[0] not in FORWARDED]
    if len(trusted) < len(headers):
        _warn(address)

    return trusted


def _warn(address: str) -> None:
    """Once in each process: anybody can send such headers, and must not be able to fill the log."""
    global _has_warned

    if _has_warned:
        return

    _has_warned = True
    logger.warning(
        "Headers such as X-Forwarded-For came from %s and were dropped. If that is a proxy of "
        "yours, add it to FORWARDED_ALLOW_IPS: until then everybody behind it counts as one "
        "address.",
        address,
    )
