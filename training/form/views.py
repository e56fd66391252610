"""Start a New Train: choose a method, fill in its form, run. Works without a script, and answers at
once with one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views import View

from core.api import by_id_or_slug
from core.errors import UserError
from core.requests import reader_of
from core.text import are, counted
from datasets_app.models import Dataset
from jobs.devices.presence import WorkerState, worker_state
from methods.models import TrainingMethod
from training.form.draft import Draft, draft_new, draft_read, train_find
from training.form.forecast_bar import with_forecast_html
from training.form.page import form_context, with_missing
from training.form.preview import train_preview
from training.train.dataset_choice import DatasetFit, choices_make, datasets_visible, fit_of
from training.train.services import train_create
from training.train.step_trial import step_try
from training.train.trial import trial_start

# What was chosen before the method.
CARRIED = ("copy", "dataset", "base_model")


def form_address(method: TrainingMethod, request: HttpRequest) -> str:
    """The method's form, with what was chosen on the way to it."""
    form = reverse("training:form", args=[method.slug])
    query = request.GET.copy()
    query.pop("method", None)

    return f"{form}?{query.urlencode()}" if query else form


@dataclass(frozen=True)
class MethodCard:
    """A method as it is offered. fitting: how many of `total` datasets it can learn from. fit:
    whether it can learn from the dataset that is chosen already, None where none is."""

    method: TrainingMethod
    fitting: int
    total: int
    fit: DatasetFit | None = None

    @property
    def is_offered(self) -> bool:
        return self.fit is None or self.fit.fits


class MethodChoiceView(View):
    """`?method=` goes on to that method's form, and so does `?copy=` to that of the copied train.

    With `?dataset=` the page names the dataset, and opens no form of a method that cannot learn
    from it; `?refused=` is the method whose form was asked for all the same."""

    def get(self, request: HttpRequest) -> HttpResponse:
        reader = reader_of(request)
        methods = list(TrainingMethod.objects.offered())
        chosen = method_named(methods, request.GET.get("method"))
        dataset: Dataset | None = None

        # A copy brings its own dataset.
        if "copy" not in request.GET:
            dataset = dataset_asked(request)

        if chosen is not None and (dataset is None or fit_of(dataset, chosen).fits):
            return redirect(form_address(chosen, request))

        origin = train_find(reader, request.GET.get("copy", ""))
        if origin is not None and origin.method in methods:
            return redirect(form_address(origin.method, request))

        cards = method_cards(reader, methods, dataset)
        offered = [card for card in cards if card.is_offered]
        refused_slug = chosen.slug if chosen is not None else request.GET.get("refused")
        refused = [
            card for card in cards if card.method.slug == refused_slug and not card.is_offered
        ]

        context = {
            "cards": cards,
            "first": offered[0].method if offered else None,
            "refused": refused[0] if refused else None,
            "chosen_dataset": dataset,
            "carried": [(name, request.GET[name]) for name in CARRIED if name in request.GET],
            "origin": origin,
        }

        status = 409 if chosen is not None else 200
        return render(request, "training/new.html", context, status=status)


def method_named(methods: list[TrainingMethod], slug: str | None) -> TrainingMethod | None:
    return next((method for method in methods if method.slug == slug), None)


def dataset_asked(request: HttpRequest) -> Dataset | None:
    """The dataset of `?dataset=`, if this reader may see it."""
    visible = Dataset.objects.visible_to(request.user)
    return by_id_or_slug(visible, request.GET.get("dataset", ""))


def method_cards(
    reader: User, methods: list[TrainingMethod], dataset: Dataset | None
) -> list[MethodCard]:
    datasets = datasets_visible(reader)
    cards = []
    for method in methods:
        choices, unfit = choices_make(datasets, method)
        fit = None if dataset is None else fit_of(dataset, method)
        cards.append(MethodCard(method, len(choices), len(choices) + len(unfit), fit))

    return cards


class TrainFormView(View):
    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        method = get_object_or_404(TrainingMethod, slug=slug)
        if (refusal := self.refusal(request, method)) is not None:
            return refusal

        state = worker_state()
        draft = draft_new(reader_of(request), method, request.GET, state.device_kind)
        if "copy" in request.GET and draft.origin is None:
            raise Http404

        preview = train_preview(**draft_choices(draft), state=state)
        # An empty form is no mistake yet: what is simply not chosen is said when somebody presses
        # the button.
        for name in ("base_model", "dataset"):
            if getattr(draft, name) is None:
                preview["errors"].pop(name, None)

        if not draft.parameters.get("rewards"):
            preview["errors"].pop("rewards", None)

        context = form_context(draft, with_missing(preview, draft))
        return render(request, "training/form.html", context)

    def refusal(self, request: HttpRequest, method: TrainingMethod) -> HttpResponse | None:
        """Back to the methods where this one cannot learn from the dataset that is asked for: its
        form could not be sent."""
        if "copy" in request.GET or method.retired_at is not None:
            return None

        dataset = dataset_asked(request)
        if dataset is None or fit_of(dataset, method).fits:
            return None

        query = request.GET.copy()
        query["refused"] = method.slug
        return redirect(f"{reverse('training:new')}?{query.urlencode()}")

    def post(self, request: HttpRequest, slug: str) -> HttpResponse:
        method = get_object_or_404(TrainingMethod, slug=slug)
        draft, preview = posted_draft(request, method)
        if preview["ok"] and draft.base_model is not None and draft.dataset is not None:
            try:
                run, created = train_create(
                    name=draft.name,
                    copied_from=draft.origin,
                    idempotency_key=draft.key,
                    **draft_choices(draft),
                )
            except UserError as error:
                # Something changed between the two.
                preview["ok"] = False
                preview["errors"] |= error.fields
            else:
                if created:
                    messages.success(request, _queued(run.name, preview))

                return HttpResponseRedirect(run.get_absolute_url())

        context = form_context(draft, preview, posted=True)
        return render(request, "training/form.html", context, status=400)


def posted_draft(
    request: HttpRequest, method: TrainingMethod, *, may_risk: bool = True
) -> tuple[Draft, dict[str, Any]]:
    """The form as posted, and what training.form.preview says of it. may_risk: whether it may be
    started although it cannot fit."""
    state = worker_state()
    draft = draft_read(reader_of(request), method, request.POST, state.device_kind)
    draft.start_anyway = draft.start_anyway and may_risk
    return draft, with_missing(train_preview(**draft_choices(draft), state=state), draft)


def _queued(name: str, preview: dict[str, Any]) -> str:
    if not preview["worker"]["ready"]:
        return f"{name} waits: {preview['worker']['message']}"
    if preview["queue"]["paused"]:
        return f"{name} waits: the queue is paused."

    ahead = preview["queue"]["waiting"] + preview["queue"]["running"]
    if not ahead:
        return f"{name} starts now."

    others = counted(ahead, "other train")
    return f"{name} is queued. {others} {are(ahead)} running or waiting."


def draft_choices(draft: Draft) -> dict[str, Any]:
    """What both train_preview and train_create take of a draft."""
    return {
        "owner": draft.reader,
        "method": draft.method,
        "base_model": draft.base_model,
        "dataset": draft.dataset,
        "evaluation_dataset": draft.evaluation_dataset,
        "parameters": draft.parameters,
        "system_prompt": draft.system_prompt,
        "priority": draft.priority,
        "branch": draft.branch,
        "starts_after": draft.after,
        "labels": [draft.labels],
        "continue_adapter": draft.continue_adapter,
        "start_anyway": draft.start_anyway,
        "launcher": draft.launcher,
    }


class TrainPlanView(View):
    """The form's fields as posted -> what training.form.preview says of them."""

    def post(self, request: HttpRequest, slug: str) -> JsonResponse:
        method = get_object_or_404(TrainingMethod, slug=slug)
        draft, preview = posted_draft(request, method)
        try_url = reverse("training:try_step", args=[slug])
        return JsonResponse(
            with_forecast_html(preview, try_url=try_url, start_anyway=draft.start_anyway)
        )


class TrialView(View):
    """The form's fields as posted -> where a trial of them can be asked after."""

    def post(self, request: HttpRequest, slug: str) -> JsonResponse:
        method = get_object_or_404(TrainingMethod, slug=slug)
        state = worker_state()
        draft = draft_read(reader_of(request), method, request.POST, state.device_kind)
        if draft.base_model is None or draft.dataset is None:
            return JsonResponse({"error": "Choose a base model and a dataset first."}, status=400)

        common = {
            "by": draft.reader,
            "method": method,
            "base_model": draft.base_model,
            "dataset": draft.dataset,
            "parameters": draft.parameters,
            "system_prompt": draft.system_prompt,
        }
        try:
            url = self.begin(draft, state, common)
        except UserError as error:
            return JsonResponse({"error": error.message}, status=400)

        return JsonResponse({"url": url}, status=202)

    def begin(self, draft: Draft, state: WorkerState, common: dict[str, Any]) -> str:
        """Begin it with what all trials are given, and return the address. Raises UserError."""
        raise NotImplementedError


class StepTrialView(TrialView):
    """Tries one step."""

    def begin(self, draft: Draft, state: WorkerState, common: dict[str, Any]) -> str:
        measurement = step_try(**common, continue_adapter=draft.continue_adapter, state=state)
        return reverse("api-trains-step", args=[measurement.pk])


class RewardTrialView(TrialView):
    """Tries the rewards, perhaps on typed answers."""

    def begin(self, draft: Draft, state: WorkerState, common: dict[str, Any]) -> str:
        answers = self.request.POST.getlist("trial-answer") or None
        key = trial_start(**common, answers=answers, device=state.device_kind)
        return reverse("api-trains-tried", args=[key])
