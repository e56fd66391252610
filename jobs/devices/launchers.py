"""Where a train runs: on machines of this platform, or on a Ray cluster. "" of a train is anywhere."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings

LOCAL = "local"
RAY = "ray"
ANYWHERE = ""
LAUNCHERS = {LOCAL: "This platform's machines", RAY: "Ray cluster"}

PORTS = {"http": 80, "https": 443}


def cluster_is_set() -> bool:
    """Whether this platform knows a Ray cluster."""
    return bool(settings.RAY_ADDRESS)


def cluster_name() -> str:
    """Host and port of the cluster, by which it is known here; "" where none is set."""
    if not settings.RAY_ADDRESS:
        return ""

    address = urlsplit(settings.RAY_ADDRESS)
    host = f"[{address.hostname}]" if ":" in str(address.hostname) else str(address.hostname)
    return f"{host}:{address.port or PORTS[address.scheme]}"


def cluster_title(name: str) -> str:
    return f"Ray cluster at {name}"


def machine_words(name: str, launcher: str) -> str:
    """A machine in a sentence: name is its host, or that of a cluster."""
    return f"the {cluster_title(name)}" if launcher == RAY else name
