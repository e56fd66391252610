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
from core.requests import reader_of
from core.text import counted, number_of
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
from datasets_app.views import OwnDatasetActionView, dataset_or_404, own_dataset
from engine.rows.formats import FORMATS

# Lines and ids: far above any, and within what a database column holds.
LARGEST_NUMBER = 10**18


class FindingPanel(View):
    """One row of a finding with its repair, for a page that opens the finding."""

    def get(self, request: HttpRequest, pk: int, key: str) -> HttpResponse:
        dataset = dataset_or_404(request, pk)
        query = request.GET.copy()
        query["finding"] = key
        context = finding_context(dataset, findings_of(dataset), query)
        if context["opened"] is None:
            raise Http404

        context["dataset"] = dataset
        context["mine"] = may_change(dataset, request.user)

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
        errors = error.fields if error else {}
        controls = controls_of(dataset, values, errors)
        shown = set()
        for control in controls:
            shown.update(control.errors)
            for turn in control.turns:
                shown.update(turn.errors)

        elsewhere = []
        for texts in errors.values():
            elsewhere += [text for text in texts if text not in shown]

        context = {
            "dataset": dataset,
            "format": FORMATS[dataset.format],
            "line": line,
            "controls": controls,
            "roles": ROLES,
            "elsewhere": elsewhere,
        }
        status = error.status if error else 200

        return render(request, "datasets/row.html", context, status=status)


class RowChangeAction(OwnDatasetActionView):
    """A change of rows, from and back to the page with the finding that the row was looked at in."""

    def address_refused(self, request: HttpRequest, dataset: Dataset) -> str:
        page = dataset.get_absolute_url()
        finding = request.POST.get("finding", "")
        if not finding:
            return f"{page}#changes"

        row = number_of(request.POST.get("row", "")) or 1
        query = urlencode({"finding": finding, "row": row})

        return f"{page}?{query}#finding-{finding}"


class RowAsideAction(RowChangeAction):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        line = posted_number(request, "line")
        rows_set_aside(dataset=dataset, by=reader_of(request), lines=[line])
        return f"Line {line:,} will be left out of the next version."


class RowPutBackAction(RowChangeAction):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        change = posted_number(request, "change")
        put_back = row_put_back(dataset=dataset, by=reader_of(request), change=change)
        return f"Line {put_back.line:,} will be in the next version again."


class DiscardAction(OwnDatasetActionView):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        reader = reader_of(request)
        change = posted_number(request, "change")
        if change:
            row_change_discard(dataset=dataset, by=reader, change=change)
            return "The change is undone."

        count = row_changes_discard(dataset=dataset, by=reader)
        return f"{counted(count, 'change')} undone."


def posted_number(request: HttpRequest, name: str) -> int:
    return number_of(request.POST.get(name, ""), most=LARGEST_NUMBER)
