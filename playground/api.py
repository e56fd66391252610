"""/api/v1/conversations/: all that the pages can do with conversations. The pages use it too."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import Http404, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core import api_sharing
from core.api import error_body, errors
from core.errors import UserError
from core.ownership import owner_check
from core.requests import LARGEST_ID, reader_of, row_or_404
from core.web.later import LaterResponse
from playground import feedback, services
from playground.datasets import dataset_make
from playground.filters import ConversationFilter
from playground.messages import messages_of
from playground.models import Answer, Conversation, ConversationQuerySet, Turn
from playground.prompts import prompts_of
from playground.sampling import DEFAULT_MAX_TOKENS, tools_clean
from playground.serializers import (
    ChoiceSerializer,
    ConversationCreateSerializer,
    ConversationLineSerializer,
    ConversationSerializer,
    ConversationUpdateSerializer,
    CorrectionSerializer,
    DatasetMadeSerializer,
    DatasetMakeSerializer,
    LinkSeenSerializer,
    LinkSerializer,
    PromptsSerializer,
    ResultsSerializer,
    TallySerializer,
    ThumbSerializer,
    TokensSeenSerializer,
    TokensSerializer,
    TurnCreateSerializer,
    TurnSerializer,
    VerdictSerializer,
    WarmSerializer,
)
from playground.streaming import Asked, written
from playground.tool_results import results_add
from playground.visibility import conversation_seen, stored_answer_seen, turn_seen
from serving.answering import AnswerProblem, prompt_read, warm
from serving.targets import Placement, target_find, targets_choices
from training.api.events import EventRenderer

TARGET = OpenApiParameter("target", OpenApiTypes.STR, description="A key of targets/.")


def conversation_or_404(request: Request, pk: int) -> Conversation:
    return row_or_404(Conversation.objects.visible_to(request.user).with_related(), pk)


def own_or_404(request: Request, pk: int) -> Conversation:
    """Raises PermissionDenied where the reader may not change it."""
    conversation = conversation_or_404(request, pk)
    owner_check(conversation, reader_of(request))
    return conversation


def turn_or_404(conversation: Conversation, position: int) -> Turn:
    for turn in conversation.turns.all():
        if turn.position == position:
            return turn

    raise Http404


def answer_or_404(turn: Turn, place: int) -> Answer:
    for answer in turn.answers.all():
        if answer.place == place:
            answer.turn = turn
            return answer

    raise Http404


def body_of(serializer: Any, request: Request) -> dict[str, Any]:
    body = serializer(data=request.data)
    body.is_valid(raise_exception=True)
    values: dict[str, Any] = dict(body.validated_data)
    return values


def answer(request: Request, pk: int, status: int = 200) -> Response:
    """The conversation as it is now."""
    conversation = Conversation.objects.with_related().get(pk=pk)
    seen = conversation_seen(conversation, reader_of(request))
    return Response(ConversationSerializer(seen).data, status=status)


class ConversationListView(generics.ListCreateAPIView[Conversation]):
    """List conversations, or begin one."""

    serializer_class: Any = ConversationLineSerializer
    filterset_class = ConversationFilter

    def get_queryset(self) -> ConversationQuerySet:
        return Conversation.objects.visible_to(self.request.user).select_related("owner")

    @extend_schema(
        request=ConversationCreateSerializer,
        responses={201: ConversationSerializer, **errors(400, 401)},
    )
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Begin a conversation with one to three models."""
        values = body_of(ConversationCreateSerializer, request)
        conversation = services.conversation_create(owner=reader_of(request), **values)
        return answer(request, conversation.pk, status=201)


class ConversationDetailView(APIView):
    @extend_schema(responses={200: ConversationSerializer, **errors()})
    def get(self, request: Request, pk: int) -> Response:
        """Show a conversation with its prompts and answers."""
        return answer(request, conversation_or_404(request, pk).pk)

    @extend_schema(
        request=ConversationUpdateSerializer,
        responses={200: ConversationSerializer, **errors(400, 401, 403, 404)},
    )
    def patch(self, request: Request, pk: int) -> Response:
        """Change a conversation; what was asked already stays as it was."""
        conversation = own_or_404(request, pk)
        values = body_of(ConversationUpdateSerializer, request)
        services.conversation_update(conversation=conversation, by=reader_of(request), **values)
        return answer(request, pk)

    @extend_schema(responses={204: None, **errors(401, 403, 404)})
    def delete(self, request: Request, pk: int) -> Response:
        """Delete a conversation with its feedback. Datasets that were made of it stay."""
        conversation = conversation_or_404(request, pk)
        services.conversation_delete(conversation=conversation, by=reader_of(request))
        return Response(status=204)


class ConversationLinkView(APIView):
    @extend_schema(
        request=LinkSerializer,
        responses={200: LinkSeenSerializer, **errors(400, 401, 403, 404)},
    )
    def put(self, request: Request, pk: int) -> Response:
        """Make the address by which others read it, or end that."""
        conversation = own_or_404(request, pk)
        values = body_of(LinkSerializer, request)
        services.link_set(conversation=conversation, by=reader_of(request), **values)
        return Response({"address": link_address(request, conversation)})


def link_address(request: Any, conversation: Conversation) -> str:
    if not conversation.link:
        return ""

    address: str = request.build_absolute_uri(
        reverse("playground:shared", args=[conversation.link])
    )
    return address


class TurnListView(APIView):
    @extend_schema(
        request=TurnCreateSerializer,
        responses={201: TurnSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request, pk: int) -> Response:
        """Add a prompt. Its answers are written when they are asked for, one stream each."""
        conversation = own_or_404(request, pk)
        values = body_of(TurnCreateSerializer, request)
        turn = services.turn_add(conversation=conversation, by=reader_of(request), **values)
        return Response(TurnSerializer(turn_seen(turn)).data, status=201)


class AnswerResponse(StreamingHttpResponse):
    def __init__(self, job: Asked) -> None:
        super().__init__(written(job), content_type="text/event-stream")
        self.job = job

    def close(self) -> None:
        super().close()
        self.job.close()


class AnswerStreamView(APIView):
    """The one place where a model writes for a page."""

    renderer_classes = (*APIView.renderer_classes, EventRenderer)

    @extend_schema(
        request=None,
        responses={
            (200, "text/event-stream"): OpenApiResponse(
                OpenApiTypes.ANY,
                description="`state`: what happens before the first word. Without a name: a chunk "
                "as OpenAI's API has it. `failed`: message and code. `done`: the stored answer.",
            ),
            **errors(401, 403, 404, 409),
        },
    )
    def post(self, request: Request, pk: int, position: int, place: int) -> HttpResponseBase:
        """Have an answer written, as server-sent events. Leaving ends it; what came is kept."""
        conversation = own_or_404(request, pk)
        turn = turn_or_404(conversation, position)
        asked = answer_or_404(turn, place)
        served = target_find(asked.target, reader_of(request))

        body = body_for(conversation, turn, asked)
        writer = services.answer_begin(asked)
        if not writer:
            raise UserError(
                "This answer is being written, or is already finished.",
                code="wrong_state",
                status=409,
            )

        is_hidden = turn.is_hidden
        job = Asked(asked.pk, writer, served.placement, body, is_hidden, stored_answer_seen)
        response = AnswerResponse(job)
        response["Cache-Control"] = "no-store"
        response["X-Accel-Buffering"] = "no"
        return response


def body_for(conversation: Conversation, turn: Turn, asked: Answer) -> dict[str, Any]:
    """The request for an answer, as OpenAI's API has it."""
    body: dict[str, Any] = {
        "model": asked.target,
        "messages": messages_of(conversation, asked.pane, turn),
        "max_tokens": DEFAULT_MAX_TOKENS,
        "stream_options": {"include_usage": True},
    } | asked.sampling

    if conversation.tools:
        body["tools"] = conversation.tools
    if conversation.response_format:
        body["response_format"] = conversation.response_format

    return body


# Feedback


class VoteView(APIView):
    @extend_schema(
        request=VerdictSerializer,
        responses={200: TurnSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request, pk: int, position: int) -> Response:
        """Vote on two answers whose models are hidden; then the names are shown."""
        turn = turn_or_404(own_or_404(request, pk), position)
        values = body_of(VerdictSerializer, request)
        feedback.vote(turn=turn, by=reader_of(request), **values)
        return turn_answer(turn)


def turn_answer(turn: Turn) -> Response:
    now = Turn.objects.with_related().get(pk=turn.pk)
    return Response(TurnSerializer(turn_seen(now)).data)


class ThumbView(APIView):
    @extend_schema(
        request=ThumbSerializer,
        responses={200: TurnSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def put(self, request: Request, pk: int, position: int, place: int) -> Response:
        """Say that an answer is good or bad, or take that back."""
        turn = turn_or_404(own_or_404(request, pk), position)
        values = body_of(ThumbSerializer, request)
        feedback.thumb(answer=answer_or_404(turn, place), by=reader_of(request), **values)
        return turn_answer(turn)


class CorrectionView(APIView):
    @extend_schema(
        request=CorrectionSerializer,
        responses={200: TurnSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def put(self, request: Request, pk: int, position: int, place: int) -> Response:
        """Keep what an answer should have been, or forget that."""
        turn = turn_or_404(own_or_404(request, pk), position)
        values = body_of(CorrectionSerializer, request)
        feedback.correction(answer=answer_or_404(turn, place), by=reader_of(request), **values)
        return turn_answer(turn)


class TalliesView(APIView):
    @extend_schema(responses={200: TallySerializer(many=True), **errors(401)})
    def get(self, request: Request) -> Response:
        """Count your votes, thumbs and corrections, by model."""
        rows = feedback.feedback_of(reader_of(request))
        return Response(TallySerializer(feedback.tallies(rows), many=True).data)


class DatasetMakeView(APIView):
    @extend_schema(
        request=DatasetMakeSerializer,
        responses={201: DatasetMadeSerializer, **errors(400, 401, 404, 507)},
    )
    def post(self, request: Request) -> Response:
        """Make a dataset of your feedback; made again it is the next version."""
        values = body_of(DatasetMakeSerializer, request)
        by = reader_of(request)
        conversation = own_conversation(by, values.pop("conversation"))
        dataset = dataset_make(by=by, conversation=conversation, **values)
        made = {
            "dataset": dataset.pk,
            "slug": dataset.slug,
            "version": dataset.version,
            "address": dataset.get_absolute_url(),
        }
        return Response(made, status=201)


def own_conversation(by: User, pk: int | None) -> Conversation | None:
    """Raises UserError by field where that is none of theirs."""
    if pk is None:
        return None

    rows: QuerySet[Conversation] = Conversation.objects.filter(owner=by, pk=min(pk, LARGEST_ID))
    conversation = rows.first()
    if conversation is None:
        raise UserError({"conversation": ["You have no such conversation."]})

    return conversation


# What helps to ask


class TargetsView(APIView):
    @extend_schema(responses={200: ChoiceSerializer(many=True), **errors(401)})
    def get(self, request: Request) -> Response:
        """List what can be asked: models, trains with their checkpoints, exports."""
        choices = [asdict(choice) for choice in targets_choices(reader_of(request))]
        return Response(ChoiceSerializer(choices, many=True).data)


class PromptsView(APIView):
    @extend_schema(
        parameters=[
            TARGET,
            OpenApiParameter("search", OpenApiTypes.STR, description="A text that they hold."),
            OpenApiParameter("after", OpenApiTypes.STR, description="`next` of the answer before."),
        ],
        responses={200: PromptsSerializer, **errors(400, 401, 404, 409, 503)},
    )
    def get(self, request: Request) -> Response:
        """List prompts that the train behind a model held out."""
        given = request.query_params
        after, search = given.get("after", ""), given.get("search", "")
        seen = asdict(prompts_of(given.get("target", ""), reader_of(request), after, search))
        return Response(PromptsSerializer(seen).data)


class TokensView(APIView):
    @extend_schema(
        request=TokensSerializer,
        responses={200: TokensSeenSerializer, **errors(400, 401, 404, 409, 503)},
    )
    def post(self, request: Request) -> HttpResponseBase:
        """Show the exact tokens of a conversation, as a model reads them."""
        values = body_of(TokensSerializer, request)
        served = target_find(values["target"], reader_of(request))
        tools = tools_clean(values["tools"])

        async def decide() -> HttpResponseBase:
            return await pieces_answer(served.placement, values | {"tools": tools})

        return LaterResponse(decide)


# More than that nobody reads on a page.
MOST_PIECES = 4000


async def pieces_answer(placement: Placement, asked: dict[str, Any]) -> JsonResponse:
    """asked: as TokensSerializer has it."""
    try:
        prompt = await prompt_read(
            placement,
            asked["messages"],
            tools=asked["tools"] or None,
            load=asked["load"],
            with_pieces=not asked["count_only"],
        )
    except AnswerProblem as problem:
        status = 409 if problem.code == "not_loaded" else problem.status
        return JsonResponse(error_body(problem.code, problem.message), status=status)

    pieces = [asdict(piece) for piece in prompt.pieces[:MOST_PIECES]]
    return JsonResponse({"count": prompt.count, "context": prompt.context, "pieces": pieces})


class WarmView(APIView):
    @extend_schema(request=WarmSerializer, responses={204: None, **errors(400, 401, 404, 409)})
    def post(self, request: Request) -> HttpResponseBase:
        """Have models loaded, since a question is likely."""
        values = body_of(WarmSerializer, request)
        reader = reader_of(request)
        placements = [target_find(key, reader).placement for key in values["targets"]]

        async def decide() -> HttpResponseBase:
            try:
                await asyncio.gather(*(warm(placement) for placement in placements))
            except AnswerProblem as problem:
                return JsonResponse(
                    error_body(problem.code, problem.message), status=problem.status
                )

            return HttpResponse(status=204)

        return LaterResponse(decide)


class ResultsView(APIView):
    @extend_schema(
        request=ResultsSerializer,
        responses={200: TurnSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request, pk: int, position: int, place: int) -> Response:
        """Say what the tools returned that an answer called. Ask for the answer then: it goes on."""
        turn = turn_or_404(own_or_404(request, pk), position)
        values = body_of(ResultsSerializer, request)
        results_add(answer=answer_or_404(turn, place), by=reader_of(request), **values)
        return turn_answer(turn)


ANSWERS = {200: ConversationLineSerializer, **api_sharing.REFUSALS}


@extend_schema(responses=ANSWERS)
class ConversationSharingView(api_sharing.SharingView):
    queryset = Conversation.objects.select_related("owner")
    serializer_class = ConversationLineSerializer


@extend_schema(responses=ANSWERS)
class ConversationHandOverView(api_sharing.HandOverView):
    queryset = Conversation.objects.select_related("owner")
    serializer_class = ConversationLineSerializer
