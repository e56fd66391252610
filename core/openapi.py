"""The errors that every operation of the API may answer, in its OpenAPI document."""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction
from rest_framework.permissions import AllowAny

from core.api import ErrorSerializer

# Each with the error body.
MEANING = {
    "400": "A parameter or the body is not valid.",
    "401": "Nobody is signed in: send a token.",
    "403": "Signed in, but not allowed to do this.",
    "404": "Not there, or not yours to see.",
    "406": "The Accept header asks for a format that is not offered.",
    "409": "What is there now does not allow it.",
    "413": "The body is too large.",
    "415": "The body has a content type that is not taken.",
    "429": "Too many wrong passwords, or too many requests.",
    "503": "The database or the queue does not answer. Try again after Retry-After seconds.",
    "507": "The disk is full.",
}
WRITES = ("POST", "PUT", "PATCH", "DELETE")


class Schema(AutoSchema):
    """Adds the refusals that do not depend on the view, in the one error shape."""

    def _get_response_bodies(self, direction: Direction = "response") -> dict[str, Any]:
        # Not get_response_serializers: `@extend_schema(responses=…)` replaces that.
        bodies: dict[str, Any] = super()._get_response_bodies(direction)
        for status in self.usual_errors():
            if status not in bodies:
                bodies[status] = self._get_response_for_code(  # type: ignore[no-untyped-call]
                    ErrorSerializer, status, direction=direction
                )

            bodies[status]["description"] = bodies[status]["description"] or MEANING[status]

        return dict(sorted(bodies.items()))

    def usual_errors(self) -> list[str]:
        """Statuses of any operation of this kind."""
        statuses = ["400", "403", "404", "406", "429", "503"]

        permissions = self.view.get_permissions()
        if not any(isinstance(permission, AllowAny) for permission in permissions):
            statuses.append("401")
        if self.method in WRITES:
            statuses += ["409", "413", "415", "507"]

        return statuses
