"""Pages of datasets: list, upload, detail, and what can be done with one."""

from __future__ import annotations

import math
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt, csrf_protect

from core.api import by_id_or_slug
from core.errors import UserError
from core.ownership import may_change
from core.parts import load_again, page_or_part, wants_part
from core.requests import reader_of, row_or_404
from core.row_actions import RowActionView
from core.text import number_of
from core.upload import DiskUploadHandler
from datasets_app.detail import detail_page, lengths_context
from datasets_app.downloads import dataset_download
from datasets_app.forms import DatasetForm, DatasetImportForm, DatasetUploadForm
from datasets_app.importing import dataset_import
from datasets_app.models import Dataset, Label
from datasets_app.repairing import dataset_repair
from datasets_app.services import (
    dataset_archive,
    dataset_create,
    dataset_delete,
    dataset_restore,
    dataset_update,
)
from datasets_app.table import SAMPLES, table_page
from datasets_app.token_page import PREVIEW_ROWS, tokens_page
from datasets_app.versions import version_of, versions_of
from engine.rows.formats import FORMATS


def dataset_or_404(request: HttpRequest, pk: int) -> Dataset:
    """The dataset if this reader may see it. Raises Http404, also for a stranger's."""
    visible = Dataset.objects.visible_to(request.user)
    return row_or_404(visible.select_related("owner").prefetch_related("labels"), pk)


def own_dataset(request: HttpRequest, pk: int) -> Dataset:
    """As dataset_or_404. Raises PermissionDenied where this reader may not change it."""
    dataset = dataset_or_404(request, pk)
    if not may_change(dataset, request.user):
        raise PermissionDenied

    return dataset


@method_decorator(page_or_part, name="dispatch")
class DatasetListPage(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        context = table_page(request.user, request.GET)
        if not wants_part(request):
            return render(request, "datasets/list.html", context)

        # Of a filter none may be left, which the page has words for.
        if not context["rows"]:
            return load_again()

        return render(request, "datasets/_rows.html", context)


@method_decorator(csrf_exempt, name="dispatch")
class DatasetUploadPage(View):
    """Works as a plain form; with scripts the page sends the file to the API and shows progress.

    Django's own check of the CSRF token would read the whole body before the upload handler is set.
    So the handler is set first, and the token is checked then."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        request.upload_handlers = [DiskUploadHandler(request)]
        checked_dispatch = csrf_protect(super().dispatch)
        try:
            return checked_dispatch(request, *args, **kwargs)
        except UserError as error:
            form = DatasetUploadForm({})
            form.add_refusal(error.fields)
            return self.page(request, form, status=error.status)

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.page(request, DatasetUploadForm())

    def post(self, request: HttpRequest) -> HttpResponse:
        form = DatasetUploadForm(request.POST)
        file = request.FILES.get("file")
        if file is None:
            form.add_refusal({"file": ["Choose a file."]})
            return self.page(request, form, status=400)

        if not form.is_valid():
            return self.page(request, form, status=400)

        reader = reader_of(request)
        try:
            dataset = dataset_create(
                owner=reader,
                file=file,  # type: ignore[arg-type]
                name=form.cleaned_data["name"],
                description=form.cleaned_data["description"],
                labels=form.label_names,
                version_of=version_of(reader, request.POST.get("version_of", "")),
            )
        except UserError as error:
            form.add_refusal(error.fields)
            return self.page(request, form, status=error.status)

        messages.success(request, f"{dataset.title} is uploaded. Its rows are being checked.")
        return redirect(dataset)

    def page(
        self, request: HttpRequest, form: DatasetUploadForm, status: int = 200
    ) -> HttpResponse:
        visible = Dataset.objects.visible_to(request.user)
        key = request.POST.get("version_of", "") or request.GET.get("version_of", "")
        earlier = by_id_or_slug(visible, key)
        if earlier is not None and not may_change(earlier, request.user):
            earlier = None

        example_formats = (*SAMPLES, "prompt-completion", "conversations")
        context = {
            "form": form,
            "earlier": earlier,
            "limit_bytes": settings.UPLOAD_LIMIT_BYTES,
            "labels_known": Label.objects.filter(datasets__in=visible).distinct(),
            "formats": [FORMATS[slug] for slug in example_formats],
        }

        return render(request, "datasets/upload.html", context, status=status)


class DatasetImportPage(View):
    """Fetch a dataset from the Hugging Face hub."""

    def get(self, request: HttpRequest) -> HttpResponse:
        # What an earlier try was given, to be changed.
        return self.page(request, DatasetImportForm(initial=request.GET.dict()))

    def post(self, request: HttpRequest) -> HttpResponse:
        form = DatasetImportForm(request.POST)
        if not form.is_valid():
            return self.page(request, form, status=400)

        values = form.cleaned_data | {"labels": form.label_names}
        try:
            dataset = dataset_import(owner=reader_of(request), **values)
        except UserError as error:
            form.add_refusal(error.fields)
            return self.page(request, form, status=400)

        messages.success(request, f"{dataset.name} is being fetched.")
        return redirect(dataset)

    def page(
        self, request: HttpRequest, form: DatasetImportForm, status: int = 200
    ) -> HttpResponse:
        return render(request, "datasets/import.html", {"form": form}, status=status)


@method_decorator(page_or_part, name="dispatch")
class DatasetDetailPage(View):
    """A dataset; to htmx how far its check is."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = dataset_or_404(request, pk)
        is_part = wants_part(request)
        if is_part and dataset.status != Dataset.Status.CHECKING:
            return load_again()

        context = detail_page(dataset, reader_of(request), request.GET)
        if is_part:
            return render(request, "datasets/_checking.html", context)

        return render(request, "datasets/detail.html", context)


class DatasetLengthsPanel(View):
    """The chart of token lengths alone, for a page that waits for it."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = dataset_or_404(request, pk)
        context = lengths_context(dataset, request.user, request.GET)
        return render(request, "datasets/_lengths.html", {"dataset": dataset, **context})


class DatasetTokensPanel(View):
    """A page of rows as tokens alone, for a page that waits for it."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = dataset_or_404(request, pk)
        last_page = max(1, math.ceil(dataset.row_count / PREVIEW_ROWS))
        wanted_page = number_of(request.GET.get("page", "")) or 1
        context = tokens_page(
            dataset,
            request.user,
            request.GET.get("model", ""),
            min(wanted_page, last_page),
            render=True,
        )

        return render(request, "datasets/_tokens.html", {"dataset": dataset, **context})


class DatasetEditPage(View):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        label_names = [label.name for label in dataset.labels.all()]
        form = DatasetForm(
            {
                "name": dataset.name,
                "description": dataset.description,
                "labels": ", ".join(label_names),
            }
        )

        return self.page(request, dataset, form)

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        form = DatasetForm(request.POST)
        if not form.is_valid():
            return self.page(request, dataset, form, status=400)

        try:
            dataset_update(
                dataset=dataset,
                by=reader_of(request),
                name=form.cleaned_data["name"],
                description=form.cleaned_data["description"],
                labels=form.label_names,
            )
        except UserError as error:
            form.add_refusal(error.fields)
            return self.page(request, dataset, form, status=400)

        messages.success(request, "Saved.")
        return redirect(dataset)

    def page(
        self, request: HttpRequest, dataset: Dataset, form: DatasetForm, status: int = 200
    ) -> HttpResponse:
        context = {"dataset": dataset, "form": form}
        return render(request, "datasets/edit.html", context, status=status)


class DatasetColumnsAction(View):
    """How the columns are to be read, chosen on the page of a file that fits no format."""

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        format_slug = request.POST.get("format", "")
        column_map = {}
        for name, value in request.POST.items():
            if name.startswith("column-"):
                column_map[name.removeprefix("column-")] = str(value)

        try:
            dataset_update(
                dataset=dataset,
                by=reader_of(request),
                format=format_slug,
                column_map=column_map,
            )
        except UserError as error:
            messages.error(request, error.message)
            known_slug = format_slug if format_slug in FORMATS else ""
            return redirect(f"{dataset.get_absolute_url()}?format={known_slug}")

        return redirect(dataset)


class DatasetActionView(RowActionView[Dataset]):
    """A button of a dataset's page. The service that it calls says who may press it."""

    def get_row(self, request: HttpRequest, pk: int) -> Dataset:
        return dataset_or_404(request, pk)


class OwnDatasetActionView(DatasetActionView):
    """For those who may change the dataset."""

    def get_row(self, request: HttpRequest, pk: int) -> Dataset:
        return own_dataset(request, pk)


class DatasetArchiveAction(DatasetActionView):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        dataset_archive(dataset=dataset, by=reader_of(request))
        return f"{dataset.title} is archived. Trains that used it keep it."


class DatasetRestoreAction(DatasetActionView):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        dataset_restore(dataset=dataset, by=reader_of(request))
        return f"{dataset.title} is back in the lists."


class DatasetRepairAction(View):
    """Start a repair in the background, and show the version that it makes."""

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = dataset_or_404(request, pk)
        try:
            versions = dataset_repair(
                dataset=dataset,
                by=reader_of(request),
                repair=request.POST.get("repair", ""),
                model=request.POST.get("model", ""),
                max_tokens=number_of(request.POST.get("limit", "")),
            )
        except UserError as error:
            # Without the names of fields, which this page does not have.
            reasons = [text for texts in error.fields.values() for text in texts]
            messages.error(request, " ".join(reasons) or str(error))
            return redirect(dataset)

        first = versions[0]
        messages.success(request, f"{first.title} is being made. {dataset.title} stays as it is.")
        return redirect(first)


class DatasetDeleteAction(View):
    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        family = dataset.family

        if not request.POST.get("sure"):
            # A browser without scripts asks on a page of its own.
            versions = versions_of([dataset], reader_of(request))[family]
            context = {"dataset": dataset, "others": len(versions) - 1}
            return render(request, "datasets/delete.html", context)

        try:
            dataset_delete(dataset=dataset, by=reader_of(request))
        except UserError as error:
            messages.error(request, error.message)
            return redirect(dataset)

        messages.success(request, f"{dataset.title} is deleted.")
        newest = Dataset.objects.visible_to(request.user).families([family]).first()

        return redirect(newest) if newest is not None else redirect("datasets:list")


class DatasetDownload(View):
    def get(self, request: HttpRequest, pk: int) -> FileResponse:
        return dataset_download(dataset_or_404(request, pk))
