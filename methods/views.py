"""The catalogue of methods."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views import View

from engine.rows.formats import FORMATS
from methods.models import TrainingMethod
from methods.schema import method_fields
from methods.services import method_defaults, method_formats


class MethodListView(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        context = {
            "cards": [card(method) for method in TrainingMethod.objects.offered()],
            "retired": TrainingMethod.objects.exclude(retired_at=None),
        }

        return render(request, "methods/list.html", context)


def card(method: TrainingMethod) -> dict[str, Any]:
    """What the catalogue shows of a method."""
    rows = [json.dumps(row, ensure_ascii=False) for row in method.example_rows]
    defaults = method_defaults(method)
    open_fields = [
        field
        for field in method_fields(method).values()
        if not field.hidden and field.kind != "options"
    ]
    # A field without an effect is none of the method's settings: no rank where no adapter is
    # trained.
    fields = [field for field in open_fields if field.is_active(defaults)]

    return {
        "method": method,
        "formats": [FORMATS[slug].title for slug in method_formats(method)],
        "fields": fields,
        "rows": rows or [method.example],
    }
