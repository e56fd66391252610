"""Operators change the texts of a method, choose its defaults and bounds, and retire it."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join

from core.errors import UserError
from engine.rows.formats import FORMATS
from engine.schema.registry import CUSTOM, RECIPES
from methods.changes import custom_save, method_restore, method_retire, method_save
from methods.custom import program_check, schema_check
from methods.models import MethodVersion, RewardFunction, TrainingMethod
from methods.overrides import overrides_check
from methods.rewards import reward_function_check, reward_function_retire, reward_function_save


def is_superuser(request: HttpRequest) -> bool:
    return bool(getattr(request.user, "is_superuser", False))


class TrainingMethodForm(forms.ModelForm):  # type: ignore[type-arg]
    # The admin gives everybody but superusers a subclass in which it is False.
    may_register_programs = True

    recipe = forms.ChoiceField(
        choices=[
            *((recipe.name, recipe.title) for recipe in RECIPES.values()),
            (CUSTOM, "Custom program"),
        ]
    )
    interpreter = forms.CharField(
        required=False,
        max_length=500,
        help_text="For a custom program: what runs it, such as /usr/bin/python3.",
    )
    script = forms.FileField(
        required=False, help_text="The program. Without a new one the old one stays."
    )
    formats = forms.MultipleChoiceField(
        required=False,
        choices=[(item.slug, item.title) for item in FORMATS.values()],
        help_text="For a custom program: the formats of datasets that it reads.",
    )

    class Meta:
        model = TrainingMethod
        fields = (
            "name",
            "slug",
            "tagline",
            "description",
            "needs",
            "example",
            "example_rows",
            "cost",
            "recipe",
            "overrides",
            "order",
            "parameters",
        )
        help_texts: ClassVar = {
            "overrides": 'By field: {"learning_rate": {"default": 1e-4, "maximum": 1e-3}}. Keys: '
            "default, default_on_cpu, fixed, hidden, minimum, maximum. Bounds may only narrow what "
            "the recipe allows.",
            "order": "Lower comes first.",
            "parameters": "For a custom program: the JSON Schema of its parameters. See "
            "docs/custom-method.md.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("interpreter", "formats"):
            self.fields[name].initial = self.instance.program.get(name)

        if "recipe" in self.fields and not self.may_register_programs:
            # The form's own copy of the field: the class's belongs to all requests.
            field: Any = self.fields["recipe"]
            field.choices = [choice for choice in field.choices if choice[0] != CUSTOM]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        rows = cleaned.get("example_rows") or []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.add_error("example_rows", "Give a list of objects, one a row.")

        cleaned["example_rows"] = rows
        cleaned["parameters"] = cleaned.get("parameters") or {}
        recipe = cleaned.get("recipe", self.instance.recipe)

        if recipe == CUSTOM:
            return self.clean_program(cleaned)

        if recipe and "overrides" in cleaned:
            cleaned["overrides"] = cleaned["overrides"] or {}
            try:
                overrides_check(recipe, cleaned["overrides"])
            except UserError as error:
                raise ValidationError(error.fields) from error

        return cleaned

    def clean_program(self, cleaned: dict[str, Any]) -> dict[str, Any]:
        cleaned["overrides"] = {}
        try:
            schema_check(cleaned["parameters"])
            program_check(cleaned.get("interpreter", ""), cleaned.get("formats", []))
        except UserError as error:
            raise ValidationError(error.fields) from error

        if not cleaned.get("script") and not self.instance.program.get("script"):
            self.add_error("script", "Upload the script.")

        return cleaned


@admin.register(TrainingMethod)
class TrainingMethodAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = TrainingMethodForm
    list_display = ("name", "slug", "tagline", "recipe", "version", "order", "retired_at")
    list_filter = ("recipe", ("retired_at", admin.EmptyFieldListFilter))
    search_fields = ("name", "slug", "tagline", "description")
    readonly_fields = ("version", "earlier", "retired_at")
    actions = ("retire", "restore")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "name",
                    "slug",
                    "tagline",
                    "description",
                    "needs",
                    "example",
                    "cost",
                    "recipe",
                    "order",
                ),
                "description": "Defaults, bounds and hidden settings are easier to change on the "
                "page Methods.",
            },
        ),
        (
            "Custom program",
            {
                "fields": ("interpreter", "script", "formats", "parameters"),
                "classes": ("collapse",),
            },
        ),
        (
            "Advanced: settings as JSON",
            {"fields": ("overrides", "example_rows"), "classes": ("collapse",)},
        ),
        ("Versions", {"fields": ("version", "earlier", "retired_at")}),
    )

    @admin.display(description="Versions so far")
    def earlier(self, method: TrainingMethod) -> str:
        """What each version was and who made it, the newest first."""
        if method.pk is None:
            return "–"

        lines = []
        for version in method.versions.select_related("changed_by"):
            title = f"v{version.version}, {version.created_at:%d %b %Y}"
            lines.append((title, version.changed_by or "set-up", _choices_text(version)))

        return format_html_join("", "<p>{} by {}: <code>{}</code></p>", lines) or "–"

    def get_readonly_fields(
        self, request: HttpRequest, obj: TrainingMethod | None = None
    ) -> tuple[str, ...]:
        if obj is None:
            return self.readonly_fields

        # Programs know a method by its slug, and its trains were made with its recipe.
        return ("slug", "recipe", *self.readonly_fields)

    def has_change_permission(
        self, request: HttpRequest, obj: TrainingMethod | None = None
    ) -> bool:
        # A program runs as the platform does.
        if obj is not None and obj.is_custom and not is_superuser(request):
            return False

        return super().has_change_permission(request, obj)

    def has_delete_permission(
        self, request: HttpRequest, obj: TrainingMethod | None = None
    ) -> bool:
        """Only a method that no train has used; others are retired."""
        if obj is not None and obj.trains.exists():
            return False

        return super().has_delete_permission(request, obj)

    def get_actions(self, request: HttpRequest) -> Any:
        # Deleting goes one by one, where it is seen what was used.
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def get_form(
        self,
        request: HttpRequest,
        obj: TrainingMethod | None = None,
        change: bool = False,
        **kwargs: Any,
    ) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        rights = {"may_register_programs": is_superuser(request)}
        return type(form.__name__, (form,), rights)

    def save_model(
        self, request: HttpRequest, obj: TrainingMethod, form: Any, change: bool
    ) -> None:
        stored = TrainingMethod.objects.get(pk=obj.pk) if change else TrainingMethod()
        values = _form_values(form)
        interpreter = values.pop("interpreter", None)
        formats = values.pop("formats", None)
        script = values.pop("script", None)

        if (values.get("recipe") or stored.recipe) == CUSTOM:
            values.pop("recipe", None)
            values.pop("overrides", None)
            custom_save(
                stored,
                by=request.user,
                interpreter=interpreter or "",
                formats=formats or [],
                script=(script.name, script.read()) if script else None,
                **values,
            )
        else:
            method_save(stored, by=request.user, **values)

        obj.pk = stored.pk
        obj.version = stored.version

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


class RewardFunctionForm(forms.ModelForm):  # type: ignore[type-arg]
    source = forms.FileField(
        required=False,
        help_text="A Python file with a function reward, see docs/custom-reward.md. Without a new "
        "one the old one stays.",
    )

    class Meta:
        model = RewardFunction
        fields = ("name", "slug", "description", "parameters")
        help_texts: ClassVar = {"slug": "Chosen by programs as custom:<slug>. It never changes."}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        cleaned["parameters"] = cleaned.get("parameters") or {}
        source = cleaned.get("source")
        content = None
        if source:
            content = source.read()
            source.seek(0)

        try:
            reward_function_check(
                self.instance,
                slug=self.instance.slug or cleaned.get("slug", ""),
                name=cleaned.get("name", ""),
                source=content,
                parameters=cleaned["parameters"],
            )
        except UserError as error:
            for name, texts in error.fields.items():
                if name not in self.errors:
                    self.add_error(name if name in self.fields else None, texts)

        return cleaned


@admin.register(RewardFunction)
class RewardFunctionAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Superusers register them, since they run within trains as the platform does; operators see
    them."""

    form = RewardFunctionForm
    list_display = ("name", "slug", "description", "registered_by", "changed_at", "retired_at")
    search_fields = ("name", "slug", "description")
    readonly_fields = ("text", "sha256", "registered_by", "changed_at", "retired_at")
    actions = ("retire", "restore")

    @admin.display(description="The file as it runs")
    def text(self, function: RewardFunction) -> str:
        if not function.file or not function.path.is_file():
            return "–"

        return format_html("<pre>{}</pre>", function.path.read_text())

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request)

    def has_change_permission(
        self, request: HttpRequest, obj: RewardFunction | None = None
    ) -> bool:
        return is_superuser(request)

    def has_delete_permission(
        self, request: HttpRequest, obj: RewardFunction | None = None
    ) -> bool:
        # Trains name it; it is retired.
        return False

    def get_readonly_fields(
        self, request: HttpRequest, obj: RewardFunction | None = None
    ) -> tuple[str, ...]:
        if obj is None:
            return self.readonly_fields

        return ("slug", *self.readonly_fields)

    def save_model(
        self, request: HttpRequest, obj: RewardFunction, form: Any, change: bool
    ) -> None:
        stored = RewardFunction.objects.get(pk=obj.pk) if change else RewardFunction()
        values = _form_values(form)
        source = values.pop("source", None)
        reward_function_save(
            stored,
            by=request.user,
            source=source.read() if source else None,
            **values,
        )
        obj.pk = stored.pk

    @admin.action(description="Retire: offer it no longer", permissions=["change"])
    def retire(self, request: HttpRequest, functions: QuerySet[RewardFunction]) -> None:
        for function in functions:
            reward_function_retire(function)

        self.message_user(request, "Retired. Trains that use it are not touched.")

    @admin.action(description="Offer it again", permissions=["change"])
    def restore(self, request: HttpRequest, functions: QuerySet[RewardFunction]) -> None:
        for function in functions:
            reward_function_retire(function, retired=False)

        self.message_user(request, "Offered again.")


def _choices_text(version: MethodVersion) -> str:
    """What operators chose in a version, in a line."""
    choices: dict[str, Any] = {}
    if version.overrides:
        choices["overrides"] = version.overrides
    if version.program.get("script"):
        choices["program"] = version.program["script"]

    return json.dumps(choices or {"recipe": version.recipe})


def _form_values(form: Any) -> dict[str, Any]:
    """{field: value} of the fields that the form shows and that hold something."""
    values = {}
    for name in form.fields:
        value = form.cleaned_data.get(name)
        if value is not None:
            values[name] = value

    return values
