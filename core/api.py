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
from core.requests import LARGEST_ID, integer_of

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


def whole_number(request: Request, name: str, default: int, *, least: int = 0) -> int:
    """A query parameter as an integer; raises ValidationError with its name."""
    if name not in request.query_params:
        return default

    number = integer_of(request.query_params[name], least=-LARGEST_ID)
    if number is None:
        raise exceptions.ValidationError({name: ["Give a whole number."]})
    if number < least:
        raise exceptions.ValidationError({name: [f"Give {least} or more."]})

    return number


def error_body(
    code: str, message: str, fields: dict[str, list[str]] | None = None
) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "fields": fields or {}}}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Every refusal in the one shape; what is not a refusal (a bug) stays a 500."""
    if isinstance(error, UserError):
        return _user_error_response(error)

    if isinstance(error, UnreadablePostError):
        body = error_body("request_timeout", "The body did not arrive.")
        return Response(body, status=408)

    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()

    response = drf_exception_handler(error, context)
    if response is None or not isinstance(error, exceptions.APIException):
        return response

    if isinstance(error, exceptions.ValidationError):
        response.data = _validation_error_body(error)
    else:
        response.data = error_body(str(error.default_code), str(error.detail))

    return response


def _user_error_response(error: UserError) -> Response:
    fields = {name: texts for name, texts in error.fields.items() if name}
    headers = {}

    # For refusals that pass, such as a lock-out: how many seconds to wait.
    if wait := getattr(error, "retry_after", None):
        headers["Retry-After"] = str(wait)

    return Response(
        error_body(error.code, error.message, fields),
        status=error.status,
        headers=headers,
    )


def _validation_error_body(error: exceptions.ValidationError) -> dict[str, Any]:
    fields = _flatten(error.detail)
    # The message has everything, for programs that show no more than that.
    messages = fields.pop("", [])

    for name, texts in fields.items():
        reasons = " ".join(texts)
        messages.append(f"{name}: {reasons}")

    message = " ".join(messages) or str(error.detail)
    return error_body("invalid", message, fields)


def _flatten(detail: Any, prefix: str = "") -> dict[str, list[str]]:
    """Nested errors as {"a.b": [texts]}."""
    if isinstance(detail, list) and any(isinstance(item, dict | list) for item in detail):
        detail = dict(enumerate(detail))

    if not isinstance(detail, dict):
        items = detail if isinstance(detail, list) else [detail]
        return {prefix: [str(item) for item in items]}

    flat: dict[str, list[str]] = {}

    for key, value in detail.items():
        name = "" if key == "non_field_errors" else str(key)
        path = ".".join(part for part in (prefix, name) if part)

        for inner_path, texts in _flatten(value, path).items():
            flat.setdefault(inner_path, []).extend(texts)

    return flat


def _type_problem(field: serializers.Field[Any, Any, Any, Any], value: Any) -> str | None:
    """What is wrong with the JSON type of a value; None for nothing."""
    match field:
        case serializers.CharField() if not isinstance(value, str):
            return "Give a text."

        case serializers.BooleanField() if not isinstance(value, bool):
            return "Give true or false."

        case serializers.ListField() if isinstance(value, list):
            for item in value:
                problem = _type_problem(field.child, item)
                if problem is not None:
                    return problem

    return None


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses what it does not know: a misspelled field is an error, not a default."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            self._check_types(data)
            self._check_names(data)

        return super().to_internal_value(data)

    def _check_names(self, data: Mapping[str, Any]) -> None:
        problems = {}

        for name in sorted(data, key=str):
            field = self.fields.get(name)
            if field is None or field.read_only:
                problems[str(name)] = ["Unknown field."]

        if problems:
            raise serializers.ValidationError(problems)

    def _check_types(self, data: Mapping[str, Any]) -> None:
        """Django REST framework accepts 0 as the text "0" and as false. JSON has types, and the
        OpenAPI document states them."""
        problems = {}
        for name, field in self.fields.items():
            value = data.get(name)
            # A QueryDict comes from an address or a form, and has texts alone.
            if value is None or isinstance(data, QueryDict):
                continue

            problem = _type_problem(field, value)
            if problem is not None:
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
    row = by_id_or_slug(rows, key)
    if row is None:
        raise exceptions.NotFound()

    return row


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
    """Entries for `responses=` of the statuses that a view may refuse with, by default 401 and
    404."""
    return dict.fromkeys(statuses or (401, 404), ErrorSerializer)
