"""What all API views share: one error shape and one pagination.

{"error": {"code": "invalid", "message": "…", "fields": {"parameters.learning_rate": ["…"]}}}
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework import exceptions
from rest_framework.pagination import PageNumberPagination
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler

from core.errors import UserError


class Pagination(PageNumberPagination):
    page_size = 25
    page_size_query_param = "page_size"
    max_page_size = 200


def error_body(code: str, message: str, fields: dict[str, list[str]] | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "fields": fields or {}}}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Every refusal in the one shape; what is not a refusal (a bug) stays a 500."""
    if isinstance(error, UserError):
        fields = {name: texts for name, texts in error.fields.items() if name}
        return Response(error_body(error.code, error.message, fields), status=error.status)
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    response = drf_exception_handler(error, context)
    if response is None or not isinstance(error, exceptions.APIException):
        return response
    fields = _flatten(error.detail) if isinstance(error, exceptions.ValidationError) else {}
    whole = fields.pop("", [])
    message = " ".join(whole + [f"{name}: {' '.join(texts)}" for name, texts in fields.items()])
    code = "invalid" if isinstance(error, exceptions.ValidationError) else str(error.default_code)
    response.data = error_body(code, message or str(error.detail), fields)
    return response


def _flatten(detail: Any, prefix: str = "") -> dict[str, list[str]]:
    """Nested errors as {"a.b": [texts]}."""
    if isinstance(detail, dict):
        found: dict[str, list[str]] = {}
        for key, value in detail.items():
            name = "" if key == "non_field_errors" else str(key)
            for path, texts in _flatten(value, ".".join(part for part in (prefix, name) if part)).items():
                found.setdefault(path, []).extend(texts)
        return found
    if isinstance(detail, list) and any(isinstance(item, dict | list) for item in detail):
        found = {}
        for index, item in enumerate(detail):
            found |= _flatten(item, f"{prefix}.{index}" if prefix else str(index))
        return found
    return {prefix: [str(item) for item in (detail if isinstance(detail, list) else [detail])]}
