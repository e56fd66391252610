"""The gateway as pages ask it, from a thread."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from django.conf import settings

TIMEOUT_SECONDS = 5


class _Connection(http.client.HTTPConnection):
    def __init__(self) -> None:
        super().__init__("gateway", timeout=TIMEOUT_SECONDS)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(settings.GATEWAY_SOCKET))


def gateway_ask(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Raises OSError where it is not there."""
    connection = _Connection()
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise OSError(f"The gateway answered {response.status}.")

        reply: dict[str, Any] = json.loads(content)
        return reply
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"The gateway answered nothing that can be read: {error}") from error
    finally:
        connection.close()


def gateway_state() -> dict[str, Any] | None:
    """See serving.gateway.gateway.Gateway.state; None where the gateway is not there."""
    try:
        return gateway_ask("GET", "/state")
    except OSError:
        return None


def gateway_answers() -> bool:
    return gateway_state() is not None
