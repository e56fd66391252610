"""The shapes in which programs get errors, by the address that they ask."""

from __future__ import annotations

from typing import Any

from core.api import error_body

# Below it everything answers as OpenAI's API does.
OPENAI = "/v1/"


def openai_error(
    message: str, *, status: int, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}. The type follows from the status."""
    if status == 429:
        kind = "rate_limit_error"
    elif status >= 500:
        kind = "server_error"
    else:
        kind = "invalid_request_error"

    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def is_for_programs(path: str) -> bool:
    return path.startswith(("/api/", OPENAI))


def error_of(path: str, status: int, code: str, message: str) -> dict[str, Any]:
    """An error of an address for programs, in the shape of that address."""
    if path.startswith(OPENAI):
        return openai_error(message, status=status, code=code)

    return error_body(code, message)
