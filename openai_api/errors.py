"""Errors as OpenAI's API writes them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, UnreadablePostError
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler

from core.error_shapes import openai_error
from core.errors import UserError


class ApiProblem(Exception):
    """A refusal. param: the field of the request that is refused, "" for none. code: OpenAI's where
    it has one. retry_after: seconds."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str = "",
        code: str = "",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        return openai_error(
            self.message, status=self.status, code=self.code or None, param=self.param or None
        )


def missing(what: str, identity: str, *, param: str = "id") -> ApiProblem:
    """Nothing there that this reader may see. what: "file", "fine-tuning job"."""
    return ApiProblem(f"No such {what} object: {identity[:100]}", status=404, param=param)


def problem_of(error: UserError, names: Mapping[str, str] | None = None) -> ApiProblem:
    """A refusal of the platform's services. names: {their field: the field of this API}.

    What is refused because of a state (409) is a bad request here: clients of OpenAI's try a 409
    again."""
    fields = [name for name in error.fields if name]
    param = (names or {}).get(fields[0], fields[0]) if fields else ""
    status = 400 if error.status == 409 else error.status

    return ApiProblem(
        error.message,
        status=status,
        param=param,
        code=error.code,
        retry_after=getattr(error, "retry_after", None),
    )


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Every refusal in OpenAI's shape; what is not a refusal (a bug) stays a 500."""
    if isinstance(error, UserError):
        error = problem_of(error)
    elif isinstance(error, UnreadablePostError):
        error = ApiProblem("The body did not arrive.", status=408, code="request_timeout")
    elif isinstance(error, Http404):
        error = ApiProblem("There is nothing at this address.", status=404, code="not_found")
    elif isinstance(error, PermissionDenied):
        text = "You may see this, and not change it."
        error = ApiProblem(text, status=403, code="forbidden")

    if isinstance(error, ApiProblem):
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
        return Response(error.body, status=error.status, headers=headers)

    response = drf_exception_handler(error, context)
    if response is None or not isinstance(error, exceptions.APIException):
        return response

    response.data = _body_of(error, response.status_code)
    return response


def _body_of(error: exceptions.APIException, status: int) -> dict[str, Any]:
    if isinstance(error, exceptions.NotAuthenticated):
        text = (
            "You didn't provide an API key. Send one as Authorization: Bearer …; your account page "
            "makes one."
        )
        return openai_error(text, status=status)

    if isinstance(error, exceptions.AuthenticationFailed):
        text = "Incorrect API key provided, or one that has expired. Your account page makes one."
        return openai_error(text, status=status, code="invalid_api_key")

    code = error.get_codes()
    return openai_error(str(error.detail), status=status, code=code if type(code) is str else None)
