"""What the API takes and answers about conversations."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.api import StrictSerializer
from core.api_sharing import OwnerField
from playground.models import NAME_LIMIT, Answer, Conversation, Feedback, FeedbackDataset, Turn
from playground.sampling import TEXT_LIMIT


class ObjectField(serializers.JSONField):
    """A JSON object."""

    default_error_messages: ClassVar = {"object": "Give an object."}

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            self.fail("object")

        return super().to_internal_value(data)


@extend_schema_field({"type": "array", "items": {"type": "object", "additionalProperties": {}}})
class ToolsField(serializers.JSONField):
    pass


# What is asked of a new conversation


class PaneField(StrictSerializer):
    id = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=32767,
        help_text="Of a pane that is there, whose answers this one goes on from, be its model another "
        "one. Without it that is the pane with the same model, else a new one.",
    )
    target = serializers.CharField(
        max_length=60,
        help_text="model-5, train-12, train-12-step-200 or export-3.",
    )
    sampling = extend_schema_field(OpenApiTypes.OBJECT)(ObjectField)(
        required=False,
        default=dict,
        help_text="temperature, top_p, top_k, min_p, frequency_penalty, presence_penalty, "
        "max_tokens, seed, stop.",
    )


def _panes(**options: Any) -> Any:
    return serializers.ListField(child=PaneField(), min_length=1, max_length=3, **options)


def _text(**options: Any) -> serializers.CharField:
    usual = {"allow_blank": True, "trim_whitespace": False, "max_length": TEXT_LIMIT}
    return serializers.CharField(**(usual | options))


class ConversationUpdateSerializer(StrictSerializer):
    name = serializers.CharField(max_length=NAME_LIMIT, required=False)
    panes = _panes(required=False)
    system_prompt = _text(required=False)
    tools = ToolsField(required=False, help_text="As OpenAI's API has them.")
    response_format = extend_schema_field(OpenApiTypes.OBJECT)(ObjectField)(
        required=False, help_text="{}, json_object or json_schema, as OpenAI's API has them."
    )
    blind = serializers.BooleanField(
        required=False, help_text="Hide the names of the next answers until the vote."
    )


class ConversationCreateSerializer(ConversationUpdateSerializer):
    name = serializers.CharField(
        max_length=NAME_LIMIT, required=False, allow_blank=True, default=""
    )
    panes = _panes()


class LinkSerializer(StrictSerializer):
    wanted = serializers.BooleanField(
        help_text="Whether others may read it by its link, as far as they may see its models."
    )


class TurnCreateSerializer(StrictSerializer):
    text = _text(allow_blank=False)
    replaces = serializers.IntegerField(
        required=False,
        default=0,
        min_value=0,
        max_value=2**31 - 1,
        help_text="Position of an earlier prompt: it goes, and all behind it.",
    )


class VerdictSerializer(StrictSerializer):
    verdict = serializers.ChoiceField(choices=[value for value in Turn.Verdict.values if value])


class ThumbSerializer(StrictSerializer):
    verdict = serializers.ChoiceField(
        choices=["", Feedback.Verdict.UP, Feedback.Verdict.DOWN],
        help_text="Blank takes it back.",
    )


class CorrectionSerializer(StrictSerializer):
    text = _text(help_text="What the answer should have been; blank forgets it.")


class MessageSerializer(serializers.Serializer[Any]):
    role = serializers.ChoiceField(choices=["system", "user", "assistant", "tool"])
    content = _text()
    name = serializers.CharField(required=False, max_length=200)
    tool_call_id = serializers.CharField(required=False, max_length=200)
    tool_calls = ToolsField(required=False)
    reasoning_content = _text(required=False)


class TokensSerializer(StrictSerializer):
    target = serializers.CharField(max_length=60)
    messages = serializers.ListField(child=MessageSerializer(), min_length=1, max_length=1001)
    tools = ToolsField(required=False, default=None, allow_null=True)
    load = serializers.BooleanField(
        required=False, default=False, help_text="Load the model where it is not; else that is 409."
    )
    count_only = serializers.BooleanField(
        required=False, default=False, help_text="How many there are, without the pieces."
    )


class WarmSerializer(StrictSerializer):
    targets = serializers.ListField(
        child=serializers.CharField(max_length=60), min_length=1, max_length=3
    )


class ResultField(StrictSerializer):
    tool_call_id = serializers.CharField(max_length=200)
    content = _text(help_text="Text or JSON, as the tool returned it.")


class ResultsSerializer(StrictSerializer):
    results = serializers.ListField(
        child=ResultField(), min_length=1, max_length=64, help_text="One for each call."
    )
    round = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=0,
        max_value=1000,
        help_text="Of earlier calls whose results are replaced, from 0: what was said behind them "
        "goes. Null for the calls that wait.",
    )


class DatasetMakeSerializer(StrictSerializer):
    form = serializers.ChoiceField(choices=FeedbackDataset.Form.choices)
    conversation = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=1,
        max_value=2**62,
        help_text="Of whose feedback alone; null for that of all conversations.",
    )
    name = serializers.CharField(max_length=120, required=False, allow_blank=True, default="")


# What is answered


class RoundSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(allow_blank=True)
    reasoning = serializers.CharField(allow_blank=True)
    tool_calls = serializers.ListField(child=serializers.DictField())
    results = serializers.ListField(child=serializers.DictField())
    tokens = serializers.IntegerField(allow_null=True)
    rate = serializers.FloatField(allow_null=True)
    first_seconds = serializers.FloatField(allow_null=True)


class AnswerSerializer(serializers.Serializer[Any]):
    place = serializers.IntegerField()
    state = serializers.ChoiceField(choices=Answer.State.choices)
    pane = serializers.IntegerField(allow_null=True, help_text="Null until somebody voted.")
    target = serializers.CharField(allow_null=True, help_text="Null until somebody voted.")
    title = serializers.CharField(allow_null=True)
    text = serializers.CharField(allow_blank=True)
    reasoning = serializers.CharField(allow_blank=True)
    tool_calls = serializers.ListField(child=serializers.DictField())
    calls_waiting = serializers.ListField(
        child=serializers.CharField(), help_text="Ids of the calls whose results it waits for."
    )
    rounds = RoundSerializer(
        many=True, help_text="What it said before, when it called tools, and their results."
    )
    prompt_tokens = serializers.IntegerField(allow_null=True)
    tokens = serializers.IntegerField(allow_null=True)
    rate = serializers.FloatField(allow_null=True, help_text="Tokens a second.")
    first_seconds = serializers.FloatField(
        allow_null=True, help_text="From when the model had its turn to the first token."
    )
    seconds = serializers.FloatField(allow_null=True)
    finish_reason = serializers.CharField(allow_blank=True)
    error = serializers.CharField(allow_blank=True)
    thumb = serializers.CharField(allow_blank=True)
    correction = serializers.CharField(allow_blank=True)


class TurnSerializer(serializers.Serializer[Any]):
    position = serializers.IntegerField()
    text = serializers.CharField()
    blind = serializers.BooleanField()
    verdict = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()
    answers = AnswerSerializer(many=True)


class PaneSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    target = serializers.CharField()
    title = serializers.CharField()
    base_title = serializers.CharField(allow_blank=True)
    sampling = serializers.DictField()
    live = serializers.BooleanField(help_text="Whether it is a train that still runs.")
    problem = serializers.CharField(allow_blank=True, help_text="Why it cannot answer.")


class ConversationSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    name = serializers.CharField()
    owner = serializers.CharField(allow_null=True)
    system_prompt = serializers.CharField(allow_blank=True)
    tools = serializers.ListField(child=serializers.DictField())
    response_format = serializers.DictField()
    blind = serializers.BooleanField()
    shared = serializers.BooleanField()
    created_at = serializers.DateTimeField()
    changed_at = serializers.DateTimeField()
    may_change = serializers.BooleanField()
    models_left_out = serializers.IntegerField(
        help_text="Models of it that you may not see; their answers are left out."
    )
    panes = PaneSerializer(many=True)
    turns = TurnSerializer(many=True)


class ConversationLineSerializer(serializers.ModelSerializer[Conversation]):
    """A line of the list."""

    owner = OwnerField()

    class Meta:
        model = Conversation
        fields = ("id", "name", "owner", "shared", "blind", "created_at", "changed_at")


class LinkSeenSerializer(serializers.Serializer[Any]):
    address = serializers.CharField(allow_blank=True, help_text="Blank where it is not shared.")


class PieceSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    text = serializers.CharField(allow_blank=True)
    special = serializers.BooleanField()


class TokensSeenSerializer(serializers.Serializer[Any]):
    count = serializers.IntegerField()
    context = serializers.IntegerField(  # type: ignore[assignment]
        help_text="Tokens of one conversation; 0 where unknown."
    )
    pieces = PieceSerializer(many=True, help_text="The first 4,000 of them.")


class PromptSerializer(serializers.Serializer[Any]):
    text = serializers.CharField()
    reference = serializers.CharField(allow_blank=True)
    system = serializers.CharField(allow_blank=True)
    earlier = serializers.IntegerField(
        help_text="Turns of the row before the question, which are not asked."
    )
    is_cut = serializers.BooleanField(help_text="Whether the question is too long to be shown.")


class PromptsSerializer(serializers.Serializer[Any]):
    note = serializers.CharField(allow_blank=True)
    next = serializers.CharField(
        allow_blank=True, help_text="To be sent as `after`; blank behind the last."
    )
    can_search = serializers.BooleanField()
    prompts = PromptSerializer(many=True)


class ChoiceSerializer(serializers.Serializer[Any]):
    key = serializers.CharField()
    title = serializers.CharField()
    group = serializers.CharField()
    parent = serializers.CharField(allow_blank=True)  # type: ignore[assignment]


class TallySerializer(serializers.Serializer[Any]):
    target = serializers.CharField()
    title = serializers.CharField()
    won = serializers.IntegerField()
    lost = serializers.IntegerField()
    tied = serializers.IntegerField()
    bad = serializers.IntegerField()
    up = serializers.IntegerField()
    down = serializers.IntegerField()
    corrected = serializers.IntegerField()
    is_too_few = serializers.BooleanField(help_text="Whether its votes are too few to tell.")


class DatasetMadeSerializer(serializers.Serializer[Any]):
    dataset = serializers.IntegerField()
    slug = serializers.CharField()
    version = serializers.IntegerField()
    address = serializers.CharField()
