"""Compare: two to eight trains by a link that can be shared."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views import View

from core.requests import reader_of
from training.models import TrainRun
from training.pages.answers import shared_prompts
from training.pages.chart_table import charts_table
from training.pages.charts import series_of
from training.pages.colours import colour_of, colours_choose, colours_parse, is_dashed
from training.pages.compare import (
    FEWEST_TRAINS,
    MOST_TRAINS,
    ids_parse,
    outcome_rows,
    setting_rows,
)
from training.train.filters import TrainFilter
from training.train.verdict import comparability, verdict

OFFERED_TRAINS = 30
# Eight trains and ten metrics on one page.
POINTS_A_SERIES = 1000


def trains_of(reader: User, ids: list[int]) -> list[TrainRun]:
    """In the order of `ids`; one that does not exist or is a stranger's makes the whole page a
    404."""
    visible = TrainRun.objects.visible_to(reader).with_related()
    by_id = visible.select_related("evaluation_dataset").in_bulk(ids)
    if len(by_id) < len(ids):
        raise Http404

    return [by_id[pk] for pk in ids]


def address(ids: list[int], colours: dict[int, int]) -> str:
    """The address of a comparison of these trains, in which those shown now keep their colours."""
    slots = colours_choose(ids, colours)
    id_list = ",".join(str(pk) for pk in ids)
    colour_list = ",".join(str(slots[pk]) for pk in ids)

    return f"?ids={id_list}&colours={colour_list}"


def baseline_of(trains: list[TrainRun], chosen: str) -> TrainRun:
    """The one that was asked for, else one that another was copied from, else the first."""
    by_id = {str(run.pk): run for run in trains}
    if chosen in by_id:
        return by_id[chosen]

    for run in trains:
        origin = by_id.get(str(run.copied_from_id))
        if origin is not None:
            return origin

    return trains[0]


def column_make(run: TrainRun, colours: dict[int, int]) -> dict[str, Any]:
    """A train as chips, charts, table heads and answers show it. `without`: the address of the page
    without it."""
    slot = colours[run.pk]
    rest = [pk for pk in colours if pk != run.pk]

    return {
        "run": run,
        "colour": colour_of(slot),
        "dashed": is_dashed(slot),
        "without": address(rest, colours),
    }


def legend_entry(column: dict[str, Any]) -> dict[str, Any]:
    """A train as the page's script knows it."""
    run: TrainRun = column["run"]
    return {
        "id": run.pk,
        "name": run.name,
        "colour": column["colour"],
        "dash": column["dashed"],
    }


class CompareView(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        reader = reader_of(request)
        # ?ids=3,5 is the address of a comparison; ?id=3&id=5 is what the boxes of the choice send.
        every_id = [request.GET.get("ids", ""), *request.GET.getlist("id")]
        ids = ids_parse(",".join(every_id))
        trains: list[TrainRun] = []
        colours: dict[int, int] = {}

        # Asked before the database is: thousands of ids are no comparison.
        if len(ids) <= MOST_TRAINS:
            trains = trains_of(reader, ids)
        if trains:
            chosen_before = colours_parse(request.GET.get("colours", ""), ids)
            colours = colours_choose(ids, chosen_before)

        context: dict[str, Any] = {
            "trains": trains,
            "ids": ids,
            "too_many": len(ids) > MOST_TRAINS,
            "most": MOST_TRAINS,
            "search": request.GET.get("search", "")[:200],
            "offered": [],
        }

        if len(ids) < MOST_TRAINS:
            context["offered"] = self.offered(reader, ids, colours)

        if "choose" in request.GET or not FEWEST_TRAINS <= len(trains) <= MOST_TRAINS:
            return render(request, "training/compare_choose.html", context)

        context |= self.comparison(trains, colours)
        return render(request, "training/compare.html", context)

    def comparison(self, trains: list[TrainRun], colours: dict[int, int]) -> dict[str, Any]:
        query = self.request.GET
        baseline = baseline_of(trains, query.get("baseline", ""))
        settings = setting_rows(trains, baseline)
        columns = [column_make(run, colours) for run in trains]
        prompts = []

        for item in shared_prompts(trains):
            answers = list(zip(columns, item.answers, strict=True))
            prompts.append((item.prompt, item.reference, answers))

        return {
            "columns": columns,
            "baseline": baseline,
            "others": [run for run in trains if run != baseline],
            "verdict": verdict(trains),
            "comparability": comparability(trains),
            "settings": settings,
            "different": sum(not row.same for row in settings),
            "show_all": query.get("all") == "1",
            "outcomes": outcome_rows(trains),
            "prompts": prompts,
            "page": {
                "trains": [legend_entry(column) for column in columns],
                "table": charts_table(trains[0].objective),
                "active": any(not run.ended for run in trains),
            },
        }

    def offered(
        self, reader: User, ids: list[int], colours: dict[int, int]
    ) -> list[tuple[TrainRun, str]]:
        """Further trains to add, newest first, each with the address of the page with it."""
        others = TrainRun.objects.visible_to(reader).exclude(pk__in=ids)
        search = self.request.GET.get("search", "")
        matching = TrainFilter({"search": search}, queryset=others).qs
        # Their ids first: rows are wide, and a database sorts them all before it takes some.
        newest = list(matching.values_list("pk", flat=True)[:OFFERED_TRAINS])
        by_id = TrainRun.objects.with_related().in_bulk(newest)
        # One may have been deleted in between.
        runs = [by_id[pk] for pk in newest if pk in by_id]

        return [(run, address([*ids, run.pk], colours)) for run in runs]


class CompareSeriesView(View):
    def get(self, request: HttpRequest) -> JsonResponse:
        ids = ids_parse(request.GET.get("ids", ""))
        if len(ids) > MOST_TRAINS:
            raise Http404

        trains = trains_of(reader_of(request), ids)
        return JsonResponse(
            {str(run.pk): series_of(run, most_points=POINTS_A_SERIES) for run in trains}
        )
