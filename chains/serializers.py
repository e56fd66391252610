"""What the API takes and answers about chains."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from chains.checking import FEWEST_STAGES, MOST_STAGES
from chains.models import Chain, Stage
from chains.standing import Seen, StageRow, chain_activity, seen_of, stage_rows
from core.api import KeyField, StrictSerializer
from core.api_sharing import OwnerField
from jobs.serializers import PriorityField
from training.api.serializers import LauncherField, OrderSerializer
from training.models import TrainRun


class NumberField(serializers.FloatField):
    """A finite number: a database keeps no other, and nothing is at most infinity."""

    default_error_messages: ClassVar = {"invalid": "Give a number."}

    def to_internal_value(self, data: Any) -> float:
        value = super().to_internal_value(data)
        if not math.isfinite(value):
            self.fail("invalid")

        return value


class GateSerializer(StrictSerializer):
    """What must be so of a stage before the next one begins."""

    kind = serializers.ChoiceField(
        choices=Stage.Gate.choices,
        default=Stage.Gate.FINISHED,
        help_text="better: its evaluation at the end is better than at its start.",
    )
    metric = serializers.CharField(
        max_length=80,
        required=False,
        allow_blank=True,
        default="",
        help_text="For at_most and at_least, such as eval_loss.",
    )
    value = NumberField(required=False, allow_null=True, default=None)


class StageCreateSerializer(OrderSerializer):
    base_model = KeyField(
        required=False,
        allow_null=True,
        default=None,
        help_text="Id or slug; of the first stage alone. The others start from the one before.",
    )
    start = serializers.ChoiceField(
        choices=Stage.Start.choices,
        default=Stage.Start.MERGED,
        help_text="How it starts from what the stage before it made.",
    )
    gate = GateSerializer(
        required=False,
        default=dict,
        help_text="Between this stage and the next; that of the last one has no effect.",
    )


class ChainCreateSerializer(StrictSerializer):
    name = serializers.CharField(max_length=120, required=False, allow_blank=True, default="")
    priority = PriorityField(
        required=False, default=TrainRun.Priority.NORMAL, help_text="high is for operators to give."
    )
    after = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=1,
        max_value=2**62,
        help_text="A train that has to finish before the first stage starts.",
    )
    stages = serializers.ListField(
        child=StageCreateSerializer(), min_length=FEWEST_STAGES, max_length=MOST_STAGES
    )


class ChainUpdateSerializer(StrictSerializer):
    name = serializers.CharField(max_length=120, required=False)


class ChainGoOnSerializer(StrictSerializer):
    train = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=1,
        max_value=2**62,
        help_text="In place of the train that did not finish, such as a copy of it, or as the stage "
        "that could not begin. Null: that train, where somebody has resumed it, else a new one of "
        "the same values.",
    )


class ChainCopySerializer(StrictSerializer):
    name = serializers.CharField(max_length=120, required=False, allow_blank=True, default="")


class GateStateSerializer(serializers.Serializer[StageRow]):
    kind = serializers.CharField(source="stage.gate")
    metric = serializers.CharField(source="stage.gate_metric")
    value = serializers.FloatField(source="stage.gate_value", allow_null=True)
    passed = serializers.BooleanField(
        source="stage.passed", allow_null=True, help_text="Null: not asked yet."
    )
    measured = serializers.FloatField(
        source="stage.measured", allow_null=True, help_text="The value that it looked at."
    )
    measured_before = serializers.FloatField(
        source="stage.measured_before", allow_null=True, help_text="The same at the start."
    )
    waived = serializers.BooleanField(
        source="stage.gate_waived", help_text="Somebody let the chain go on all the same."
    )


def _slug(source: str) -> serializers.CharField:
    return serializers.CharField(source=source, default=None, allow_null=True)


class StageSerializer(serializers.Serializer[StageRow]):
    position = serializers.IntegerField(source="stage.position")
    name = serializers.CharField(source="stage.name")
    method = _slug("stage.method.slug")
    base_model = _slug("stage.base_model.slug")
    dataset = _slug("stage.dataset.slug")
    evaluation_dataset = _slug("stage.evaluation_dataset.slug")
    parameters = serializers.DictField(source="stage.parameters")
    system_prompt = serializers.CharField(source="stage.system_prompt")
    notes = serializers.CharField(source="stage.notes")
    labels = serializers.ListField(child=serializers.CharField(), source="stage.labels")
    launcher = LauncherField(source="stage.launcher")
    start = serializers.CharField(source="stage.start")
    gate = GateStateSerializer(source="*")
    train = serializers.IntegerField(
        source="run.pk", default=None, allow_null=True, help_text="Null before it starts."
    )
    train_status = serializers.CharField(
        source="status", help_text="As the train has it; blank before it starts."
    )
    model = serializers.IntegerField(
        source="model.pk",
        default=None,
        allow_null=True,
        help_text="Made of the train, for the next stage.",
    )


class ChainsSerializer(serializers.ListSerializer[Any]):
    """Chains of one page, whose trains and models are looked for at once."""

    def to_representation(self, data: Any) -> Any:
        chains = list(data)
        assert isinstance(self.child, ChainSerializer)
        self.child.seen = seen_of(chains, self.context["request"].user)
        return super().to_representation(chains)


class ChainSerializer(serializers.ModelSerializer[Chain]):
    # Of all chains of a page; None for one chain alone.
    seen: Seen | None = None

    owner = OwnerField()
    priority = PriorityField(read_only=True)
    after = serializers.IntegerField(source="starts_after_id", read_only=True, allow_null=True)
    activity = serializers.SerializerMethodField(
        help_text='What it does now, as one sentence; "" where it does not run.'
    )
    stages = serializers.SerializerMethodField()
    url = serializers.CharField(
        source="get_absolute_url", read_only=True, help_text="The chain's page."
    )

    class Meta:
        model = Chain
        fields = (
            "id",
            "name",
            "status",
            "activity",
            "reason",
            "owner",
            "shared",
            "priority",
            "after",
            "created_at",
            "ordered_at",
            "ended_at",
            "stages",
            "url",
        )
        read_only_fields = fields
        list_serializer_class = ChainsSerializer

    def get_activity(self, chain: Chain) -> str:
        return chain_activity(chain)

    @extend_schema_field(StageSerializer(many=True))
    def get_stages(self, chain: Chain) -> Any:
        reader = self.context["request"].user
        rows: Any = stage_rows(chain, reader, self.seen or seen_of([chain], reader))
        return StageSerializer(rows, many=True).data
