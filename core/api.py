"""What all API views share: one error shape and one pagination.

{"error": {"code": "invalid", "message": "…", "fields": {"parameters.learning_rate": ["…"]}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, QueryDict, UnreadablePostError
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema_field
from rest_framework import exceptions, serializers
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler

from core.errors import UserError

# For the OpenAPI document: what names a row in an address.
KEY = OpenApiParameter("key", OpenApiTypes.STR, OpenApiParameter.PATH, description="Id or slug.")


class Pagination(PageNumberPagination):
    page_size = 25
    page_size_query_param = "page_size"
    max_page_size = 200

    def get_page_size(self, request: Request) -> int:
        """Raises ValidationError for what is no number, where Django REST framework takes the
        default."""
        text = request.query_params.get("page_size", str(self.page_size))
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
            raise exceptions.ValidationError({"page_size": ["Give a whole number, 1 or more."]})

        return min(int(text), self.max_page_size)


def error_body(
    code: str, message: str, fields: dict[str, list[str]] | None = None
) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "fields": fields or {}}}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Every refusal in the one shape; what is not a refusal (a bug) stays a 500."""
    if isinstance(error, UserError):
        fields = {name: texts for name, texts in error.fields.items() if name}
        # For refusals that pass, such as a lock-out: how many seconds to wait.
        wait = getattr(error, "retry_after", None)
        headers = {"Retry-After": str(wait)} if wait else None

        return Response(
            error_body(error.code, error.message, fields), status=error.status, headers=headers
        )

    if isinstance(error, UnreadablePostError):
        return Response(error_body("request_timeout", "The body did not arrive."), status=408)

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
            for path, texts in _flatten(
                value, ".".join(part for part in (prefix, name) if part)
            ).items():
                found.setdefault(path, []).extend(texts)

        return found

    if isinstance(detail, list) and any(isinstance(item, dict | list) for item in detail):
        found = {}
        for index, item in enumerate(detail):
            found |= _flatten(item, f"{prefix}.{index}" if prefix else str(index))

        return found

    return {prefix: [str(item) for item in (detail if isinstance(detail, list) else [detail])]}


def _type_problem(field: serializers.Field[Any, Any, Any, Any], value: Any) -> str | None:
    if isinstance(field, serializers.CharField) and not isinstance(value, str):
        return "Give a text."
    if isinstance(field, serializers.BooleanField) and not isinstance(value, bool):
        return "Give true or false."

    if isinstance(field, serializers.ListField) and isinstance(value, list):
        return next(filter(None, (_type_problem(field.child, item) for item in value)), None)

    return None


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses what it does not know: a misspelled field is an error, not a default."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            self._check_types(data)
            known = {name for name, field in self.fields.items() if not field.read_only}
            if unknown := sorted(str(name) for name in data if name not in known):
                raise serializers.ValidationError({name: ["Unknown field."] for name in unknown})

        return super().to_internal_value(data)

    def _check_types(self, data: Mapping[str, Any]) -> None:
        """Django REST framework takes 0 for the text "0" and for false. JSON has types, and the
        document names them."""
        problems = {}
        for name, field in self.fields.items():
            value = data.get(name)
            if value is None or isinstance(data, QueryDict):
                continue

            if problem := _type_problem(field, value):
                problems[name] = [problem]

        if problems:
            raise serializers.ValidationError(problems)


M = TypeVar("M", bound=Model)


def by_id_or_slug(rows: QuerySet[M], key: str) -> M | None:
    """The row of that id, or of that slug; None for neither and for numbers that no database column
    holds."""
    if key.isascii() and key.isdigit():
        return rows.filter(pk=int(key)).first() if len(key) < 19 else None

    return rows.filter(slug=key).first() if "\x00" not in key else None


def object_or_404(rows: QuerySet[M], key: str) -> M:
    if (found := by_id_or_slug(rows, key)) is None:
        raise exceptions.NotFound()

    return found


@extend_schema_field(OpenApiTypes.STR)
class KeyField(serializers.Field[Any, Any, Any, Any]):
    """An id or a slug in a request body."""

    default_error_messages = {"invalid": "Give an id or a slug."}

    def to_internal_value(self, data: Any) -> str:
        if isinstance(data, bool) or not isinstance(data, int | str) or not str(data):
            self.fail("invalid")

        return str(data)

    def to_representation(self, value: Any) -> Any:
        return value


class ErrorDetailSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()
    fields = serializers.DictField(child=serializers.ListField(child=serializers.CharField()))  # type: ignore[assignment]


class ErrorSerializer(serializers.Serializer[Any]):
    """The one error shape, for the OpenAPI document."""

    error = ErrorDetailSerializer()


def errors(*statuses: int) -> dict[int, type[ErrorSerializer]]:
    """`responses=` entries for the statuses that a view may refuse with, 401 and 404 by default."""
    return dict.fromkeys(statuses or (401, 404), ErrorSerializer)
