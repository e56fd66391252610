"""The catalogue of methods."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views import View

from engine.recipes.registry import RECIPES
from methods.models import TrainingMethod
from methods.schema import Field, method_fields


class MethodListView(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        methods = TrainingMethod.objects.offered()
        retired = TrainingMethod.objects.exclude(retired_at=None)
        return render(request, "methods/list.html", {"cards": [card(method) for method in methods], "retired": retired})


def card(method: TrainingMethod) -> dict[str, Any]:
    fields = [field for field in method_fields(method).values() if not field.hidden and field.kind != "options"]
    return {
        "method": method,
        "formats": RECIPES[method.recipe].formats,
        "groups": groups(fields),
        "field_count": len(fields),
    }


def groups(fields: list[Field]) -> list[tuple[str, list[Field]]]:
    """Fields under their headings, in the order in which the recipe names them."""
    found: dict[str, list[Field]] = {}
    for field in fields:
        found.setdefault(field.group, []).append(field)
    return list(found.items())
