"""/api/v1/serving/ in JSON."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from core.api import StrictSerializer
from jobs.devices.sharing import Rule

RULES = ("automatic", Rule.SHARE.value, Rule.TRAINS.value, Rule.CHAT.value)


class ServedModelSerializer(serializers.Serializer[Any]):
    base_key = serializers.CharField(help_text="model-5, train-12, export-3: the weights.")
    title = serializers.CharField()
    backend = serializers.CharField(help_text="llama.cpp, vllm or transformers.")
    reason = serializers.CharField(help_text="Why that one.")
    note = serializers.CharField(help_text="What people are told of it.")
    phase = serializers.CharField(help_text="loading or ready")
    adapters = serializers.ListField(child=serializers.CharField())
    threads = serializers.IntegerField(help_text="0: as many as are best.")
    parallel = serializers.IntegerField(help_text="Answers at once.")
    context_tokens = serializers.IntegerField(
        source="context", help_text="Of one conversation, prompt and answer together."
    )
    memory_bytes = serializers.IntegerField(
        help_text="Of its processes, with the files that they map counted once."
    )
    answering = serializers.IntegerField()
    waiting = serializers.IntegerField()
    load_seconds = serializers.FloatField(allow_null=True)
    idle_seconds = serializers.FloatField()


class PreparingSerializer(serializers.Serializer[Any]):
    title = serializers.CharField()
    words = serializers.CharField()
    progress = serializers.FloatField(allow_null=True)


class ServingSerializer(serializers.Serializer[Any]):
    running = serializers.BooleanField(help_text="Whether the gateway of model servers is there.")
    device = serializers.CharField()
    train = serializers.CharField(help_text="A train that runs beside, blank for none.")
    refusal = serializers.CharField(help_text="Why no model answers now, blank where they do.")
    rule = serializers.ChoiceField(choices=RULES)
    rule_now = serializers.ChoiceField(choices=RULES[1:])
    rule_words = serializers.CharField()
    idle_minutes = serializers.IntegerField()
    models_at_once = serializers.IntegerField()
    models = ServedModelSerializer(many=True)
    preparing = PreparingSerializer(many=True)


class UnloadSerializer(StrictSerializer):
    base_key = serializers.CharField(max_length=100)


class PolicySerializer(StrictSerializer):
    rule = serializers.ChoiceField(choices=RULES, required=False)
    idle_minutes = serializers.IntegerField(min_value=1, max_value=10_080, required=False)
    models_at_once = serializers.IntegerField(min_value=1, max_value=50, required=False)
