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
        methods = TrainingMethod.objects.offered()
        retired = TrainingMethod.objects.exclude(retired_at=None)
        return render(
            request,
            "methods/list.html",
            {"cards": [card(method) for method in methods], "retired": retired},
        )


def card(method: TrainingMethod) -> dict[str, Any]:
    rows = [json.dumps(row, ensure_ascii=False) for row in method.example_rows] or [method.example]
    defaults = method_defaults(method)
    # What this method never uses is none of its settings: no rank where no adapter is trained.
    fields = [
        field
        for field in method_fields(method).values()
        if not field.hidden and field.kind != "options" and field.is_active(defaults)
    ]

    formats = [FORMATS[slug].title for slug in method_formats(method)]

    return {"method": method, "formats": formats, "fields": fields, "rows": rows}
