"""/v1/chat/completions, /v1/completions, /v1/embeddings: asking a model.

What can be known of a request is checked here, in a thread of the pages; then the answer is waited
for on the event loop (core.web.later)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.http.response import HttpResponseBase
from rest_framework.renderers import BaseRenderer, JSONRenderer

from openai_api.asking.answers import Asked, streamed, whole
from openai_api.asking.bodies import Question, chat_question, completion_question
from openai_api.asking.calls import call_of
from openai_api.asking.chat import events_shape, with_usage
from openai_api.asking.embeddings import embeddings_question, embeddings_shape
from openai_api.identifiers import model_find
from openai_api.views.base import OpenAIView
from serving.answering import CHAT, COMPLETIONS, EMBEDDINGS


class EventsRenderer(BaseRenderer):
    """For the negotiation alone: some clients ask for events and take nothing else."""

    media_type = "text/event-stream"
    format = "events"

    def render(self, data: Any, media_type: Any = None, context: Any = None) -> bytes:
        return JSONRenderer().render(data)


class AskingView(OpenAIView):
    renderer_classes = (JSONRenderer, EventsRenderer)

    def asked(self, path: str, question: Question) -> Asked:
        """Raises ApiProblem (404) for a model that this reader may not see."""
        call = call_of(self.request._request, self.reader, self.request.auth, question.model)
        self.call = call
        served = model_find(question.model, self.reader)
        return Asked(self.request._request, path, call, served.placement, question)


class TextView(AskingView):
    path = ""
    question: Callable[[Mapping[str, Any]], Question]

    def post(self, request: Any) -> HttpResponseBase:
        asked = self.asked(self.path, type(self).question(self.body))
        if not asked.question.stream:
            return whole(asked)

        asked.question.body.update(with_usage({}))
        return streamed(asked, events_shape(asked))


class ChatView(TextView):
    path = CHAT
    question = chat_question


class CompletionsView(TextView):
    path = COMPLETIONS
    question = completion_question


class EmbeddingsView(AskingView):
    def post(self, request: Any) -> HttpResponseBase:
        asked = self.asked(EMBEDDINGS, embeddings_question(self.body))
        return whole(asked, embeddings_shape(self.body))
