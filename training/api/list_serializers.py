"""What the API takes and says about lists of trains: several at once, labels, columns."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from core.api import StrictSerializer
from core.requests import LARGEST_ID
from training.pages.columns import NAMES
from training.train.bulk import ACTIONS, MOST_TRAINS


class BulkRequestSerializer(StrictSerializer):
    action = serializers.ChoiceField(
        choices=ACTIONS, help_text="stop: those that wait or run. delete: those that have ended."
    )
    ids = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=LARGEST_ID),
        min_length=1,
        max_length=MOST_TRAINS,
    )
    labels = serializers.ListField(
        child=serializers.CharField(max_length=400),
        required=False,
        default=list,
        max_length=100,
        help_text="For label and unlabel.",
    )
    check_only = serializers.BooleanField(
        default=False, help_text="Say what would happen, and change nothing."
    )


class BulkItemSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    name = serializers.CharField(help_text="Blank for a train that is not there.")
    message = serializers.CharField(help_text="What happened, or why nothing did.")


class BulkAnswerSerializer(serializers.Serializer[Any]):
    done = BulkItemSerializer(many=True)
    failed = BulkItemSerializer(many=True)


class LabelSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    trains = serializers.IntegerField(help_text="How many of your trains have it.")


class ColumnsSerializer(StrictSerializer):
    columns = serializers.ListField(
        child=serializers.ChoiceField(choices=NAMES),
        max_length=len(NAMES),
        help_text="Those that are shown.",
    )
