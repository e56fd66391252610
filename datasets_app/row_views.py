"""Single rows of a dataset: a finding's rows, the editor of a row, and what waits for the next
version."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views import View

from core.errors import UserError
from core.ownership import may_change
from core.text import number_of
from datasets_app.detail import finding_context
from datasets_app.findings import findings_of
from datasets_app.models import Dataset
from datasets_app.row_changes import (
    changes_check,
    row_change_discard,
    row_changes_discard,
    row_edit,
    row_get,
    row_put_back,
    rows_set_aside,
)
from datasets_app.row_editor import ROLES, controls_of, values_read
from datasets_app.views import dataset_or_404, own_dataset, reader_of
from engine.rows.formats import FORMATS


class FindingPanel(View):
    """One row of a finding with its repair, for a page that opens the finding."""

    def get(self, request: HttpRequest, pk: int, key: str) -> HttpResponse:
        dataset = dataset_or_404(request, pk)
        query = request.GET.copy()
        query["finding"] = key
        context = finding_context(dataset, findings_of(dataset), query)
        if context["opened"] is None:
            raise Http404

        context |= {"dataset": dataset, "mine": may_change(dataset, request.user)}
        return render(request, "datasets/_finding_row.html", context)


class RowEditPage(View):
    """A row's columns and turns as texts; what is saved waits for the next version."""

    def get(self, request: HttpRequest, pk: int, line: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        try:
            changes_check(dataset, reader_of(request), 1)
            values = self.values_of(dataset, line)
        except UserError as error:
            return self.refused(request, dataset, error)

        return self.page(request, dataset, line, values)

    def post(self, request: HttpRequest, pk: int, line: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        try:
            values = self.values_of(dataset, line)
        except UserError as error:
            return self.refused(request, dataset, error)

        edited = values
        try:
            edited = values_read(values, request.POST.dict())
            row_edit(dataset=dataset, by=reader_of(request), line=line, values=edited)
        except UserError as error:
            return self.page(request, dataset, line, edited, error)

        messages.success(
            request, "Saved. It waits for the next version; you can change more rows first."
        )
        return redirect(f"{dataset.get_absolute_url()}#changes")

    def values_of(self, dataset: Dataset, line: int) -> dict[str, Any]:
        """The row as an earlier change that waits has it, else as it stands in the file."""
        waiting = dataset.row_changes.filter(version=None, line=line, action="edit").first()
        if waiting is not None:
            return dict(waiting.values or {})

        row = row_get(dataset, line)
        if row.values is None:
            raise UserError(
                "This row cannot be edited here: it cannot be read, or is too long.", status=409
            )

        return row.values

    def refused(self, request: HttpRequest, dataset: Dataset, error: UserError) -> HttpResponse:
        if error.status == 404:
            raise Http404

        messages.error(request, error.message)
        return redirect(dataset)

    def page(
        self,
        request: HttpRequest,
        dataset: Dataset,
        line: int,
        values: dict[str, Any],
        error: UserError | None = None,
    ) -> HttpResponse:
        fields = error.fields if error else {}
        controls = controls_of(dataset, values, fields)
        beside = {text for control in controls for text in control.errors}
        beside |= {text for control in controls for turn in control.turns for text in turn.errors}
        context = {
            "dataset": dataset,
            "format": FORMATS[dataset.format],
            "line": line,
            "controls": controls,
            "roles": ROLES,
            "elsewhere": [
                text for texts in fields.values() for text in texts if text not in beside
            ],
        }

        return render(request, "datasets/row.html", context, status=error.status if error else 200)


class ChangeAction(View):
    """What is done with rows on the dataset's page, and back to that page."""

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        try:
            text = self.change(request, dataset)
        except UserError as error:
            messages.error(request, error.message)
        else:
            messages.success(request, text)

        return redirect(self.address(request, dataset))

    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        """Do it; returns what was done, in words."""
        raise NotImplementedError

    def address(self, request: HttpRequest, dataset: Dataset) -> str:
        """The page with the finding open that the row was looked at in."""
        finding = request.POST.get("finding", "")
        if not finding:
            return f"{dataset.get_absolute_url()}#changes"

        query = urlencode({"finding": finding, "row": number_of(request.POST.get("row", "")) or 1})
        return f"{dataset.get_absolute_url()}?{query}#finding-{finding}"


class RowAsideAction(ChangeAction):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        line = number_of(request.POST.get("line", ""), most=10**18)
        rows_set_aside(dataset=dataset, by=reader_of(request), lines=[line])
        return f"Line {line:,} will be left out of the next version."


class RowPutBackAction(ChangeAction):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        change = number_of(request.POST.get("change", ""), most=10**18)
        put_back = row_put_back(dataset=dataset, by=reader_of(request), change=change)
        return f"Line {put_back.line:,} will be in the next version again."


class DiscardAction(ChangeAction):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        if change := number_of(request.POST.get("change", ""), most=10**18):
            row_change_discard(dataset=dataset, by=reader_of(request), change=change)
            return "The change is taken back."

        count = row_changes_discard(dataset=dataset, by=reader_of(request))
        return f"{count:,} change{'' if count == 1 else 's'} taken back."

    def address(self, request: HttpRequest, dataset: Dataset) -> str:
        return dataset.get_absolute_url()
