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
class Word:
    """A text that people read about a method. `rows`: of its text area; 0 for a single line."""

    name: str
    title: str
    help: str
    limit: int
    rows: int = 0


WORDS = (
    Word("name", "Name", "Short, as lists and forms show it.", 80),
    Word(
        "tagline", "In a few words", "Stands beside the name, such as “small add-on weights”.", 80
    ),
    Word("description", "Description", "What it is for, and when to choose it.", 5000, rows=4),
    Word("needs", "Each row needs", "What a row of the dataset must hold.", 200),
    Word("example", "Example row", "One row, as it would stand in a file.", 5000, rows=3),
    Word("cost", "Cost", "Memory and time beside other methods.", 200),
)


def right_check(request: HttpRequest, right: str) -> None:
    """Raises PermissionDenied for a reader who may not add or change methods."""
    if not request.user.has_perm(f"methods.{right}_trainingmethod"):
        raise PermissionDenied


class MethodEditView(View):
    """Change a method: its words and its settings. A program of somebody's own is changed in the
    administration."""

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        method = self.method_of(request, slug)
        words = words_of(method)
        return page(request, method, words, rows_make(method.recipe, method.overrides))

    def post(self, request: HttpRequest, slug: str) -> HttpResponse:
        method = self.method_of(request, slug)
        return save(request, method, before=method.overrides)

    def method_of(self, request: HttpRequest, slug: str) -> TrainingMethod:
        right_check(request, "change")
        return get_object_or_404(TrainingMethod, slug=slug, recipe__in=list(RECIPES))


class MethodNewView(View):
    """A new method. `?from=`: the method whose words and settings it begins with."""

    def get(self, request: HttpRequest) -> HttpResponse:
        right_check(request, "add")
        origins = TrainingMethod.objects.filter(recipe__in=list(RECIPES))
        origin = origins.filter(slug=request.GET.get("from", "")[:60]).first()
        if origin is None:
            return render(request, "methods/new.html", {"origins": origins.offered()})

        method = TrainingMethod(recipe=origin.recipe)
        words = words_of(origin) | {"name": f"{origin.name}, own"[:80]}
        return page(
            request, method, words, rows_make(origin.recipe, origin.overrides), origin=origin
        )

    def post(self, request: HttpRequest) -> HttpResponse:
        right_check(request, "add")
        origin = get_object_or_404(
            TrainingMethod, slug=request.POST.get("from", "")[:60], recipe__in=list(RECIPES)
        )
        method = TrainingMethod(
            recipe=origin.recipe,
            slug=slug_free(
                TrainingMethod.objects.all(),
                request.POST.get("name", ""),
                fallback="method",
                limit=50,
            ),
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
    """Save what was posted, or show it again with what is wrong."""
    words = {word.name: str(request.POST.get(word.name, "")) for word in WORDS}
    rows = rows_read(method.recipe, request.POST)
    errors = too_long(words)
    if not errors:
        try:
            saved = method_save(
                method,
                by=request.user,
                recipe=method.recipe,
                overrides=overrides_of(rows.values(), before),
                **words,
            )
        except UserError as error:
            errors = dict(error.fields)
        else:
            messages.success(request, f"{saved.name} is saved as version {saved.version}.")
            return redirect("methods:list")

    others = errors_place(rows, errors.pop("overrides", []))
    if others:
        errors[""] = [*errors.get("", []), *others]

    return page(request, method, words, rows, origin=origin, errors=errors)


def words_of(method: TrainingMethod) -> dict[str, str]:
    return {word.name: getattr(method, word.name) for word in WORDS}


def too_long(words: dict[str, str]) -> dict[str, list[str]]:
    return {
        word.name: [f"At most {word.limit:,} characters; this has {len(words[word.name]):,}."]
        for word in WORDS
        if len(words[word.name]) > word.limit
    }


def page(
    request: HttpRequest,
    method: TrainingMethod,
    words: dict[str, str],
    rows: dict[str, SettingRow],
    *,
    origin: TrainingMethod | None = None,
    errors: dict[str, list[str]] | None = None,
) -> HttpResponse:
    errors = errors or {}
    wrong = [row for row in rows.values() if row.errors]
    context = {
        "method": method,
        "words": [(word, words[word.name], errors.get(word.name, [])) for word in WORDS],
        "origin": origin,
        "recipe": RECIPES[method.recipe],
        "groups": groups_of(rows.values()),
        "deciders": DECIDERS,
        "errors": errors,
        "wrong": wrong,
    }

    status = 400 if errors or wrong else 200

    return render(request, "methods/edit.html", context, status=status)
