"""/api/v1/trains/try-rewards/ and completions/: what answers are worth, before a train and during
it."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import exceptions, generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import KeyField, StrictSerializer, errors, whole_number
from core.errors import UserError
from core.requests import reader_of
from jobs.devices.presence import worker_state
from training.api.serializers import SampleSerializer
from training.api.trains import (
    ingredients,
    train_or_404,
    with_parameters_named,
)
from training.models import Sample
from training.train.trial import trial_cancel, trial_read, trial_start

LAST_STEP = 2**62
# Fields that stand beside the parameters.
BESIDE = ("", "method", "base_model", "dataset", "answers")


class RewardTrialRequestSerializer(StrictSerializer):
    method = KeyField(help_text="Id or slug of a method with rewards, such as grpo.")
    base_model = KeyField(help_text="Id or slug.")
    dataset = KeyField(help_text="Id or slug.")
    parameters = serializers.DictField(
        required=False, default=dict, help_text="With `rewards`, as for a train."
    )
    system_prompt = serializers.CharField(
        max_length=100_000, required=False, allow_blank=True, default=""
    )
    answers = serializers.ListField(
        child=serializers.CharField(allow_blank=True, max_length=20_000),
        required=False,
        allow_null=True,
        default=None,
        max_length=5,
        help_text="Typed answers to the first rows; without them the base model answers.",
    )


class RewardTrialKeySerializer(serializers.Serializer[Any]):
    key = serializers.CharField(help_text="Ask for the result under this.")


class RewardTrialResultSerializer(serializers.Serializer[Any]):
    done = serializers.BooleanField(help_text="No further answer comes.")
    cancelled = serializers.BooleanField()
    rows = serializers.IntegerField(help_text="How many answers there will be.")
    error = serializers.CharField(
        help_text="Why it ended before the last row, in words for people."
    )
    answers = serializers.ListField(
        child=serializers.DictField(),
        help_text="{prompt, reference, text, rewards: {name: {value, error}}, total}",
    )


class RewardTrialView(APIView):
    @extend_schema(
        request=RewardTrialRequestSerializer,
        responses={202: RewardTrialKeySerializer, **errors(400, 401)},
    )
    def post(self, request: Request) -> Response:
        """Score a few answers with these rewards, before any train. Ask for the result: answers
        come one by one."""
        body = RewardTrialRequestSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        data = body.validated_data
        chosen = ingredients(reader_of(request), data)

        try:
            key = trial_start(
                by=reader_of(request),
                parameters=data["parameters"],
                system_prompt=data["system_prompt"],
                answers=data["answers"],
                device=worker_state().device_kind,
                **chosen,
            )
        except UserError as error:
            raise with_parameters_named(error, BESIDE) from error

        return Response({"key": key}, status=202)


class RewardTrialResultView(APIView):
    @extend_schema(responses={200: RewardTrialResultSerializer, **errors(401, 404)})
    def get(self, request: Request, key: str) -> Response:
        """The answers and scores so far, in the order of the rows; all that there will be once
        `done`."""
        result = trial_read(by=reader_of(request), key=key)
        if result is None:
            raise exceptions.NotFound("This trial is not there any more. Start another.")

        return Response(result)

    @extend_schema(request=None, responses={204: None, **errors(401, 404)})
    def delete(self, request: Request, key: str) -> Response:
        """Cancel the trial. The answers that it has can still be read."""
        if not trial_cancel(by=reader_of(request), key=key):
            raise exceptions.NotFound("This trial is not there any more.")

        return Response(status=204)


@extend_schema_view(
    get=extend_schema(
        parameters=[
            OpenApiParameter("step", OpenApiTypes.INT, description="Only those of this step.")
        ],
        responses={200: SampleSerializer(many=True), **errors(400, 401, 404)},
    )
)
class TrainCompletionsView(generics.ListAPIView[Sample]):
    """Answers that the model wrote while it was trained by their rewards, oldest first."""

    serializer_class = SampleSerializer
    filter_backends = ()

    def get_queryset(self) -> QuerySet[Sample]:
        if getattr(self, "swagger_fake_view", False):
            return Sample.objects.none()

        run = train_or_404(self.request, self.kwargs["pk"])
        completions = run.samples.filter(stage="completion").order_by("seq")
        if "step" not in self.request.query_params:
            return completions

        step = whole_number(self.request, "step", 0)
        if step >= LAST_STEP:
            return completions.none()

        return completions.filter(step=step)
