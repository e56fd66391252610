"""/api/v1/datasets/<key>/doctor/ and repairs/: what is wrong with a dataset, and new versions that mend it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import StrictSerializer, errors
from datasets_app.api import KEY, DatasetView
from datasets_app.repairing import dataset_repair, long_repairs_of, readiness_of, repairs_of
from datasets_app.serializers import DatasetSerializer
from engine.repairs import REPAIRS


class RepairSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    title = serializers.CharField()
    help = serializers.CharField()


class DoctorSerializer(serializers.Serializer[Any]):
    status = serializers.CharField()
    findings = serializers.ListField(
        child=serializers.DictField(),
        help_text="{kind, title, count, examples: [{line, text}]}; of kinds unused and several_lists also fields: "
        "[{name, rows}]",
    )
    recipes = serializers.ListField(
        child=serializers.DictField(), help_text="{recipe, title, state: ready, repair or no, text, repair}"
    )
    repairs = RepairSerializer(many=True)
    long_repairs = RepairSerializer(many=True, help_text="Those that need model and max_tokens.")


class RepairRequestSerializer(StrictSerializer):
    repair = serializers.ChoiceField(choices=list(REPAIRS))
    model = serializers.CharField(required=False, default="", help_text="Slug of the base model that counts tokens.")
    max_tokens = serializers.IntegerField(required=False, default=0, help_text="The limit, for repairs of long rows.")


@extend_schema(parameters=[KEY])
class DatasetDoctorView(DatasetView):
    @extend_schema(responses={200: DoctorSerializer, **errors(401, 404)})
    def get(self, request: Request, key: str) -> Response:
        """What the check found in good rows, which methods can learn from them, and what would mend them."""
        dataset = self.get_dataset()
        return Response(
            DoctorSerializer(
                {
                    "status": dataset.status,
                    "findings": dataset.findings,
                    "recipes": readiness_of(dataset),
                    "repairs": repairs_of(dataset),
                    "long_repairs": long_repairs_of(dataset),
                }
            ).data
        )


@extend_schema(parameters=[KEY])
class DatasetRepairsView(DatasetView):
    @extend_schema(
        request=RepairRequestSerializer,
        responses={201: DatasetSerializer(many=True), **errors(400, 401, 403, 404, 507)},
    )
    def post(self, request: Request, key: str) -> Response:
        """Make a new version by a repair; two of a split. The dataset itself stays as it is."""
        dataset = self.get_dataset()
        body = RepairRequestSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        made = dataset_repair(dataset=dataset, by=self.reader, **body.validated_data)
        return Response(DatasetSerializer(made, many=True).data, status=201)
