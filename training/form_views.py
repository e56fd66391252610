"""Start a New Train: choose a method, fill in its form, run. Works without a script, and answers at once with one."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views import View

from core.errors import UserError
from methods.models import TrainingMethod
from training.draft import Draft, datasets_of, draft_new, draft_read, train_find
from training.form_page import form_context, with_missing
from training.preview import train_preview
from training.services import train_create
from training.trial import trial_start
from training.views import reader_of
from training.worker import worker_state


def form_address(method: TrainingMethod, request: HttpRequest) -> str:
    """The method's form, with what was chosen on the way to it."""
    query = request.GET.copy()
    query.pop("method", None)
    return reverse("training:form", args=[method.slug]) + (f"?{query.urlencode()}" if query else "")


class MethodChoiceView(View):
    """`?method=` goes on to that method's form, and so does `?copy=` to that of the copied train."""

    def get(self, request: HttpRequest) -> HttpResponse:
        reader = reader_of(request)
        methods = list(TrainingMethod.objects.offered())
        chosen = next((method for method in methods if method.slug == request.GET.get("method")), None)
        if chosen is not None:
            return redirect(form_address(chosen, request))
        origin = train_find(reader, request.GET.get("copy", ""))
        if origin is not None and origin.method in methods:
            return redirect(form_address(origin.method, request))
        cards = [(method, *_counts(reader, method)) for method in methods]
        carried = [(name, request.GET[name]) for name in ("copy", "dataset", "base_model") if name in request.GET]
        return render(request, "training/new.html", {"cards": cards, "carried": carried, "origin": origin})


def _counts(reader: User, method: TrainingMethod) -> tuple[int, int]:
    """(datasets that fit, datasets there are)"""
    found = datasets_of(reader, method)
    return sum(not reason for _, reason in found), len(found)


class TrainFormView(View):
    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        method = get_object_or_404(TrainingMethod, slug=slug)
        state = worker_state()
        draft = draft_new(reader_of(request), method, request.GET, state.device_kind)
        if "copy" in request.GET and draft.origin is None:
            raise Http404
        preview = train_preview(**_ingredients(draft), state=state)
        # An empty form is no mistake yet: what is simply not chosen is said when somebody presses the button.
        for name in ("base_model", "dataset"):
            if getattr(draft, name) is None:
                preview["errors"].pop(name, None)
        if not draft.parameters.get("rewards"):
            preview["errors"].pop("rewards", None)
        return render(request, "training/form.html", form_context(draft, with_missing(preview, draft)))

    def post(self, request: HttpRequest, slug: str) -> HttpResponse:
        method = get_object_or_404(TrainingMethod, slug=slug)
        state = worker_state()
        draft = draft_read(reader_of(request), method, request.POST, state.device_kind)
        preview = with_missing(train_preview(**_ingredients(draft), state=state), draft)
        if preview["ok"] and draft.base_model is not None and draft.dataset is not None:
            try:
                run, created = train_create(
                    owner=draft.reader,
                    name=draft.name,
                    system_prompt=draft.system_prompt,
                    copied_from=draft.origin,
                    idempotency_key=draft.key,
                    method=method,
                    base_model=draft.base_model,
                    dataset=draft.dataset,
                    evaluation_dataset=draft.evaluation_dataset,
                    parameters=draft.parameters,
                    priority=draft.priority,
                    after=draft.after,
                    branch=draft.branch,
                )
            except UserError as error:
                preview["errors"] |= error.fields
            else:
                if created:
                    messages.success(request, _queued(run.name, preview))
                return HttpResponseRedirect(run.get_absolute_url())
        return render(request, "training/form.html", form_context(draft, preview, posted=True), status=400)


def _queued(name: str, preview: dict[str, Any]) -> str:
    if not preview["worker"]["ready"]:
        return f"{name} waits: {preview['worker']['message']}"
    ahead = preview["queue"]["waiting"] + preview["queue"]["running"]
    return f"{name} starts now." if not ahead else f"{name} is queued behind {ahead} other{'s' if ahead > 1 else ''}."


def _ingredients(draft: Draft) -> dict[str, Any]:
    return {
        "method": draft.method,
        "base_model": draft.base_model,
        "dataset": draft.dataset,
        "evaluation_dataset": draft.evaluation_dataset,
        "parameters": draft.parameters,
    }


class TrainPlanView(View):
    """The form's fields as posted -> what training.preview says of them."""

    def post(self, request: HttpRequest, slug: str) -> JsonResponse:
        method = get_object_or_404(TrainingMethod, slug=slug)
        state = worker_state()
        draft = draft_read(reader_of(request), method, request.POST, state.device_kind)
        return JsonResponse(with_missing(train_preview(**_ingredients(draft), state=state), draft))


class RewardTrialView(View):
    """The form's fields as posted, perhaps with typed answers -> the key of a trial of its rewards."""

    def post(self, request: HttpRequest, slug: str) -> JsonResponse:
        method = get_object_or_404(TrainingMethod, slug=slug)
        state = worker_state()
        draft = draft_read(reader_of(request), method, request.POST, state.device_kind)
        if draft.base_model is None or draft.dataset is None:
            return JsonResponse({"error": "Choose a base model and a dataset first."}, status=400)
        try:
            key = trial_start(
                by=draft.reader,
                method=method,
                base_model=draft.base_model,
                dataset=draft.dataset,
                parameters=draft.parameters,
                system_prompt=draft.system_prompt,
                answers=request.POST.getlist("trial-answer") or None,
                device=state.device_kind,
            )
        except UserError as error:
            return JsonResponse(
                {"error": " ".join(text for texts in error.fields.values() for text in texts)}, status=400
            )
        return JsonResponse({"url": reverse("api-trains-tried", args=[key])}, status=202)
