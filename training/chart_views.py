"""Evaluation Data: the page, and what its script asks for beside the API: short series, judgement, answers, CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views import View

from training.answers import answers_of
from training.charts import NOT_CHARTED, charts_table, planned_of, series_of
from training.downloads import file_stem
from training.draft import train_find
from training.form_views import reader_of
from training.judgement import judgement_of
from training.models import TrainRun
from training.services import queue_position

# A cell that begins like this is a formula to a spreadsheet.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class TrainView(View):
    """A page of one train; a stranger's is a 404."""

    def get_train(self, request: HttpRequest, pk: int) -> TrainRun:
        run = train_find(reader_of(request), str(pk))
        if run is None:
            raise Http404
        return run


class EvaluationView(TrainView):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        run = self.get_train(request, pk)
        evaluations = run.metrics.filter(split="eval").order_by("seq")
        context = {
            "run": run,
            "tab": "evaluation",
            "judgement": judgement_of(run),
            "evaluations": evaluations,
            "answers": answers_of(run),
            "page": {
                "id": run.pk,
                "status": run.status,
                "ended": run.ended,
                "queuePosition": queue_position(run),
                "table": charts_table(),
                "ignored": NOT_CHARTED,
                "planned": planned_of(run),
            },
        }
        return render(request, "training/evaluation.html", context)


class SeriesView(TrainView):
    def get(self, request: HttpRequest, pk: int) -> JsonResponse:
        return JsonResponse(series_of(self.get_train(request, pk)))


class JudgementView(TrainView):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        return render(request, "training/_judgement.html", {"judgement": judgement_of(self.get_train(request, pk))})


class AnswersView(TrainView):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        run = self.get_train(request, pk)
        return render(request, "training/_answers.html", {"run": run, "answers": answers_of(run)})


class MetricsCsvView(TrainView):
    """Every logged step with every value, in full precision."""

    def get(self, request: HttpRequest, pk: int) -> StreamingHttpResponse:
        run = self.get_train(request, pk)
        response = StreamingHttpResponse(csv_lines(run), content_type="text/csv; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="{file_stem(run)}-metrics.csv"'
        return response


class _Line:
    """What csv.writer wants of a file: it hands each line back."""

    def write(self, text: str) -> str:
        return text


def csv_lines(run: TrainRun) -> Iterator[str]:
    names: dict[str, None] = {}
    for values in run.metrics.values_list("values", flat=True).iterator(chunk_size=2000):
        names |= dict.fromkeys(values)
    writer = csv.writer(_Line())
    yield writer.writerow(["step", "epoch", "split", "time", *(cell(name) for name in names)])
    rows = run.metrics.values_list("step", "epoch", "split", "time", "values")
    for step, epoch, split, time, values in rows.iterator(chunk_size=2000):
        yield writer.writerow([step, epoch, cell(split), time, *(cell(values.get(name)) for name in names)])


def cell(value: Any) -> Any:
    """Numbers as they are; text that a spreadsheet would run as a formula is quoted with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
