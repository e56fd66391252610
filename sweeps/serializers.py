"""What the API takes and answers about sweeps."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.api import KeyField, StrictSerializer
from core.api_sharing import OwnerField
from jobs.serializers import PriorityField
from sweeps.models import Sweep, Trial
from sweeps.progress import trial_seconds
from sweeps.ranking import best_trial
from sweeps.standing import seen_of, sweep_activity
from training.api.serializers import LauncherField, OrderSerializer
from training.models import TrainRun


class SweepCreateSerializer(OrderSerializer):
    name = serializers.CharField(max_length=100, required=False, allow_blank=True, default="")
    base_model = KeyField(help_text="Id or slug.")
    space = serializers.DictField(
        help_text='What differs: {"learning_rate": {"values": [1e-4, 2e-4]}, "lora_rank": {"low": 4, '
        '"high": 64, "scale": "log"}}. scale: linear or log.'
    )
    metric = serializers.CharField(
        max_length=80,
        required=False,
        allow_blank=True,
        default="",
        help_text="Such as eval_loss; blank: what trains of the method are judged by.",
    )
    search = serializers.ChoiceField(
        choices=Sweep.Search.choices,
        required=False,
        allow_blank=True,
        default="",
        help_text="Blank: grid, or tpe where there is a range of real numbers.",
    )
    pruner = serializers.ChoiceField(choices=Sweep.Pruner.choices, default=Sweep.Pruner.NONE)
    percentile = serializers.IntegerField(
        default=25, min_value=1, max_value=99, help_text="Of the pruner of that name."
    )
    budget_trains = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=1,
        max_value=1_000_000,
        help_text="Null: every combination, or as many as the hours allow.",
    )
    budget_hours = serializers.FloatField(
        required=False,
        allow_null=True,
        default=None,
        min_value=0.01,
        max_value=100_000,
        help_text="Of all its trains together.",
    )
    seed = serializers.IntegerField(
        required=False,
        default=0,
        min_value=0,
        max_value=2**31 - 1,
        help_text="Of the search; 0: any.",
    )
    continue_adapter = serializers.BooleanField(required=False, default=False)
    priority = PriorityField(
        required=False, default=TrainRun.Priority.NORMAL, help_text="high is for operators to give."
    )
    start_anyway = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Though its trains cannot fit, which is for operators.",
    )
    after = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=1,
        max_value=2**62,
        help_text="A train that has to finish before the first ones start.",
    )


class SweepPlanSerializer(serializers.Serializer[Any]):
    ok = serializers.BooleanField(help_text="Whether the sweep can start as it is.")
    errors = serializers.DictField(  # type: ignore[assignment]
        child=serializers.ListField(child=serializers.CharField()), help_text="By field."
    )
    trains = serializers.IntegerField(help_text="How many it makes at most.")
    combinations = serializers.IntegerField(
        allow_null=True, help_text="Null with a range of real numbers."
    )


class SweepUpdateSerializer(StrictSerializer):
    name = serializers.CharField(max_length=100, required=False)


class TrialSerializer(serializers.Serializer[Trial]):
    number = serializers.IntegerField()
    values = serializers.DictField()
    train = serializers.SerializerMethodField(
        help_text="Null before it starts, and where you may not see it."
    )
    state = serializers.ChoiceField(choices=Trial.State.choices)
    train_status = serializers.SerializerMethodField(
        help_text="As the train has it; blank where there is none."
    )
    reason = serializers.CharField(help_text="Why it was pruned or failed.")
    value = serializers.FloatField(allow_null=True, help_text="Of the sweep's metric.")
    seconds = serializers.SerializerMethodField()
    asked_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)

    def get_train(self, trial: Trial) -> int | None:
        return trial.run_id if trial.run_id in self.context["seen"] else None

    def get_train_status(self, trial: Trial) -> str:
        return str(trial.run.status) if trial.run is not None else ""

    def get_seconds(self, trial: Trial) -> float:
        return trial_seconds(trial)


def _slug(source: str) -> serializers.CharField:
    return serializers.CharField(source=source, default=None, allow_null=True, read_only=True)


class SweepsSerializer(serializers.ListSerializer[Any]):
    """Sweeps of one page, whose trains are looked for at once."""

    def to_representation(self, data: Any) -> Any:
        sweeps = list(data)
        assert isinstance(self.child, SweepSerializer)
        self.child.seen = seen_of(sweeps, self.context["request"].user)
        return super().to_representation(sweeps)


class SweepSerializer(serializers.ModelSerializer[Sweep]):
    # Of all sweeps of a page; None for one sweep alone.
    seen: set[int] | None = None

    owner = OwnerField()
    method = _slug("method.slug")
    base_model = _slug("base_model.slug")
    dataset = _slug("dataset.slug")
    evaluation_dataset = _slug("evaluation_dataset.slug")
    priority = PriorityField(read_only=True)
    launcher = LauncherField(read_only=True)
    after = serializers.IntegerField(source="starts_after_id", read_only=True, allow_null=True)
    parameters = serializers.DictField(read_only=True)
    space = serializers.DictField(read_only=True)
    budget_trains = serializers.IntegerField(
        source="budget_asked",
        read_only=True,
        allow_null=True,
        help_text="As it was given; null: every combination, or as many as the hours allow.",
    )
    labels = serializers.ListField(child=serializers.CharField(), read_only=True)
    importance = serializers.DictField(
        child=serializers.FloatField(),
        read_only=True,
        help_text="{parameter: share}; empty with too few trains.",
    )
    activity = serializers.SerializerMethodField(
        help_text='What it does now, as one sentence; "" where nothing of it runs.'
    )
    best = serializers.SerializerMethodField(help_text="Null before a train has succeeded.")
    trains = serializers.SerializerMethodField()
    url = serializers.CharField(
        source="get_absolute_url", read_only=True, help_text="The sweep's page."
    )

    class Meta:
        model = Sweep
        fields = (
            "id",
            "name",
            "status",
            "activity",
            "reason",
            "owner",
            "shared",
            "method",
            "base_model",
            "dataset",
            "evaluation_dataset",
            "parameters",
            "system_prompt",
            "notes",
            "labels",
            "continue_adapter",
            "priority",
            "start_anyway",
            "launcher",
            "after",
            "space",
            "metric",
            "search",
            "pruner",
            "percentile",
            "budget_trains",
            "budget_hours",
            "seed",
            "importance",
            "created_at",
            "ended_at",
            "best",
            "trains",
            "url",
        )
        read_only_fields = fields
        list_serializer_class = SweepsSerializer

    def get_activity(self, sweep: Sweep) -> str:
        return sweep_activity(sweep)

    def _trial_context(self, sweep: Sweep) -> dict[str, Any]:
        if self.seen is not None:
            return {"seen": self.seen}

        return {"seen": seen_of([sweep], self.context["request"].user)}

    @extend_schema_field(TrialSerializer(allow_null=True))
    def get_best(self, sweep: Sweep) -> Any:
        best = best_trial(sweep, list(sweep.trials.all()))
        if best is None:
            return None

        return TrialSerializer(best, context=self._trial_context(sweep)).data

    @extend_schema_field(TrialSerializer(many=True))
    def get_trains(self, sweep: Sweep) -> Any:
        trials: Any = list(sweep.trials.all())
        return TrialSerializer(trials, many=True, context=self._trial_context(sweep)).data
