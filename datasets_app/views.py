"""Pages of datasets: list, upload, detail, and what can be done with one."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.generic import TemplateView

from core.api import by_id_or_slug
from core.errors import UserError
from core.ownership import may_change
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

LARGEST_ID = 2**63 - 1


def reader_of(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


def dataset_or_404(request: HttpRequest, pk: int) -> Dataset:
    """The dataset if this reader may see it; a stranger's is not there."""
    rows = (
        Dataset.objects.visible_to(request.user).select_related("owner").prefetch_related("labels")
    )
    dataset = rows.filter(pk=pk).first() if pk <= LARGEST_ID else None
    if dataset is None:
        raise Http404

    return dataset


def own_dataset(request: HttpRequest, pk: int) -> Dataset:
    dataset = dataset_or_404(request, pk)
    if not may_change(dataset, request.user):
        raise PermissionDenied

    return dataset


class DatasetListPage(TemplateView):
    template_name = "datasets/list.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**kwargs) | table_page(self.request.user, self.request.GET)


@method_decorator(csrf_exempt, name="dispatch")
class DatasetUploadPage(View):
    """Works as a plain form; with scripts the page sends the file to the API and shows how far it
    is.

    Django's own check of the token would read the whole body before anybody has said where it goes.
    So the handler is set first, and the token is checked then."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        request.upload_handlers = [DiskUploadHandler(request)]
        try:
            return csrf_protect(super().dispatch)(request, *args, **kwargs)
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

        try:
            dataset = dataset_create(
                owner=reader_of(request),
                file=file,  # type: ignore[arg-type]
                name=form.cleaned_data["name"],
                description=form.cleaned_data["description"],
                labels=form.words,
                version_of=version_of(reader_of(request), request.POST.get("version_of", "")),
            )
        except UserError as error:
            form.add_refusal(error.fields)
            return self.page(request, form, status=error.status)

        messages.success(request, f"{dataset.title} is uploaded. Its rows are being checked.")
        return redirect(dataset)

    def page(
        self, request: HttpRequest, form: DatasetUploadForm, status: int = 200
    ) -> HttpResponse:
        key = request.POST.get("version_of", "") or request.GET.get("version_of", "")
        earlier = by_id_or_slug(Dataset.objects.visible_to(request.user), key)
        context = {
            "form": form,
            "earlier": earlier
            if earlier is not None and may_change(earlier, request.user)
            else None,
            "limit_bytes": settings.UPLOAD_LIMIT_BYTES,
            "labels_known": Label.objects.filter(
                datasets__in=Dataset.objects.visible_to(request.user)
            ).distinct(),
            "formats": [FORMATS[slug] for slug in (*SAMPLES, "prompt-completion", "conversations")],
        }

        return render(request, "datasets/upload.html", context, status=status)


class DatasetImportPage(View):
    """Fetch a dataset from the Hugging Face hub."""

    def get(self, request: HttpRequest) -> HttpResponse:
        # What an earlier try was given, to be changed.
        return self.page(request, DatasetImportForm(initial=request.GET.dict()))

    def post(self, request: HttpRequest) -> HttpResponse:
        form = DatasetImportForm(request.POST)
        if form.is_valid():
            try:
                dataset = dataset_import(
                    owner=reader_of(request), **form.cleaned_data | {"labels": form.words}
                )
            except UserError as error:
                form.add_refusal(error.fields)
            else:
                messages.success(request, f"{dataset.name} is being fetched.")
                return redirect(dataset)

        return self.page(request, form, status=400)

    def page(
        self, request: HttpRequest, form: DatasetImportForm, status: int = 200
    ) -> HttpResponse:
        return render(request, "datasets/import.html", {"form": form}, status=status)


class DatasetDetailPage(View):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = dataset_or_404(request, pk)
        return render(
            request, "datasets/detail.html", detail_page(dataset, reader_of(request), request.GET)
        )


class DatasetLengthsPanel(View):
    """The chart of token lengths alone, for a page that waits for it."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = dataset_or_404(request, pk)
        return render(
            request,
            "datasets/_lengths.html",
            {"dataset": dataset} | lengths_context(dataset, request.user, request.GET),
        )


class DatasetTokensPanel(View):
    """A page of rows as tokens alone, for a page that waits for it."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = dataset_or_404(request, pk)
        last = max(1, -(-dataset.row_count // PREVIEW_ROWS))
        number = min(number_of(request.GET.get("page", "")) or 1, last)
        context = tokens_page(
            dataset, request.user, request.GET.get("model", ""), number, render=True
        )

        return render(request, "datasets/_tokens.html", {"dataset": dataset} | context)


class DatasetEditPage(View):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        words = ", ".join(label.name for label in dataset.labels.all())
        form = DatasetForm(
            {"name": dataset.name, "description": dataset.description, "labels": words}
        )
        return render(request, "datasets/edit.html", {"dataset": dataset, "form": form})

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        form = DatasetForm(request.POST)
        if form.is_valid():
            values = {name: form.cleaned_data[name] for name in ("name", "description")}
            try:
                dataset_update(dataset=dataset, by=reader_of(request), labels=form.words, **values)
            except UserError as error:
                form.add_refusal(error.fields)
            else:
                messages.success(request, "Saved.")
                return redirect(dataset)

        return render(request, "datasets/edit.html", {"dataset": dataset, "form": form}, status=400)


class DatasetColumnsAction(View):
    """How the columns are to be read, chosen on the page of a file that fits no format."""

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        chosen = request.POST.get("format", "")
        column_map = {
            name.removeprefix("column-"): str(value)
            for name, value in request.POST.items()
            if name.startswith("column-")
        }

        try:
            dataset_update(
                dataset=dataset, by=reader_of(request), format=chosen, column_map=column_map
            )
        except UserError as error:
            messages.error(request, error.message)
            return redirect(
                f"{dataset.get_absolute_url()}?format={chosen if chosen in FORMATS else ''}"
            )

        return redirect(dataset)


class DatasetArchiveAction(View):
    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = dataset_archive(dataset=dataset_or_404(request, pk), by=reader_of(request))
        messages.success(request, f"{dataset.title} is archived. Trains that used it keep it.")
        return redirect(dataset)


class DatasetRestoreAction(View):
    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = dataset_restore(dataset=dataset_or_404(request, pk), by=reader_of(request))
        messages.success(request, f"{dataset.title} is back in the lists.")
        return redirect(dataset)


class DatasetRepairAction(View):
    """A repair, in the background; on to the version that it makes."""

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = dataset_or_404(request, pk)
        try:
            made = dataset_repair(
                dataset=dataset,
                by=reader_of(request),
                repair=request.POST.get("repair", ""),
                model=request.POST.get("model", ""),
                max_tokens=number_of(request.POST.get("limit", "")),
            )
        except UserError as error:
            messages.error(
                request,
                " ".join(text for texts in error.fields.values() for text in texts) or str(error),
            )
            return redirect(dataset)

        messages.success(request, f"{made[0].title} is being made. {dataset.title} stays as it is.")
        return redirect(made[0])


class DatasetDeleteAction(View):
    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        if not request.POST.get("sure"):
            # A browser without scripts asks on a page of its own.
            versions = versions_of([dataset], reader_of(request))[dataset.family]
            return render(
                request, "datasets/delete.html", {"dataset": dataset, "others": len(versions) - 1}
            )

        others = dataset.family
        try:
            dataset_delete(dataset=dataset, by=reader_of(request))
        except UserError as error:
            messages.error(request, error.message)
            return redirect(dataset)

        messages.success(request, f"{dataset.title} is deleted.")
        newest = Dataset.objects.visible_to(request.user).families([others]).first()
        return redirect(newest) if newest is not None else redirect("datasets:list")


class DatasetDownload(View):
    def get(self, request: HttpRequest, pk: int) -> FileResponse:
        return dataset_download(dataset_or_404(request, pk))
