"""The list of sweeps, and a sweep: its trains as a table and as charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views import View

from core.ownership import may_change, may_delete
from core.parts import page_or_part, wants_part
from core.requests import reader_of, row_or_404
from core.row_actions import RowActionView
from sweeps.drawing import best_line_of, parallel_of
from sweeps.filters import SweepFilter
from sweeps.models import Sweep, SweepQuerySet, Trial
from sweeps.progress import sweep_fields
from sweeps.ranking import best_trial, counts_text, number, ranked
from sweeps.services import (
    sweep_continue,
    sweep_delete,
    sweep_pause,
    sweep_rename,
    sweep_stop,
)
from sweeps.space import axes_shown
from sweeps.standing import (
    budget_text,
    chance_text,
    search_text,
    seen_of,
    sweep_activity,
    trial_rows,
)
from sweeps.study import FEWEST_FOR_IMPORTANCE
from training.pages.compare import FEWEST_TRAINS, MOST_TRAINS
from training.pages.orders import OrderListView
from training.train.metrics import metric_title

Status = Sweep.Status


def sweep_or_404(request: HttpRequest, pk: int) -> Sweep:
    """A sweep that this reader may see; a stranger's is not there."""
    visible = Sweep.objects.visible_to(request.user)
    return row_or_404(visible.with_related(), pk)


class SweepListView(OrderListView):
    filter = SweepFilter
    template_name = "sweeps/list.html"

    def with_listed(self, orders: SweepQuerySet) -> SweepQuerySet:
        return orders.listed()

    def row(self, order: Sweep) -> dict[str, Any]:
        trials = list(order.trials.all())
        best = best_trial(order, trials)
        return {
            "order": order,
            "activity": sweep_activity(order) or counts_text(trials),
            "best": number(best.value) if best is not None and best.value is not None else "",
            "metric": metric_title(order.metric),
        }


def sweep_context(request: HttpRequest, sweep: Sweep) -> dict[str, Any]:
    reader = reader_of(request)
    trials = list(sweep.trials.all())
    axes = axes_shown(sweep_fields(sweep), sweep.space)
    seen = seen_of([sweep], reader)
    best = best_trial(sweep, trials)
    compared = [trial.run_id for trial in ranked(sweep, trials) if trial.run_id in seen]
    fields = {axis.name: axis.field.title for axis in axes}
    is_open = any(
        trial.state == Trial.State.OPEN and trial.began_at is not None for trial in trials
    )

    return {
        "sweep": sweep,
        "axes": axes,
        "rows": trial_rows(sweep, axes, seen),
        "best": best,
        "best_value": number(best.value) if best is not None and best.value is not None else "",
        "best_run": best.run if best is not None and best.run_id in seen else None,
        "chance": chance_text(sweep, trials),
        "counts": counts_text(trials),
        "search": search_text(sweep),
        "budget": budget_text(sweep),
        "metric": metric_title(sweep.metric),
        "activity": sweep_activity(sweep),
        "asks_again": sweep.is_active or is_open,
        "parallel": parallel_of(sweep, axes, trials),
        "best_line": best_line_of(sweep, trials),
        "importance": [(fields.get(name, name), share) for name, share in sweep.importance.items()],
        "complete": sum(trial.state == Trial.State.COMPLETE for trial in trials),
        "fewest_for_importance": FEWEST_FOR_IMPORTANCE,
        "compare": _compared(compared),
        "may_change": may_change(sweep, reader),
        "may_delete": may_delete(sweep, reader),
        "here": sweep.get_absolute_url(),
    }


def _compared(ids: Sequence[int | None]) -> str:
    """The best few trains, as the page Compare takes them."""
    chosen = ids[:MOST_TRAINS]
    return ",".join(map(str, chosen)) if len(chosen) >= FEWEST_TRAINS else ""


@method_decorator(page_or_part, name="dispatch")
class SweepDetailView(View):
    """A sweep, and to htmx what changes of it."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        sweep = sweep_or_404(request, pk)
        template = "sweeps/_sweep.html" if wants_part(request) else "sweeps/detail.html"
        return render(request, template, sweep_context(request, sweep))


# What can be done with one


class SweepActionView(RowActionView[Sweep]):
    """A button of a sweep, for those who may change it."""

    def get_row(self, request: HttpRequest, pk: int) -> Sweep:
        sweep = sweep_or_404(request, pk)
        if not may_change(sweep, request.user):
            raise PermissionDenied

        return sweep


class SweepPauseView(SweepActionView):
    def change(self, request: HttpRequest, row: Sweep) -> str:
        sweep_pause(sweep=row, by=reader_of(request))
        return f"{row.name} is paused. Waiting and running trains continue."


class SweepStopView(SweepActionView):
    def change(self, request: HttpRequest, row: Sweep) -> str:
        was_active = row.is_active
        sweep_stop(sweep=row, by=reader_of(request))
        if was_active:
            return f"{row.name} stops. Its trains save what they have learned."

        return f"{row.name} had ended already."


class SweepContinueView(SweepActionView):
    def change(self, request: HttpRequest, row: Sweep) -> str:
        sweep_continue(sweep=row, by=reader_of(request))
        return f"{row.name} continues."


class SweepRenameView(SweepActionView):
    def change(self, request: HttpRequest, row: Sweep) -> str:
        sweep_rename(sweep=row, by=reader_of(request), name=request.POST.get("name", ""))
        return "Saved."


class SweepDeleteView(RowActionView[Sweep]):
    def get_row(self, request: HttpRequest, pk: int) -> Sweep:
        return sweep_or_404(request, pk)

    def change(self, request: HttpRequest, row: Sweep) -> str:
        sweep_delete(sweep=row, by=reader_of(request))
        return f"{row.name} is deleted. Its trains stay."

    def address_done(self, request: HttpRequest, row: Sweep) -> str:
        return reverse("sweeps:list")
