"""API tokens as clients of hubs send them: `Authorization: Bearer …`."""

from __future__ import annotations

from rest_framework.request import Request

from accounts.authentication import TokenAuthentication


class BearerAuthentication(TokenAuthentication):
    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
