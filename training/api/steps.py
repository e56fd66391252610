"""/api/v1/trains/try-step/: one step of a configuration, made and measured before any train of it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import KeyField, StrictSerializer, errors
from core.errors import UserError
from core.requests import reader_of
from training.api.trains import ingredients, with_parameters_named
from training.train.step_trial import step_cancel, step_read, step_try

# Fields that stand beside the parameters.
BESIDE = ("", "method", "base_model", "dataset", "continue_adapter")


class StepTrialRequestSerializer(StrictSerializer):
    method = KeyField(help_text="Id or slug, such as lora.")
    base_model = KeyField(help_text="Id or slug.")
    dataset = KeyField(help_text="Id or slug.")
    continue_adapter = serializers.BooleanField(required=False, default=False)
    parameters = serializers.DictField(
        required=False,
        default=dict,
        help_text="As for a train; see the method's parameters_schema.",
    )
    system_prompt = serializers.CharField(
        max_length=100_000, required=False, allow_blank=True, default=""
    )


class StepTrialSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    done = serializers.BooleanField()
    error = serializers.CharField(help_text="Why there is no result, in words for people.")
    peak_bytes = serializers.IntegerField(allow_null=True, help_text="The most memory it took.")
    step_seconds = serializers.FloatField(
        allow_null=True, help_text="Null where a train ran beside it."
    )
    device = serializers.CharField(help_text="On which it was made.")


class StepTrialView(APIView):
    @extend_schema(
        request=StepTrialRequestSerializer,
        responses={202: StepTrialSerializer, **errors(400, 401)},
    )
    def post(self, request: Request) -> Response:
        """Have a worker make one step of this configuration. Its result corrects later forecasts;
        nothing of it becomes a train."""
        body = StepTrialRequestSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        data = dict(body.validated_data)
        reader = reader_of(request)
        values = data | ingredients(reader, data)

        try:
            measurement = step_try(by=reader, **values)
        except UserError as error:
            raise with_parameters_named(error, BESIDE) from error

        return Response(step_read(by=reader, pk=measurement.pk), status=202)


class StepTrialResultView(APIView):
    @extend_schema(responses={200: StepTrialSerializer, **errors(401, 404)})
    def get(self, request: Request, pk: int) -> Response:
        """What the step took, once it is `done`."""
        found = step_read(by=reader_of(request), pk=pk)
        if found is None:
            raise exceptions.NotFound("There is no such trial of yours.")

        return Response(found)

    @extend_schema(request=None, responses={204: None, **errors(401, 404)})
    def delete(self, request: Request, pk: int) -> Response:
        """Cancel the trial."""
        if not step_cancel(by=reader_of(request), pk=pk):
            raise exceptions.NotFound("There is no such trial of yours.")

        return Response(status=204)
