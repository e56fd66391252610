"""The pages on which operators make, change, retire and restore methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views import View

from core.errors import UserError
from core.listing import slug_free
from engine.schema.registry import RECIPES
from methods.changes import method_restore, method_retire, method_save
from methods.method_form import (
    DECIDERS,
    SettingRow,
    errors_place,
    groups_of,
    overrides_of,
    rows_make,
    rows_read,
)
from methods.models import TrainingMethod


@dataclass(frozen=True)
class TextField:
    """A text that people read about a method. `rows`: of its text area; 0 for a single line."""

    name: str
    title: str
    help: str
    limit: int
    rows: int = 0


TEXT_FIELDS = (
    TextField("name", "Name", "Short, as lists and forms show it.", 80),
    TextField(
        "tagline", "In a few words", "Stands beside the name, such as “small add-on weights”.", 80
    ),
    TextField("description", "Description", "What it is for, and when to choose it.", 5000, rows=4),
    TextField("needs", "Each row needs", "What a row of the dataset must hold.", 200),
    TextField("example", "Example row", "One row, as it would stand in a file.", 5000, rows=3),
    TextField("cost", "Cost", "Memory and time beside other methods.", 200),
)


def right_check(request: HttpRequest, right: str) -> None:
    """Raises PermissionDenied for a reader who may not add or change methods."""
    if not request.user.has_perm(f"methods.{right}_trainingmethod"):
        raise PermissionDenied


class MethodEditView(View):
    """Change a method: its texts and its settings. A custom program is changed in the
    administration."""

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        method = self.method_of(request, slug)
        rows = rows_make(method.recipe, method.overrides)
        return page(request, method, texts_of(method), rows)

    def post(self, request: HttpRequest, slug: str) -> HttpResponse:
        method = self.method_of(request, slug)
        return save(request, method, before=method.overrides)

    def method_of(self, request: HttpRequest, slug: str) -> TrainingMethod:
        right_check(request, "change")
        return get_object_or_404(TrainingMethod, slug=slug, recipe__in=list(RECIPES))


class MethodNewView(View):
    """A new method. `?from=`: the method whose texts and settings it begins with."""

    def get(self, request: HttpRequest) -> HttpResponse:
        right_check(request, "add")
        origins = TrainingMethod.objects.filter(recipe__in=list(RECIPES))
        origin = origins.filter(slug=request.GET.get("from", "")[:60]).first()
        if origin is None:
            return render(request, "methods/new.html", {"origins": origins.offered()})

        method = TrainingMethod(recipe=origin.recipe)
        texts = texts_of(origin)
        texts["name"] = f"{origin.name}, own"[:80]
        rows = rows_make(origin.recipe, origin.overrides)

        return page(request, method, texts, rows, origin=origin)

    def post(self, request: HttpRequest) -> HttpResponse:
        right_check(request, "add")
        origin = get_object_or_404(
            TrainingMethod,
            slug=request.POST.get("from", "")[:60],
            recipe__in=list(RECIPES),
        )
        name = request.POST.get("name", "")
        method = TrainingMethod(
            recipe=origin.recipe,
            slug=slug_free(TrainingMethod.objects.all(), name, fallback="method", limit=50),
            example_rows=origin.example_rows,
            order=origin.order + 1,
        )

        return save(request, method, before=origin.overrides, origin=origin)


class MethodRetireView(View):
    """Offer a method no longer, or again (`restore`)."""

    def post(self, request: HttpRequest, slug: str) -> HttpResponse:
        right_check(request, "change")
        method = get_object_or_404(TrainingMethod, slug=slug)

        if "restore" in request.POST:
            method_restore(method)
            messages.success(request, f"{method.name} is offered again.")
        else:
            method_retire(method)
            messages.success(request, f"{method.name} is no longer offered. Its trains are kept.")

        return redirect("methods:list")


def save(
    request: HttpRequest,
    method: TrainingMethod,
    *,
    before: dict[str, Any],
    origin: TrainingMethod | None = None,
) -> HttpResponse:
    """Save what was posted, or show it again with what is wrong. before: the overrides that the
    form was filled with."""
    texts = {field.name: str(request.POST.get(field.name, "")) for field in TEXT_FIELDS}
    rows = rows_read(method.recipe, request.POST)
    errors = too_long(texts)

    if not errors:
        try:
            saved = method_save(
                method,
                by=request.user,
                recipe=method.recipe,
                overrides=overrides_of(rows.values(), before),
                **texts,
            )
        except UserError as error:
            errors = dict(error.fields)
        else:
            messages.success(request, f"{saved.name} is saved as version {saved.version}.")
            return redirect("methods:list")

    others = errors_place(rows, errors.pop("overrides", []))
    if others:
        errors[""] = errors.get("", []) + others

    return page(request, method, texts, rows, origin=origin, errors=errors)


def texts_of(method: TrainingMethod) -> dict[str, str]:
    return {field.name: getattr(method, field.name) for field in TEXT_FIELDS}


def too_long(texts: dict[str, str]) -> dict[str, list[str]]:
    """{field: [message]} of texts that are longer than they may be."""
    errors = {}
    for field in TEXT_FIELDS:
        length = len(texts[field.name])
        if length > field.limit:
            message = f"At most {field.limit:,} characters; this has {length:,}."
            errors[field.name] = [message]

    return errors


def page(
    request: HttpRequest,
    method: TrainingMethod,
    texts: dict[str, str],
    rows: dict[str, SettingRow],
    *,
    origin: TrainingMethod | None = None,
    errors: dict[str, list[str]] | None = None,
) -> HttpResponse:
    """The form; with status 400 where something in it is wrong."""
    errors = errors or {}
    wrong = [row for row in rows.values() if row.errors]
    context = {
        "method": method,
        "words": [(field, texts[field.name], errors.get(field.name, [])) for field in TEXT_FIELDS],
        "origin": origin,
        "recipe": RECIPES[method.recipe],
        "groups": groups_of(rows.values()),
        "deciders": DECIDERS,
        "errors": errors,
        "wrong": wrong,
    }
    status = 400 if errors or wrong else 200

    return render(request, "methods/edit.html", context, status=status)
