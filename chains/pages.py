"""The list of chains, and a chain: a draft that is put together, or where its stages stand."""

from __future__ import annotations

import math
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views import View

from chains.filters import ChainFilter
from chains.form import chain_or_404
from chains.models import Chain, ChainQuerySet, Stage
from chains.services import (
    chain_cancel,
    chain_copy,
    chain_delete,
    chain_go_on,
    chain_order,
    chain_rename,
    gate_set,
    stage_move,
    stage_remove,
)
from chains.standing import chain_activity, go_on_words, seen_of, stage_now, stage_rows
from core.errors import UserError
from core.ownership import may_change, may_delete
from core.parts import page_or_part, wants_part
from core.requests import integer_of, reader_of
from core.row_actions import RowActionView
from training.models import TrainRun
from training.pages.compare import FEWEST_TRAINS, MOST_TRAINS
from training.pages.orders import OrderListView

Status = Chain.Status


class ChainListView(OrderListView):
    filter = ChainFilter
    template_name = "chains/list.html"

    def with_listed(self, orders: ChainQuerySet) -> ChainQuerySet:
        return orders.with_related()

    def row(self, order: Chain) -> dict[str, Any]:
        return {"order": order, "activity": chain_activity(order), "now": _now(order)}


def _now(chain: Chain) -> Stage | None:
    return None if chain.status in (Status.DRAFT, Status.SUCCEEDED) else stage_now(_stages(chain))


def _stages(chain: Chain) -> list[Stage]:
    return list(chain.stages.all())


def chain_context(request: HttpRequest, chain: Chain) -> dict[str, Any]:
    reader = reader_of(request)
    rows = stage_rows(chain, reader, seen_of([chain], reader), is_own_page=True)
    runs = [row.run.pk for row in rows if row.run is not None]

    return {
        "chain": chain,
        "rows": rows,
        "now": stage_now(_stages(chain)),
        "activity": chain_activity(chain),
        "go_on_words": go_on_words(chain) if chain.status == Status.STOPPED else "",
        "copies": [copy for row in rows for copy in row.copies],
        "compare": ",".join(map(str, runs[:MOST_TRAINS])) if len(runs) >= FEWEST_TRAINS else "",
        "may_change": may_change(chain, reader),
        "may_delete": may_delete(chain, reader),
        "is_draft": chain.status == Status.DRAFT,
        "here": chain.get_absolute_url(),
    }


@method_decorator(page_or_part, name="dispatch")
class ChainDetailView(View):
    """A chain, and to htmx what changes of it."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        chain = chain_or_404(request, pk)
        context = chain_context(request, chain)
        if wants_part(request):
            return render(request, "chains/_chain.html", context)

        context["gates"] = Stage.Gate.choices
        return render(request, "chains/detail.html", context)


# What can be done with one


class ChainActionView(RowActionView[Chain]):
    """A button of a chain, for those who may change it."""

    def get_row(self, request: HttpRequest, pk: int) -> Chain:
        chain = chain_or_404(request, pk)
        if not may_change(chain, request.user):
            raise PermissionDenied

        return chain


class ChainOrderView(ChainActionView):
    def change(self, request: HttpRequest, row: Chain) -> str:
        chain = chain_order(chain=row, by=reader_of(request))
        if chain.status == Status.STOPPED:
            raise UserError(chain.reason)

        return f"{chain.name} runs: its first train is in the queue."


class ChainCancelView(ChainActionView):
    def change(self, request: HttpRequest, row: Chain) -> str:
        chain = chain_cancel(chain=row, by=reader_of(request))
        if chain.status == Status.CANCELLED:
            return f"{chain.name} is cancelled. What its trains have made stays."

        return f"{chain.name} had ended already."


class ChainGoOnView(ChainActionView):
    """`train`: a copy that takes the place of one that did not finish."""

    def change(self, request: HttpRequest, row: Chain) -> str:
        train = None
        if text := request.POST.get("train", ""):
            visible = TrainRun.objects.visible_to(request.user)
            train = visible.filter(pk=integer_of(text) or 0).first()
            if train is None:
                raise UserError({"train": ["There is no such train."]})

        chain = chain_go_on(chain=row, by=reader_of(request), train=train)
        if chain.status == Status.STOPPED:
            raise UserError(chain.reason)

        return f"{chain.name} continues."


class ChainRenameView(ChainActionView):
    def change(self, request: HttpRequest, row: Chain) -> str:
        name = request.POST.get("name", "")
        chain_rename(chain=row, by=reader_of(request), name=name)
        return "Saved."


class ChainDeleteView(RowActionView[Chain]):
    def get_row(self, request: HttpRequest, pk: int) -> Chain:
        return chain_or_404(request, pk)

    def change(self, request: HttpRequest, row: Chain) -> str:
        chain_delete(chain=row, by=reader_of(request))
        return f"{row.name} is deleted. Its trains stay."

    def address_done(self, request: HttpRequest, row: Chain) -> str:
        return reverse("chains:list")


class ChainCopyView(View):
    """A draft of one's own with the same stages."""

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        chain = chain_copy(chain=chain_or_404(request, pk), by=reader_of(request))
        messages.success(request, f"{chain.name} is a draft. Change it, then run it.")
        return redirect(chain)


# What can be done with a draft's stages


class StageActionView(ChainActionView):
    @property
    def position(self) -> int:
        return int(self.kwargs["position"])


class StageRemoveView(StageActionView):
    def change(self, request: HttpRequest, row: Chain) -> str:
        stage_remove(chain=row, by=reader_of(request), position=self.position)
        return f"Stage {self.position} is removed."


class StageMoveView(StageActionView):
    def change(self, request: HttpRequest, row: Chain) -> str:
        to = request.POST.get("to", "")
        stage_move(chain=row, by=reader_of(request), position=self.position, to=to)
        return f"Stage {self.position} is moved."


class StageGateView(StageActionView):
    """The gate behind a stage."""

    def change(self, request: HttpRequest, row: Chain) -> str:
        gate_set(
            chain=row,
            by=reader_of(request),
            position=self.position,
            gate=request.POST.get("gate", ""),
            gate_metric=request.POST.get("gate_metric", ""),
            gate_value=_number(request.POST.get("gate_value", "")),
        )
        return f"The gate behind stage {self.position} is saved."


def _number(text: str) -> float | None:
    """None where nothing was typed. Raises UserError for what is no finite number."""
    if not text.strip():
        return None

    try:
        value = float(text)
    except ValueError as error:
        raise UserError({"gate_value": ["Give a number."]}) from error

    if not math.isfinite(value):
        raise UserError({"gate_value": ["Give a number."]})

    return value
