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
from rest_framework.negotiation import BaseContentNegotiation, DefaultContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.authentication import TokenAuthentication
from accounts.request_limits import Allowance
from core.requests import reader_of
from core.web.later import LaterResponse
from openai_api.errors import ApiProblem, exception_handler
from openai_api.inference.calls import call_of, call_record
from openai_api.inference.models import Call

VERSION = "2020-10-01"


class BearerAuthentication(TokenAuthentication):
    """`Authorization: Bearer …`, as OpenAI's clients send a key."""

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class AnyAccept(BaseContentNegotiation):
    """Whatever a client says it takes: for the bytes of a file OpenAI's say application/binary."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return DefaultContentNegotiation().select_parser(request, parsers)


class OpenAIView(APIView):
    """A view below /v1/. What a reader may not see is as if it were not there.

    It is no part of our API's document: its form is OpenAI's.
    """

    authentication_classes = (BearerAuthentication, TokenAuthentication, SessionAuthentication)
    content_negotiation_class = AnyAccept
    schema = None
    # What a view that asks a model knows of the call already.
    call: Call | None = None

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Any]:
        return exception_handler

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        self.began_at = time.perf_counter()
        return super().initialize_request(request, *args, **kwargs)

    def finalize_response(  # type: ignore[override]
        self, request: Request, response: HttpResponseBase, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        answer: HttpResponseBase = super().finalize_response(
            request,
            response,  # type: ignore[arg-type]
            *args,
            **kwargs,
        )
        seconds = time.perf_counter() - self.began_at
        answer["openai-version"] = VERSION
        answer["openai-processing-ms"] = str(round(1000 * seconds))
        answer["x-request-id"] = f"req_{uuid.uuid4().hex}"
        _limit_headers(request._request, answer)

        # Those that are answered later are recorded at their end.
        if not isinstance(answer, LaterResponse):
            self.record(request, answer, seconds)

        return answer

    def record(self, request: Request, answer: HttpResponseBase, seconds: float) -> None:
        """For the list of calls."""
        token = getattr(request._request, "token_seen", None)
        user = token.user if token is not None else request.user
        if not user.is_authenticated:
            return

        call = self.call or call_of(request._request, user, token, "")
        call.status = answer.status_code
        call.code = _code_of(answer)
        call.seconds = seconds
        call_record(call, request._request)

    @property
    def reader(self) -> User:
        return reader_of(self.request)

    @property
    def asks_only(self) -> bool:
        """Whether the key is for asking models, and so sees no data for training."""
        return getattr(self.request.auth, "scope", "") == "chat"

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object of the request. Raises ApiProblem for another value."""
        data = self.request.data
        if not isinstance(data, dict):
            raise ApiProblem("Send a JSON object as the body.")

        return data

    def answer(self, body: Any, status: int = 200) -> Response:
        return Response(body, status=status)


def _limit_headers(request: HttpRequest, answer: HttpResponseBase) -> None:
    """What is left of the key's requests, as OpenAI's API says it."""
    allowance: Allowance | None = getattr(request, "allowance", None)
    if allowance is None:
        return

    answer["x-ratelimit-limit-requests"] = str(allowance.limit)
    answer["x-ratelimit-remaining-requests"] = str(allowance.remaining)
    answer["x-ratelimit-reset-requests"] = f"{allowance.reset_seconds:.3f}s"


def _code_of(answer: HttpResponseBase) -> str:
    """The code of an error, "" for what is none."""
    data = getattr(answer, "data", None)
    error = data.get("error") if answer.status_code >= 400 and isinstance(data, dict) else None
    return str(error.get("code") or "")[:60] if isinstance(error, dict) else ""
