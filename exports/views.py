"""Pages of exports: the form on a model, and one export."""

from __future__ import annotations

import shutil
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views import View

from core.errors import UserError
from core.ollama import ollama_is_set_up
from core.ownership import may_change
from core.parts import page_or_part
from core.requests import integer_of, reader_of, row_or_404
from core.row_actions import RowActionView
from core.store import require_disk
from core.text import counted
from exports.downloads import export_download, files_for, withheld
from exports.formats import (
    DESCRIPTIONS,
    QUANTIZATIONS,
    content_choices,
    licence_warnings,
    obstacle,
    size_estimate,
)
from exports.models import Export
from exports.services import (
    SHARD_BYTES,
    export_add,
    export_cancel,
    export_compare,
    export_delete,
    export_deliver,
    export_may_change,
    export_retry,
)
from models_app.models import BaseModel

Format = Export.Format

CONTENT_TITLES = {
    "safetensors": "The whole model (safetensors)",
    "adapter": "The adapter alone",
    "gguf": "A GGUF file",
}
# Exports that the card on a model's page shows.
CARD_ROWS = 50
# Checked at the beginning: half the size, and hardly a difference.
FIRST_QUANTIZATION = "q8_0"


def reader_exports(request: HttpRequest) -> Any:
    return Export.objects.visible_to(request.user).with_related()


class ExportNewView(View):
    """The form: one format, several quantizations at once."""

    def get_model(self, pk: int) -> BaseModel:
        visible = BaseModel.objects.visible_to(self.request.user).select_related("parent")
        return row_or_404(visible, pk)

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        model = self.get_model(pk)
        values = {"format": request.GET.get("format", ""), "private": True}
        return self.page(model, values)

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        model = self.get_model(pk)
        values: dict[str, Any] = {
            "format": request.POST.get("format", ""),
            "content": request.POST.get("content", ""),
            "repository": request.POST.get("repository", ""),
            "quantizations": request.POST.getlist("quantization"),
            "ollama_quantization": request.POST.get("ollama_quantization", ""),
            "hub_quantization": request.POST.get("hub_quantization", ""),
            "shard_gigabytes": request.POST.get("shard_gigabytes", ""),
            "private": bool(request.POST.get("private")),
            "replace": bool(request.POST.get("replace")),
        }

        try:
            exports = exports_add(model, reader_of(request), values)
        except UserError as error:
            return self.page(model, values, error)

        if len(exports) == 1:
            return redirect(exports[0])

        messages.success(request, f"{counted(len(exports), 'export')} will be made.")
        return redirect(f"{model.get_absolute_url()}#exports")

    def page(
        self, model: BaseModel, values: dict[str, Any], error: UserError | None = None
    ) -> HttpResponse:
        reader = reader_of(self.request)
        names = Format.values
        if not may_change(model, reader):
            # What is uploaded names the train.
            names = [name for name in names if name != Format.HUB]

        choices = [format_choice(model, name, reader) for name in names]
        offered = [choice["name"] for choice in choices if not choice["obstacle"]]
        chosen = values.get("format")
        if chosen not in offered:
            # What most people come for.
            chosen = Format.GGUF if Format.GGUF in offered else "".join(offered[:1])

        errors = error.fields if error else {}
        context = {
            "model": model,
            "formats": choices,
            "chosen": chosen,
            "quantizations": quantization_choices(model),
            "checked": values.get("quantizations") or [FIRST_QUANTIZATION],
            "contents": hub_contents(model, reader),
            "values": {"shard_gigabytes": SHARD_BYTES // 10**9} | values,
            "errors": errors,
            "whole": " ".join(errors.get("", [])),
            "notes": licence_warnings(model),
            "free_bytes": max(
                0, shutil.disk_usage(settings.HOME).free - settings.DISK_RESERVE_BYTES
            ),
        }

        return render(
            self.request, "exports/new.html", context, status=error.status if error else 200
        )


def format_choice(model: BaseModel, name: str, reader: User) -> dict[str, Any]:
    return {
        "name": name,
        "title": Format(name).label,
        "description": DESCRIPTIONS[Format(name)],
        "obstacle": obstacle(model, name, reader),
        "size_bytes": 0
        if name in (Format.GGUF, Format.OLLAMA, Format.HUB)
        else size_estimate(model, name),
    }


def hub_contents(model: BaseModel, reader: User) -> list[dict[str, Any]]:
    """What can be uploaded, with its size; that of a GGUF file depends on its quantization."""
    return [
        {
            "name": name,
            "title": CONTENT_TITLES[name],
            "size_bytes": 0 if name == Format.GGUF else size_estimate(model, name),
        }
        for name in content_choices(model, reader)
    ]


def quantization_choices(model: BaseModel) -> list[dict[str, Any]]:
    return [
        {
            "name": choice.name,
            "title": choice.title,
            "description": choice.description,
            "size_bytes": size_estimate(model, Format.GGUF, choice.name),
        }
        for choice in QUANTIZATIONS.values()
    ]


def exports_add(model: BaseModel, by: User, values: dict[str, Any]) -> list[Export]:
    """What the form asks for. Raises UserError before anything is made where one of several cannot
    be, but for what is there already: the others are made."""
    wanted = values["format"]

    if wanted == Format.GGUF:
        return _ggufs_add(model, by, values["quantizations"])
    if wanted == Format.OLLAMA:
        quantization = values["ollama_quantization"]
        return [export_add(model=model, by=by, format=wanted, quantization=quantization)]
    if wanted == Format.SAFETENSORS:
        shard_bytes = _shard_bytes(values["shard_gigabytes"])
        return [export_add(model=model, by=by, format=wanted, shard_bytes=shard_bytes)]
    if wanted == Format.HUB:
        is_gguf = values["content"] == Format.GGUF
        return [
            export_add(
                model=model,
                by=by,
                format=wanted,
                content=values["content"],
                quantization=values["hub_quantization"] if is_gguf else "",
                repository=values["repository"],
                private=values["private"],
                replace=values["replace"],
            )
        ]

    return [export_add(model=model, by=by, format=wanted)]


def _ggufs_add(model: BaseModel, by: User, quantizations: list[str]) -> list[Export]:
    if not quantizations:
        raise UserError({"quantization": ["Choose at least one."]})

    # All of them are to fit beside each other.
    sizes = [
        size_estimate(model, Format.GGUF, quantization)
        for quantization in quantizations
        if quantization in QUANTIZATIONS
    ]
    require_disk(sum(sizes))

    added: list[Export] = []
    refused: UserError | None = None
    with transaction.atomic():
        for quantization in quantizations:
            try:
                added.append(
                    export_add(model=model, by=by, format=Format.GGUF, quantization=quantization)
                )
            except UserError as error:
                if error.code != "duplicate":
                    raise

                refused = error

    if refused is not None and not added:
        raise refused

    return added


def _shard_bytes(gigabytes: str) -> int:
    number = integer_of(gigabytes.strip())
    if number is None:
        raise UserError({"shard_bytes": ["Give a whole number of GB."]})

    return number * 10**9


@method_decorator(page_or_part, name="dispatch")
class ExportDetailView(View):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        export = row_or_404(reader_exports(request), pk)
        reader = reader_of(request)
        context = {
            "export": export,
            "model": export.model,
            "may_change": export_may_change(export, reader),
            "files": files_for(export, reader),
            "withheld": withheld(export, reader),
            "ollama": ollama_is_set_up(),
            "ollama_name": export.destination or export.model.slug,
        }

        return render(request, "exports/detail.html", context)


class ExportActionView(RowActionView[Export]):
    """A button of an export's page. The service that it calls says who may press it."""

    def get_row(self, request: HttpRequest, pk: int) -> Export:
        export: Export = row_or_404(reader_exports(request), pk)
        return export


class ExportCancelView(ExportActionView):
    def change(self, request: HttpRequest, export: Export) -> str:
        export_cancel(export=export, by=reader_of(request))
        return "The export is being cancelled."


class ExportRetryView(ExportActionView):
    def change(self, request: HttpRequest, export: Export) -> str:
        export_retry(export=export, by=reader_of(request))
        return "Trying again."


class ExportCompareView(ExportActionView):
    def change(self, request: HttpRequest, export: Export) -> str:
        export_compare(export=export, by=reader_of(request))
        return "It is being compared again."


class ExportDeliverView(ExportActionView):
    def change(self, request: HttpRequest, export: Export) -> str:
        export_deliver(
            export=export,
            by=reader_of(request),
            destination=request.POST.get("destination", ""),
            replace=bool(request.POST.get("replace")),
            anyway=bool(request.POST.get("anyway")),
        )
        return "It is on its way."


class ExportDeleteView(ExportActionView):
    def change(self, request: HttpRequest, export: Export) -> str:
        export_delete(export=export, by=reader_of(request))
        return "The export and its files are deleted."

    def address_done(self, request: HttpRequest, export: Export) -> str:
        return reverse("models:detail", args=[export.model_id])


class ExportDownloadView(View):
    def get(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        export = row_or_404(reader_exports(request), pk)
        try:
            return export_download(
                export,
                reader_of(request),
                file=request.GET.get("file", ""),
                anyway=request.GET.get("anyway") == "true",
            )
        except UserError as error:
            messages.error(request, error.message)
            return redirect(export)


def exports_context(model: BaseModel, reader: User) -> dict[str, Any]:
    """What the card Exports of a model's page needs."""
    exports = list(Export.objects.filter(model=model).select_related("model")[:CARD_ROWS])
    return {
        "exports": exports,
        "exports_open": any(export.status == Export.Status.MAKING for export in exports),
        "may_export": model.status == BaseModel.Status.READY,
    }
