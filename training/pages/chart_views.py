"""Evaluation Data: the page, and what its script asks for beside the API: short series, judgement,
answers, CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views import View

from core.requests import integer_of
from jobs.queue import job_position
from training.models import TrainRun
from training.pages.answers import answers_of, completions_of, function_titles
from training.pages.chart_table import NOT_CHARTED, charts_table
from training.pages.charts import planned_of, series_of
from training.pages.downloads import train_file_stem
from training.pages.trains import TrainPage, train_for_part_or_404, train_or_404
from training.train.alerts import alerts_of
from training.train.judgement import judgement_of
from training.train.standing import activity_of

# A cell that begins like this is a formula to a spreadsheet.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# Rows that are read from the database at once.
CSV_ROWS = 2000


class EvaluationView(TrainPage):
    template_name = "training/evaluation.html"
    tab = "evaluation"

    def tab_context(self, run: TrainRun) -> dict[str, Any]:
        context = super().tab_context(run)
        return context | {
            "judgement": judgement_of(run),
            "alerts": alerts_of(run),
            "evaluations": run.metrics.filter(split="eval").order_by("seq"),
            "answers": answers_of(run),
            "completions": completions_of(run, ""),
            "page": page_data(run),
        }


def page_data(run: TrainRun) -> dict[str, Any]:
    """What the script of Evaluation Data begins with."""
    return {
        "id": run.pk,
        "status": run.status,
        "ended": run.ended,
        "train": {
            "activity": activity_of(run),
            "queue_position": job_position(run),
            "last_step_at": run.last_step_at,
        },
        "table": charts_table(run.objective),
        "ignored": NOT_CHARTED,
        "planned": planned_of(run),
        "evalRows": run.facts.get("eval_rows"),
        "functions": function_titles(run),
    }


class SeriesView(View):
    """Of the steps `from` to `to`, or of the whole train."""

    def get(self, request: HttpRequest, pk: int) -> JsonResponse:
        run = train_for_part_or_404(request, pk)
        return JsonResponse(series_of(run, steps=steps_asked(request)))


def steps_asked(request: HttpRequest) -> tuple[int, int] | None:
    """(first, last) of `?from=` and `?to=`; None where they are no range of steps."""
    first = integer_of(request.GET.get("from", ""))
    last = integer_of(request.GET.get("to", ""))
    if first is None or last is None or first > last:
        return None

    return first, last


class JudgementView(View):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        run = train_for_part_or_404(request, pk)
        return render(request, "training/_judgement.html", {"judgement": judgement_of(run)})


class AlertsView(View):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        run = train_for_part_or_404(request, pk)
        return render(request, "training/_alerts.html", {"alerts": alerts_of(run)})


class AnswersView(View):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        run = train_for_part_or_404(request, pk)
        return render(request, "training/_answers.html", {"run": run, "answers": answers_of(run)})


class CompletionsView(View):
    """Answers of one step with their rewards; of the latest where none is asked for."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        run = train_for_part_or_404(request, pk)
        completions = completions_of(run, request.GET.get("step", ""))
        return render(request, "training/_completions.html", {"run": run} | completions)


class MetricsCsvView(View):
    """Every logged step with every value, in full precision."""

    def get(self, request: HttpRequest, pk: int) -> StreamingHttpResponse:
        run = train_or_404(request, pk)
        response = StreamingHttpResponse(csv_lines(run), content_type="text/csv; charset=utf-8")
        response["Content-Disposition"] = (
            f'attachment; filename="{train_file_stem(run)}-metrics.csv"'
        )
        return response


class _Line:
    """What csv.writer wants of a file: it hands each line back."""

    def write(self, text: str) -> str:
        return text


def csv_lines(run: TrainRun) -> Iterator[str]:
    """The table line by line: a column for each metric that was ever logged, in order of its first
    appearance."""
    names: dict[str, None] = {}
    every_values = run.metrics.values_list("values", flat=True)

    for values in every_values.iterator(chunk_size=CSV_ROWS):
        names |= dict.fromkeys(values)

    writer = csv.writer(_Line())
    heads = [cell(name) for name in names]
    yield writer.writerow(["step", "epoch", "split", "time", *heads])

    rows = run.metrics.values_list("step", "epoch", "split", "time", "values")

    for step, epoch, split, time, values in rows.iterator(chunk_size=CSV_ROWS):
        cells = [cell(values.get(name)) for name in names]
        yield writer.writerow([step, epoch, cell(split), time, *cells])


def cell(value: Any) -> Any:
    """Numbers as they are; text that a spreadsheet would run as a formula is quoted with an
    apostrophe."""
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"

    return value
