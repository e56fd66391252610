"""/v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings: asking a model.

What can be known of a request is checked here, in a thread of the pages; then the answer is waited
for on the event loop (core.web.later)."""

from __future__ import annotations

from typing import Any

from django.http.response import HttpResponseBase
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.response import Response

from openai_api.identifiers import model_find
from openai_api.inference.answers import Asked, streamed, whole
from openai_api.inference.calls import call_of
from openai_api.inference.endpoints import ask_of
from openai_api.inference.responses import stored_response
from openai_api.views.base import OpenAIView


class EventsRenderer(BaseRenderer):
    """For the negotiation alone: some clients ask for events and take nothing else."""

    media_type = "text/event-stream"
    format = "events"

    def render(self, data: Any, media_type: Any = None, context: Any = None) -> bytes:
        return JSONRenderer().render(data)


class AskingView(OpenAIView):
    """endpoint: one of openai_api.inference.endpoints.ENDPOINTS."""

    renderer_classes = (JSONRenderer, EventsRenderer)
    endpoint = ""

    def post(self, request: Any) -> HttpResponseBase:
        plain = request._request
        sent = self.body
        self.call = call_of(plain, self.reader, request.auth, str(sent.get("model") or ""))

        ask = ask_of(self.endpoint, sent, self.reader)
        served = model_find(ask.question.model, self.reader)
        asked = Asked(served.placement, ask.path, ask.question, plain, self.call)

        if not ask.question.stream or ask.events is None:
            return whole(asked, ask.shape)

        shape, failed = ask.events(asked)
        return streamed(asked, shape, failed)


class ResponseView(OpenAIView):
    def get(self, request: Any, identity: str) -> Response:
        return self.answer(stored_response(identity, self.reader).body)

    def delete(self, request: Any, identity: str) -> Response:
        stored_response(identity, self.reader).delete()
        return self.answer({"id": identity, "object": "response", "deleted": True})
