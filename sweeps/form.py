"""Several values in the form of a new train. Works without a script, where each "Add a value" asks
the server, and answers at once with one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views import View

from core.errors import UserError
from core.requests import integer_of, reader_of, row_or_404
from core.templatetags.display import about
from core.text import counted
from jobs.devices.presence import WorkerState, worker_state
from methods.field_text import number_value, value_text
from methods.models import TrainingMethod
from methods.schema import ALL_LINEAR, Field, method_fields
from sweeps.checking import Request, SweepCheck, search_or_usual, sweep_check
from sweeps.models import Sweep
from sweeps.ranking import hours_text
from sweeps.services import sweep_start
from sweeps.space import NUMBERS, Axis, Space, axes_read, sweep_obstacle
from training.form.controls import Others, text_read
from training.form.draft import Draft, draft_new, draft_read, ingredients_take, launcher_kept
from training.form.forecast_bar import with_forecast_html
from training.form.page import form_context, with_missing
from training.form.preview import train_preview
from training.form.views import TrainFormView, draft_choices
from training.train.labels import labels_clean
from training.train.launching import device_kind_for
from training.train.metrics import method_metrics

VALUES, RANGE, BOTH = "values", "range", "both"
MODES = (VALUES, RANGE, BOTH)
BUDGETS = ("trains", "hours")
USUAL_BUDGET = "12"
HOUR_SECONDS = 3600
# Settings by which one train takes much longer than another.
TIMING = frozenset(
    {
        "adapter",
        "batch_size",
        "early_stop_after",
        "epochs",
        "evaluation_split",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "max_completion_tokens",
        "max_prompt_tokens",
        "max_samples",
        "max_steps",
        "max_tokens",
        "num_generations",
        "num_iterations",
        "packing",
        "ppo_epochs",
        "precision",
        "quantization",
        "target_modules",
        "thinking",
        "use_dora",
        "use_liger_kernel",
        "use_vllm",
    }
)
TITLES = {
    "space": "Values",
    "metric": "Metric",
    "search": "Search",
    "pruner": "Pruner",
    "percentile": "Percentile",
    "budget_trains": "Budget",
    "budget_hours": "Budget",
}


@dataclass
class AxisDraft:
    """One setting with several values as its controls hold them. texts: the values beside that of
    the ordinary control."""

    mode: str
    texts: list[str] = field(default_factory=list)
    low: str = ""
    high: str = ""
    scale: str = "linear"


@dataclass
class SweepDraft:
    """What the form holds of a sweep."""

    axes: dict[str, AxisDraft] = field(default_factory=dict)
    metric: str = ""
    search: str = ""
    pruner: str = Sweep.Pruner.NONE
    percentile: str = "25"
    budget: str = ""
    budget_unit: str = "trains"

    @property
    def budget_field(self) -> str:
        return f"budget_{self.budget_unit}"

    @property
    def budget_trains(self) -> int | None:
        """None where none was typed; -1 for what is no number of trains."""
        if self.budget_unit != "trains" or not self.budget:
            return None

        number = integer_of(self.budget)
        return -1 if number is None else number

    @property
    def budget_hours(self) -> float | None:
        if self.budget_unit != "hours" or not self.budget:
            return None

        try:
            return float(self.budget)
        except ValueError:
            return math.nan


def sweep_read(fields: dict[str, Field], data: QueryDict) -> SweepDraft:
    """What was posted; a setting that no sweep can change is passed over."""
    draft = SweepDraft(
        metric=data.get("metric", ""),
        search=data.get("search", ""),
        pruner=data.get("pruner", Sweep.Pruner.NONE),
        percentile=data.get("percentile", "25")[:10],
        budget=data.get("budget", "").strip()[:20],
    )
    unit = data.get("budget_unit", "")
    if unit in BUDGETS:
        draft.budget_unit = unit

    for name, item in fields.items():
        mode = data.get(f"sweep-{name}-mode", "")
        if mode in MODES and not sweep_obstacle(item):
            draft.axes[name] = AxisDraft(
                mode=mode,
                texts=data.getlist(f"sweep-{name}"),
                low=data.get(f"sweep-{name}-low", ""),
                high=data.get(f"sweep-{name}-high", ""),
                scale=data.get(f"sweep-{name}-scale", "linear"),
            )

    return draft


def axes_change(draft: SweepDraft, fields: dict[str, Field], data: QueryDict) -> bool:
    """Do what a button says that only a browser without a script sends. Returns whether there was
    one."""
    for action in ("add", "range", "both", "drop"):
        name = data.get(f"sweep-{action}", "")
        if name not in fields or sweep_obstacle(fields[name]):
            continue

        if action == "drop":
            draft.axes.pop(name, None)
        elif action == "range":
            draft.axes[name] = AxisDraft(RANGE)
        elif action == "both":
            draft.axes[name] = AxisDraft(BOTH)
        else:
            axis = draft.axes.setdefault(name, AxisDraft(VALUES))
            axis.mode = VALUES
            axis.texts.append("")

        return True

    return False


def space_read(
    draft: SweepDraft, fields: dict[str, Field], parameters: dict[str, Any], data: QueryDict
) -> dict[str, Any]:
    """The controls as Sweep.space. A blank value, and a setting with an only value, are none; a
    setting that has no effect beside the others is hidden, and is not asked for either."""
    return _with_effect(_entries(draft, fields, data), fields, parameters)


def others_read(draft: SweepDraft, fields: dict[str, Field], data: QueryDict) -> Others:
    """{setting: what is tried of it}, whether it has an effect or not: one of these may give another
    setting an effect."""
    entries = _entries(draft, fields, data)
    return {
        name: entry["values"] if "values" in entry else [entry["low"], entry["high"]]
        for name, entry in entries.items()
    }


def _entries(draft: SweepDraft, fields: dict[str, Field], data: QueryDict) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, axis in draft.axes.items():
        item = fields[name]
        if axis.mode == BOTH and item.kind == "bool":
            entries[name] = {"values": [name in data, name not in data]}
        elif axis.mode == RANGE:
            ends = {"low": number_value(item, axis.low), "high": number_value(item, axis.high)}
            entries[name] = ends | {"scale": axis.scale}
        elif any(text.strip() for text in axis.texts):
            texts = [text for text in axis.texts if text.strip()]
            others = [_typed(item, text) for text in texts]
            entries[name] = {"values": [_main(item, data), *others]}

    return entries


def _main(item: Field, data: QueryDict) -> Any:
    """What the ordinary control holds."""
    if item.kind == "modules":
        chosen = data.get(item.name, ALL_LINEAR)
        return data.getlist(f"{item.name}-names") if chosen == "choose" else chosen

    return _typed(item, data.get(item.name, ""))


def _typed(item: Field, text: str) -> Any:
    if item.kind in NUMBERS:
        return number_value(item, text)
    if item.kind == "modules" and text.strip() != ALL_LINEAR:
        return [name.strip() for name in text.split(",") if name.strip()]

    return text_read(text).strip()


def _with_effect(
    space: dict[str, Any], fields: dict[str, Field], parameters: dict[str, Any]
) -> dict[str, Any]:
    try:
        axes = axes_read(fields, space)
    except UserError:
        return space

    defaults = {name: item.default for name, item in fields.items()}
    idle = Space(tuple(axes), defaults | parameters).without_effect()
    names = {axis.name for axis in idle}
    return {name: entry for name, entry in space.items() if name not in names}


def request_of(draft: Draft, sweep: SweepDraft, space: dict[str, Any]) -> Request:
    return Request(
        owner=draft.reader,
        method=draft.method,
        base_model=draft.base_model,
        dataset=draft.dataset,
        evaluation_dataset=draft.evaluation_dataset,
        parameters={name: value for name, value in draft.parameters.items() if name not in space},
        space=space,
        system_prompt=draft.system_prompt,
        labels=[draft.labels] if draft.labels else [],
        continue_adapter=draft.continue_adapter,
        priority=draft.priority,
        starts_after=draft.after,
        start_anyway=draft.start_anyway,
        launcher=draft.launcher,
        name=draft.name,
        metric=sweep.metric,
        search=sweep.search,
        pruner=sweep.pruner,
        percentile=integer_of(sweep.percentile) or 0,
        budget_trains=sweep.budget_trains,
        budget_hours=sweep.budget_hours,
        is_form=True,
    )


def sweep_preview(
    draft: Draft, request: Request, state: WorkerState
) -> tuple[dict[str, Any], SweepCheck]:
    """What training.form.preview says of the first train, with what stands against the sweep, and
    {"sweep": {"trains", "combinations", "button", "text"}}."""
    check = sweep_check(request, device=device_kind_for(request.launcher, state))
    choices = draft_choices(draft)
    if check.space is not None:
        first = {axis.name: axis.edges()[0] for axis in check.space.axes}
        choices["parameters"] = request.parameters | check.space.kept(first)

    # Its first train has been checked with it.
    preview = train_preview(**choices, state=state, check=check.first)
    errors = dict(check.errors)
    if draft.branch is not None:
        errors["branch_step"] = ["A sweep starts from a base model, and not from a checkpoint."]

    preview["errors"] = errors
    preview["ok"] = not errors
    preview["sweep"] = {
        "trains": check.trains,
        "combinations": check.combinations,
        "button": button_text(check.trains),
        "text": _sweep_text(request, check, preview),
    }
    return with_missing(preview, draft), check


def button_text(trains: int) -> str:
    return f"Run {counted(trains, 'train')}" if trains else "Run the sweep"


def _sweep_text(request: Request, check: SweepCheck, preview: dict[str, Any]) -> str:
    """What the sweep comes to, for the summary."""
    if check.space is None or not check.trains:
        return ""

    search = search_or_usual(request, check.space)
    combinations = check.combinations
    if search == Sweep.Search.GRID and combinations == check.trains:
        text = f"{counted(check.trains, 'combination')}, one train each"
    elif combinations is not None:
        text = f"{check.trains:,} of {counted(combinations, 'combination')}"
    else:
        text = f"At most {counted(check.trains, 'train')}"

    if request.budget_hours:
        text += f", until they have run for {hours_text(request.budget_hours)} in total"

    seconds = _seconds_in_all(request, check, preview)
    if seconds is not None:
        text += f"; {about(seconds)} one after the other"

    return f"{text}."


def _seconds_in_all(request: Request, check: SweepCheck, preview: dict[str, Any]) -> float | None:
    """How long its trains take together; None where that is not known, since the first one does not
    stand for the others, and where the hours end it before."""
    assert check.space is not None
    if preview["time"] is None or any(axis.name in TIMING for axis in check.space.axes):
        return None

    seconds: float = preview["time"]["seconds"] * check.trains
    is_cut = request.budget_hours and seconds > request.budget_hours * HOUR_SECONDS
    return None if is_cut else seconds


def panel_of(method: TrainingMethod, sweep: SweepDraft) -> dict[str, Any]:
    """What the panel of a sweep offers."""
    return {
        "draft": sweep,
        "metrics": list(method_metrics(method).items()),
        "searches": [("", "Automatic"), *Sweep.Search.choices],
        "pruners": Sweep.Pruner.choices,
        "usual_budget": USUAL_BUDGET,
    }


def draft_beside(
    request: HttpRequest,
    method: TrainingMethod,
    fields: dict[str, Field],
    sweep: SweepDraft,
    state: WorkerState,
) -> Draft:
    """The form as it was posted, with every setting that has an effect in one of the trains."""
    others = others_read(sweep, fields, request.POST)
    return draft_read(reader_of(request), method, request.POST, state.device_kind, others)


class SweepFormView(View):
    """The form of a new train with several values."""

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        """With `?sweep=` as that sweep was filled in; else the form of an ordinary train."""
        pk = integer_of(request.GET.get("sweep", ""))
        if pk is None:
            return redirect("training:form", slug)

        method = get_object_or_404(TrainingMethod, slug=slug)
        visible = Sweep.objects.visible_to(request.user).with_related()
        sweep = row_or_404(visible, pk)
        state = worker_state()
        draft = draft_new(reader_of(request), method, QueryDict(), state.device_kind)
        filled = draft_take(draft, sweep)
        space = {name: entry for name, entry in sweep.space.items() if name in draft.fields}
        preview, _ = sweep_preview(draft, request_of(draft, filled, space), state)
        return self.page(request, draft, filled, preview)

    def post(self, request: HttpRequest, slug: str) -> HttpResponse:
        method = get_object_or_404(TrainingMethod, slug=slug)
        state = worker_state()
        fields = method_fields(method, device=state.device_kind)
        sweep = sweep_read(fields, request.POST)
        is_changed = axes_change(sweep, fields, request.POST)
        draft = draft_beside(request, method, fields, sweep, state)
        space = space_read(sweep, draft.fields, draft.parameters, request.POST)

        if not space and not is_changed:
            # Nothing differs: it is a train like any other.
            view = TrainFormView()
            view.setup(request, slug=slug)
            return view.post(request, slug)

        asked = request_of(draft, sweep, space)
        preview = train_preview(**draft_choices(draft), state=state)
        if space:
            preview, _ = sweep_preview(draft, asked, state)
        if is_changed:
            return self.page(request, draft, sweep, preview)

        if preview["ok"]:
            try:
                made, created = sweep_start(asked, idempotency_key=draft.key)
            except UserError as error:
                # Something changed between the two.
                preview["ok"] = False
                preview["errors"] |= error.fields
            else:
                if created:
                    messages.success(
                        request,
                        f"{made.name} has started. Its first train joins the queue in a few seconds.",
                    )

                return redirect(made)

        return self.page(request, draft, sweep, preview, posted=True)

    def page(
        self,
        request: HttpRequest,
        draft: Draft,
        sweep: SweepDraft,
        preview: dict[str, Any],
        *,
        posted: bool = False,
    ) -> HttpResponse:
        context = form_context(draft, preview, posted=posted)
        context["page"]["titles"] |= TITLES
        # They have their places in the panel.
        context["elsewhere"] = {
            name: texts for name, texts in context["elsewhere"].items() if name not in TITLES
        }
        for problem in context["problems"]:
            problem["title"] = TITLES.get(problem["name"], problem["title"])

        context["sweep"] = panel_of(draft.method, sweep)
        context["form_url"] = reverse("sweeps:new", args=[draft.method.slug])
        context["plan_url"] = reverse("sweeps:plan", args=[draft.method.slug])
        return render(request, "training/form.html", context, status=400 if posted else 200)


class SweepPlanView(View):
    """The form's fields as posted -> what sweep_preview says of them; of a train where nothing
    differs."""

    def post(self, request: HttpRequest, slug: str) -> JsonResponse:
        method = get_object_or_404(TrainingMethod, slug=slug)
        state = worker_state()
        fields = method_fields(method, device=state.device_kind)
        sweep = sweep_read(fields, request.POST)
        draft = draft_beside(request, method, fields, sweep, state)
        space = space_read(sweep, draft.fields, draft.parameters, request.POST)
        if space:
            preview, _ = sweep_preview(draft, request_of(draft, sweep, space), state)
        else:
            preview = with_missing(train_preview(**draft_choices(draft), state=state), draft)

        try_url = reverse("training:try_step", args=[slug])
        return JsonResponse(
            with_forecast_html(preview, try_url=try_url, start_anyway=draft.start_anyway)
        )


# A sweep that is copied


def draft_take(draft: Draft, sweep: Sweep) -> SweepDraft:
    """Fill in what a sweep has, as far as this method and reader have it too."""
    fields = draft.fields
    draft.parameters = {
        name: value
        for name, value in sweep.parameters.items()
        if name in fields and not fields[name].fixed
    }
    draft.name = f"{sweep.name[:90]}-copy"
    draft.base_model = draft.dataset = draft.evaluation_dataset = None
    ingredients_take(draft, sweep, "sweep")
    draft.system_prompt = sweep.system_prompt
    draft.labels = ", ".join(labels_clean(sweep.labels))
    draft.continue_adapter = sweep.continue_adapter
    draft.launcher = launcher_kept(sweep.launcher)

    filled = SweepDraft(
        metric=sweep.metric,
        search=sweep.search,
        pruner=sweep.pruner,
        percentile=str(sweep.percentile),
        budget="" if sweep.budget_asked is None else str(sweep.budget_asked),
    )
    if sweep.budget_hours is not None:
        filled.budget = f"{sweep.budget_hours:g}"
        filled.budget_unit = "hours"

    try:
        axes = axes_read(fields, {n: e for n, e in sweep.space.items() if n in fields})
    except UserError:
        axes = []

    draft.others = {axis.name: axis.edges() for axis in axes}
    for axis in axes:
        filled.axes[axis.name] = _axis_draft(axis)
        draft.parameters[axis.name] = axis.edges()[0]

    return filled


def _axis_draft(axis: Axis) -> AxisDraft:
    item = axis.field
    if axis.is_range:
        return AxisDraft(
            RANGE,
            low=value_text(item, axis.low),
            high=value_text(item, axis.high),
            scale="log" if axis.log else "linear",
        )
    if item.kind == "bool":
        return AxisDraft(BOTH)

    return AxisDraft(VALUES, texts=[value_text(item, value) for value in axis.values[1:]])
