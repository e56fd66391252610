"""/v1/responses."""

from __future__ import annotations

from typing import Any

from django.http.response import HttpResponseBase
from rest_framework.response import Response as JsonResponse

from openai_api.asking.answers import streamed, whole
from openai_api.asking.chat import with_usage
from openai_api.asking.responses import Events, Response, response_of_chat, stored_response
from openai_api.asking.responses_body import fields_of, messages_of_input, responses_question
from openai_api.asking.views import AskingView
from openai_api.views.base import OpenAIView
from serving.answering import CHAT


class ResponsesView(AskingView):
    def post(self, request: Any) -> HttpResponseBase:
        sent = self.body
        fields = fields_of(sent)
        messages = self.before(fields) + messages_of_input(sent.get("input"))

        asked = self.asked(CHAT, responses_question(sent, fields, messages))
        response = Response(self.reader, sent, fields, messages)
        if not asked.question.stream:
            return whole(asked, lambda body: response_of_chat(response, body))

        asked.question.body.update(with_usage({}))
        events = Events(asked, response)
        return streamed(asked, events.shape, events.failed)

    def before(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """The conversation up to the response that this one goes on from."""
        identity = fields.get("previous_response_id")
        if not identity:
            return []

        earlier = stored_response(identity, self.reader, param="previous_response_id")
        return list(earlier.messages)


class ResponseView(OpenAIView):
    def get(self, request: Any, identity: str) -> JsonResponse:
        return self.answer(stored_response(identity, self.reader).body)

    def delete(self, request: Any, identity: str) -> JsonResponse:
        stored_response(identity, self.reader).delete()
        return self.answer({"id": identity, "object": "response", "deleted": True})
