"""Operators word a method, choose its defaults and bounds, and retire it."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest

from core.errors import UserError
from engine.recipes.registry import RECIPES
from methods.changes import method_restore, method_retire, method_save
from methods.models import TrainingMethod
from methods.overrides import overrides_check


class TrainingMethodForm(forms.ModelForm):  # type: ignore[type-arg]
    recipe = forms.ChoiceField(choices=[(recipe.name, recipe.title) for recipe in RECIPES.values()])

    class Meta:
        model = TrainingMethod
        fields = (
            "name", "slug", "tagline", "description", "needs", "example", "example_rows", "cost", "recipe", "overrides",
            "order",
        )  # fmt: skip
        help_texts: ClassVar = {
            "overrides": 'By field: {"learning_rate": {"default": 1e-4, "maximum": 1e-3}}. Keys: default, '
            "default_on_cpu, fixed, hidden, minimum, maximum. Bounds may only narrow what the recipe allows.",
            "order": "Lower comes first.",
        }

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        rows = cleaned.get("example_rows") or []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.add_error("example_rows", "Give a list of objects, one a row.")
        cleaned["example_rows"] = rows
        recipe = cleaned.get("recipe", self.instance.recipe)
        if recipe and "overrides" in cleaned:
            cleaned["overrides"] = cleaned["overrides"] or {}
            try:
                overrides_check(recipe, cleaned["overrides"])
            except UserError as error:
                raise ValidationError(error.fields) from error
        return cleaned


@admin.register(TrainingMethod)
class TrainingMethodAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = TrainingMethodForm
    list_display = ("name", "slug", "tagline", "recipe", "version", "order", "retired_at")
    list_filter = ("recipe", ("retired_at", admin.EmptyFieldListFilter))
    search_fields = ("name", "slug", "tagline", "description")
    readonly_fields = ("version", "retired_at")
    actions = ("retire", "restore")

    def get_readonly_fields(self, request: HttpRequest, obj: TrainingMethod | None = None) -> tuple[str, ...]:
        # Programs know a method by its slug, and its trains were made with its recipe.
        return ("slug", "recipe", *self.readonly_fields) if obj else self.readonly_fields

    def has_delete_permission(self, request: HttpRequest, obj: TrainingMethod | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: TrainingMethod, form: Any, change: bool) -> None:
        stored = TrainingMethod.objects.get(pk=obj.pk) if change else TrainingMethod()
        method_save(stored, **{name: form.cleaned_data[name] for name in form.fields if name in form.cleaned_data})
        obj.pk, obj.version = stored.pk, stored.version

    @admin.action(description="Retire: offer it no longer", permissions=["change"])
    def retire(self, request: HttpRequest, methods: QuerySet[TrainingMethod]) -> None:
        for method in methods:
            method_retire(method)
        self.message_user(request, "Retired. Trains that used it are not touched.")

    @admin.action(description="Offer it again", permissions=["change"])
    def restore(self, request: HttpRequest, methods: QuerySet[TrainingMethod]) -> None:
        for method in methods:
            method_restore(method)
        self.message_user(request, "Offered again.")
