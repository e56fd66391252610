"""What each address that asks a model does with a request: for views and batches alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User

from core.store import require_disk
from openai_api.errors import ApiProblem
from openai_api.inference.answers import Asked, Shape, chat_events
from openai_api.inference.bodies import Question, chat_question, completion_question
from openai_api.inference.embeddings import embeddings_question, embeddings_shape
from openai_api.inference.responses import (
    ROOM_BYTES,
    Events,
    Response,
    response_of_chat,
    stored_response,
)
from openai_api.inference.responses_body import fields_of, messages_of_input, responses_question
from serving.answering import CHAT, COMPLETIONS, EMBEDDINGS

RESPONSES = "/v1/responses"

Body = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """path: of the model server. shape: makes what is sent of its answer, None for the answer
    itself. events: makes what is sent of an answer's events, and the last event of one that breaks
    off (None for OpenAI's error); None where the address has no events."""

    path: str
    question: Question
    shape: Callable[[Body], Awaitable[Body]] | None = None
    events: Callable[[Asked], tuple[Shape, Callable[[ApiProblem], bytes] | None]] | None = None


def ask_of(endpoint: str, sent: Mapping[str, Any], reader: User) -> Ask:
    """endpoint: one of ENDPOINTS. Raises ApiProblem by the name of the
    field, and UserError (507) where there is no room to store what is to be stored."""
    return ENDPOINTS[endpoint](sent, reader)


def _chat(sent: Mapping[str, Any], reader: User) -> Ask:
    return Ask(CHAT, chat_question(sent), events=lambda asked: (chat_events(asked), None))


def _completions(sent: Mapping[str, Any], reader: User) -> Ask:
    question = completion_question(sent)
    return Ask(COMPLETIONS, question, events=lambda asked: (chat_events(asked), None))


def _embeddings(sent: Mapping[str, Any], reader: User) -> Ask:
    return Ask(EMBEDDINGS, embeddings_question(sent), embeddings_shape(sent))


def _responses(sent: Mapping[str, Any], reader: User) -> Ask:
    fields = fields_of(sent)
    messages = messages_of_input(sent.get("input"))
    if identity := fields.get("previous_response_id"):
        earlier = stored_response(identity, reader, param="previous_response_id")
        messages = [*earlier.messages, *messages]

    question = responses_question(sent, fields, messages)
    response = Response(reader, sent, fields, messages)
    if response.is_stored:
        # Before anything is generated for it.
        require_disk(ROOM_BYTES)

    async def shape(body: Body) -> Body:
        return await response_of_chat(response, body)

    def events(asked: Asked) -> tuple[Shape, Callable[[ApiProblem], bytes] | None]:
        made = Events(asked, response)
        return made.shape, made.failed

    return Ask(CHAT, question, shape, events)


ENDPOINTS: dict[str, Callable[[Mapping[str, Any], User], Ask]] = {
    CHAT: _chat,
    COMPLETIONS: _completions,
    RESPONSES: _responses,
    EMBEDDINGS: _embeddings,
}
