"""/api/v1/datasets/<key>/search/, rows/<line>/ and changes/: rows by what they hold, and rows that
are changed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import KEY, StrictSerializer, errors
from core.ownership import owner_check
from datasets_app.api import DatasetView
from datasets_app.models import RowChange
from datasets_app.row_changes import (
    WAITING_LIMIT,
    changes_waiting,
    row_change_discard,
    row_changes_discard,
    row_edit,
    row_get,
    row_put_back,
    rows_aside,
    rows_set_aside,
)
from datasets_app.row_finding import SEARCH_CHARACTERS, SEARCH_ROWS, rows_search
from datasets_app.serializers import RowSerializer

LINE = OpenApiParameter(
    "line",
    OpenApiTypes.INT,
    OpenApiParameter.PATH,
    description="As `line` of a row; where the row begins.",
)
CHANGE = OpenApiParameter(
    "change", OpenApiTypes.INT, OpenApiParameter.PATH, description="Id of a change."
)


class SearchSerializer(serializers.Serializer[Any]):
    read = serializers.IntegerField(help_text="Rows that were looked through.")
    matches = serializers.IntegerField(help_text="Those of them that hold the text.")
    complete = serializers.BooleanField(
        help_text="Whether the file was read to its end; else the time was over."
    )
    next = serializers.CharField(
        allow_blank=True, help_text="Give it as `after` to get the rows behind these."
    )
    results = RowSerializer(many=True)


class RowEditSerializer(StrictSerializer):
    values = serializers.DictField(
        help_text="The whole row as it is to be, in the file's own columns."
    )


class RowChangeSerializer(serializers.ModelSerializer[RowChange]):
    class Meta:
        model = RowChange
        fields = ("id", "line", "action", "values", "created_at")
        read_only_fields = fields


class RowChangesSerializer(serializers.Serializer[Any]):
    waiting = RowChangeSerializer(many=True, help_text="What the next version will be made with.")
    set_aside = RowChangeSerializer(
        many=True,
        help_text="Rows that were set aside on the way to this version and can be put back.",
    )


class RowsAsideSerializer(StrictSerializer):
    set_aside = serializers.ListField(
        child=serializers.IntegerField(min_value=1),
        required=False,
        max_length=WAITING_LIMIT,
        help_text="Lines.",
    )
    put_back = serializers.IntegerField(
        required=False, help_text="Id of one of the changes under `set_aside`."
    )

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        if len(attributes) != 1:
            raise serializers.ValidationError("Give either set_aside or put_back.")

        return attributes


@extend_schema(parameters=[KEY])
class DatasetSearchView(DatasetView):
    @extend_schema(
        parameters=[
            OpenApiParameter(
                "text", OpenApiTypes.STR, description=f"At most {SEARCH_CHARACTERS} characters."
            ),
            OpenApiParameter("after", OpenApiTypes.STR, description="`next` of the page before."),
        ],
        responses={200: SearchSerializer, **errors(401, 404, 409, 503)},
    )
    def get(self, request: Request, key: str) -> Response:
        """Rows that hold a text, upper and lower case alike. Reads for some seconds and says how
        far it came."""
        text = request.query_params.get("text", "")
        after = request.query_params.get("after", "")
        result = rows_search(self.get_dataset(), text, after)

        return Response(
            {
                "read": result.read,
                "matches": result.matches,
                "complete": result.complete,
                "next": result.next,
                "results": [asdict(row.seen) for row in result.rows[:SEARCH_ROWS]],
            }
        )


@extend_schema(parameters=[KEY, LINE])
class DatasetRowView(DatasetView):
    @extend_schema(responses={200: RowSerializer, **errors(401, 404, 409)})
    def get(self, request: Request, key: str, line: int) -> Response:
        """The row that begins on a line."""
        return Response(asdict(row_get(self.get_dataset(), line).seen))

    @extend_schema(
        request=RowEditSerializer,
        responses={200: RowChangeSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def put(self, request: Request, key: str, line: int) -> Response:
        """Edit the row. It waits until a version is made by the repair apply_changes."""
        dataset = self.get_dataset()
        body = RowEditSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        change = row_edit(dataset=dataset, by=self.reader, line=line, **body.validated_data)

        return Response(RowChangeSerializer(change).data)


@extend_schema(parameters=[KEY])
class DatasetChangesView(DatasetView):
    @extend_schema(responses={200: RowChangesSerializer, **errors(401, 403, 404)})
    def get(self, request: Request, key: str) -> Response:
        """Changed rows that wait for a version, and rows that were set aside before."""
        dataset = self.get_dataset()
        owner_check(dataset, self.reader)
        changes = {
            "waiting": changes_waiting(dataset),
            "set_aside": rows_aside(dataset, self.reader),
        }

        return Response(RowChangesSerializer(changes).data)

    @extend_schema(
        request=RowsAsideSerializer,
        responses={201: RowChangeSerializer(many=True), **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request, key: str) -> Response:
        """Set rows aside, or put one back. It waits until a version is made by the repair
        apply_changes."""
        dataset = self.get_dataset()
        body = RowsAsideSerializer(data=request.data)
        body.is_valid(raise_exception=True)

        lines = body.validated_data.get("set_aside")
        if lines is not None:
            changes = rows_set_aside(dataset=dataset, by=self.reader, lines=lines)
        else:
            change = body.validated_data["put_back"]
            changes = [row_put_back(dataset=dataset, by=self.reader, change=change)]

        return Response(RowChangeSerializer(changes, many=True).data, status=201)

    @extend_schema(
        operation_id="datasets_changes_discard", responses={204: None, **errors(401, 403, 404)}
    )
    def delete(self, request: Request, key: str) -> Response:
        """Take back all changes that wait."""
        row_changes_discard(dataset=self.get_dataset(), by=self.reader)
        return Response(status=204)


@extend_schema(parameters=[KEY, CHANGE])
class DatasetChangeView(DatasetView):
    @extend_schema(responses={204: None, **errors(401, 403, 404)})
    def delete(self, request: Request, key: str, change: int) -> Response:
        """Take back one change that waits."""
        row_change_discard(dataset=self.get_dataset(), by=self.reader, change=change)
        return Response(status=204)
