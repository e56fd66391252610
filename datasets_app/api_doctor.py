"""/api/v1/datasets/<key>/doctor/ and repairs/: what is wrong with a dataset, and new versions that
mend it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import KEY, StrictSerializer, errors
from core.text import number_of
from datasets_app.api import DatasetView
from datasets_app.findings import FindingRow, finding_row, findings_of
from datasets_app.readiness import readiness_of
from datasets_app.repairing import dataset_repair, long_repairs_of, repairs_of, safe_repairs_of
from datasets_app.serializers import DatasetSerializer, RowSerializer
from engine.doctor.finding_kinds import SEVERITY_WORDS
from engine.doctor.repair_kinds import APPLY_CHANGES, MEND_SAFE, REPAIRS


class RepairSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    title = serializers.CharField()
    help = serializers.CharField()


class FindingSerializer(serializers.Serializer[Any]):
    key = serializers.CharField(help_text="Names the finding in /doctor/<finding>/.")
    kind = serializers.CharField(
        help_text="“problems” for rows that cannot be read, told apart by their reason."
    )
    title = serializers.CharField()
    explanation = serializers.CharField()
    severity = serializers.ChoiceField(choices=list(SEVERITY_WORDS.items()))
    count = serializers.IntegerField(help_text="Rows that it is about.")
    lines = serializers.ListField(
        child=serializers.IntegerField(), help_text="Of the first of these rows."
    )
    repairs = RepairSerializer(many=True)
    is_safe = serializers.BooleanField(help_text="Whether the repair mend_safe takes care of it.")


class FindingRowSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField(help_text="Which of the finding's rows this is, from 1.")
    row = RowSerializer(source="row.seen")
    outcome = serializers.CharField(
        help_text="What the finding's first repair does to the row: changed, left_out, same, or "
        "nothing without one."
    )
    after = RowSerializer(
        allow_null=True, help_text="The row as the repair makes it; null where it is left out."
    )


class DoctorSerializer(serializers.Serializer[Any]):
    status = serializers.CharField()
    findings = serializers.ListField(
        child=serializers.DictField(),
        help_text="As the check wrote them: {kind, title, count, examples: [{line, text}], lines}; "
        "of kinds unused and several_lists also fields: [{name, rows}]",
    )
    faults = FindingSerializer(many=True, help_text="What is wrong, what matters most in front.")
    recipes = serializers.ListField(
        child=serializers.DictField(),
        help_text="{recipe, title, state: ready, repair or no, text, repair}",
    )
    repairs = RepairSerializer(many=True)
    safe_repairs = RepairSerializer(
        many=True, help_text="Those that the repair mend_safe applies, in their order."
    )
    long_repairs = RepairSerializer(many=True, help_text="Those that need model and max_tokens.")


class RepairRequestSerializer(StrictSerializer):
    repair = serializers.ChoiceField(
        choices=[*REPAIRS, MEND_SAFE, APPLY_CHANGES],
        help_text="mend_safe: all safe repairs at once. apply_changes: rows that were edited, set "
        "aside or put back.",
    )
    model = serializers.CharField(
        required=False, default="", help_text="Slug of the base model that counts tokens."
    )
    max_tokens = serializers.IntegerField(
        required=False, default=0, help_text="The limit, for repairs of long rows."
    )


@extend_schema(parameters=[KEY])
class DatasetDoctorView(DatasetView):
    @extend_schema(responses={200: DoctorSerializer, **errors(401, 404)})
    def get(self, request: Request, key: str) -> Response:
        """What the check found, which methods can learn from the rows, and what would mend them."""
        dataset = self.get_dataset()
        return Response(
            DoctorSerializer(
                {
                    "status": dataset.status,
                    "findings": dataset.findings,
                    "faults": findings_of(dataset),
                    "recipes": readiness_of(dataset),
                    "repairs": repairs_of(dataset),
                    "safe_repairs": safe_repairs_of(dataset),
                    "long_repairs": long_repairs_of(dataset),
                }
            ).data
        )


@extend_schema(
    parameters=[KEY, OpenApiParameter("finding", OpenApiTypes.STR, OpenApiParameter.PATH)]
)
class DatasetFindingView(DatasetView):
    @extend_schema(
        operation_id="datasets_doctor_row",
        parameters=[
            OpenApiParameter(
                "row", OpenApiTypes.INT, description="Which of the finding's rows, from 1."
            )
        ],
        responses={200: FindingRowSerializer, **errors(401, 404, 409)},
    )
    def get(self, request: Request, key: str, finding: str) -> Response:
        """One row of a finding, and what its repair would make of it."""
        dataset = self.get_dataset()
        view = next((view for view in findings_of(dataset) if view.key == finding), None)
        if view is None or not view.lines:
            raise exceptions.NotFound("There is no such finding, or it is about no single row.")

        number = number_of(request.query_params.get("row", "")) or 1
        row = finding_row(dataset, view, number)

        return Response(_finding_row_data(row))


def _finding_row_data(row: FindingRow) -> dict[str, Any]:
    after = None if row.after is None else asdict(row.after)
    return {
        "number": row.number,
        "row": asdict(row.row.seen),
        "outcome": row.outcome,
        "after": after,
    }


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
        versions = dataset_repair(dataset=dataset, by=self.reader, **body.validated_data)

        return self.answer(*versions, status=201, many=True)
