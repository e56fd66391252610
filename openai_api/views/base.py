"""What all views below /v1/ share: the key, errors, headers, and who asks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.authentication import SessionAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.authentication import TokenAuthentication
from core.requests import reader_of
from openai_api.errors import ApiProblem, exception_handler

VERSION = "2020-10-01"


class BearerAuthentication(TokenAuthentication):
    """`Authorization: Bearer …`, as OpenAI's clients send a key."""

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class OpenAIView(APIView):
    """A view below /v1/. What a reader may not see is as if it were not there.

    It is no part of our API's document: its form is OpenAI's.
    """

    authentication_classes = (BearerAuthentication, TokenAuthentication, SessionAuthentication)
    schema = None

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Any]:
        return exception_handler

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        self.began_at = time.perf_counter()
        return super().initialize_request(request, *args, **kwargs)

    def finalize_response(
        self, request: Request, response: HttpResponseBase, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        answer: HttpResponseBase = super().finalize_response(
            request,
            response,  # type: ignore[arg-type]
            *args,
            **kwargs,
        )
        milliseconds = round(1000 * (time.perf_counter() - self.began_at))
        answer["openai-version"] = VERSION
        answer["openai-processing-ms"] = str(milliseconds)
        answer["x-request-id"] = f"req_{uuid.uuid4().hex}"

        return answer

    @property
    def reader(self) -> User:
        return reader_of(self.request)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object of the request. Raises ApiProblem for another value."""
        data = self.request.data
        if not isinstance(data, dict):
            raise ApiProblem("Send a JSON object as the body.")

        return data

    def answer(self, body: Any, status: int = 200) -> Response:
        return Response(body, status=status)
