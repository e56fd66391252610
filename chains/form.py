"""The stages of a draft, each by the form of a train. Works without a script, and answers at once
with one."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views import View

from chains.adapters import adapter_words, stage_parameters
from chains.models import Chain, Stage
from chains.services import NOT_A_DRAFT, chain_create, stage_put
from core.errors import UserError
from core.ownership import may_change
from core.requests import integer_of, reader_of, row_or_404
from jobs.devices.presence import WorkerState, worker_state
from methods.models import TrainingMethod
from methods.schema import method_fields
from models_app.models import BaseModel
from training.form.draft import Draft, draft_new, draft_read, ingredients_take, launcher_kept
from training.form.forecast_bar import with_forecast_html
from training.form.page import form_context, model_facts, with_missing
from training.form.preview import train_preview
from training.form.views import draft_choices, method_cards, method_named, posted_draft


def chain_or_404(request: HttpRequest, pk: int) -> Chain:
    """A chain that this reader may see; a stranger's is not there."""
    visible = Chain.objects.visible_to(request.user)
    return row_or_404(visible.with_related(), pk)


def stage_of(draft: Draft) -> Stage:
    """What was filled in, as a stage that is not stored yet."""
    return Stage(
        name=draft.name,
        method=draft.method,
        base_model=draft.base_model,
        dataset=draft.dataset,
        evaluation_dataset=draft.evaluation_dataset,
        parameters=draft.parameters,
        system_prompt=draft.system_prompt,
        labels=[draft.labels] if draft.labels else [],
        launcher=draft.launcher,
        start=Stage.Start.ADAPTER if draft.continue_adapter else Stage.Start.MERGED,
    )


def without_risk(preview: dict[str, Any]) -> dict[str, Any]:
    """Its trains start by themselves, so that nobody is there who could start one anyway."""
    if preview["forecast"] is not None:
        preview["forecast"]["may_start_anyway"] = False

    return preview


class ChainBeginView(View):
    """The form of a new train, kept as the first stage of a draft."""

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        return redirect("training:form", slug)

    def post(self, request: HttpRequest, slug: str) -> HttpResponse:
        method = get_object_or_404(TrainingMethod, slug=slug)
        draft, preview = posted_draft(request, method, may_risk=False)
        if draft.branch is not None:
            text = "A chain starts from a base model, and not from a checkpoint."
            preview["errors"] |= {"branch_step": [text]}
            preview["ok"] = False

        if not preview["ok"]:
            context = form_context(draft, preview, posted=True)
            return render(request, "training/form.html", context, status=400)

        return redirect("chains:add", draft_chain(draft).pk)


def draft_chain(draft: Draft) -> Chain:
    """The chain whose first stage was filled in; a form that is sent twice makes one."""
    if earlier := Chain.of_key(draft.reader, draft.key):
        return earlier

    try:
        with transaction.atomic():
            return chain_create(
                owner=draft.reader,
                stages=[stage_of(draft)],
                priority=draft.priority,
                starts_after=draft.after,
                idempotency_key=draft.key,
            )
    except IntegrityError:
        # The other half of a double click was faster.
        earlier = Chain.of_key(draft.reader, draft.key)
        if earlier is None:
            raise

        return earlier


class DraftView(View):
    """A page of a draft, for those who may change it."""

    chain: Chain
    stages: list[Stage]
    # Of the stage that it is about, from 1; one behind the others is a new one.
    position: int = 1

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.chain = chain_or_404(request, kwargs["pk"])
        if not may_change(self.chain, request.user):
            raise PermissionDenied
        if self.chain.status != Chain.Status.DRAFT:
            messages.error(request, NOT_A_DRAFT)
            return redirect(self.chain)

        self.stages = list(self.chain.stages.all())
        # Of a form that is older than the chain, perhaps.
        if not 1 <= self.position <= len(self.stages) + 1:
            raise Http404

        answer: HttpResponse = super().dispatch(request, *args, **kwargs)  # type: ignore[assignment]
        return answer


class StageMethodView(DraftView):
    """Which method the next stage has, or the one at `?position=`."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        methods = list(TrainingMethod.objects.offered())
        chosen = method_named(methods, request.GET.get("method"))
        asked = integer_of(request.GET.get("position", "")) or 0
        number = asked if 1 <= asked <= len(self.stages) else len(self.stages) + 1
        if chosen is not None:
            return redirect("chains:stage", pk, number, chosen.slug)

        cards = method_cards(reader_of(request), methods, None)
        context = {
            "chain": self.chain,
            "number": number,
            "carried": [("position", number)],
            "cards": cards,
            "first": cards[0].method if cards else None,
            "choice_url": reverse("chains:add", args=[pk]),
            "cancel_url": self.chain.get_absolute_url(),
        }
        return render(request, "chains/method.html", context)


class StageView(DraftView):
    """The form of one stage: a new one behind the others, or one that is there."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.method = get_object_or_404(TrainingMethod, slug=kwargs["slug"])
        self.position = kwargs["position"]
        return super().dispatch(request, *args, **kwargs)

    @property
    def stage(self) -> Stage | None:
        """The stage that is there; None for a new one."""
        if self.position == len(self.stages) + 1:
            return None

        return row_or_404(self.chain.stages.filter(position=self.position), self.stage_pk)

    @property
    def stage_pk(self) -> int:
        found = [stage.pk for stage in self.stages if stage.position == self.position]
        return found[0] if found else -1

    def get(self, request: HttpRequest, pk: int, position: int, slug: str) -> HttpResponse:
        state = worker_state()
        stage = self.stage
        draft = draft_new(reader_of(request), self.method, QueryDict(), state.device_kind)
        if stage is not None:
            take_stage(draft, stage)

        self.place(draft)
        preview = self.preview(draft, state)
        if stage is None:
            # An empty form is no mistake yet.
            preview["errors"].pop("dataset", None)
            preview["errors"].pop("rewards", None)

        return self.page(request, draft, with_missing(preview, draft))

    def post(self, request: HttpRequest, pk: int, position: int, slug: str) -> HttpResponse:
        draft, preview = self.posted(request)
        if preview["ok"]:
            is_new = self.stage is None
            try:
                stage_put(
                    chain=self.chain,
                    by=draft.reader,
                    stage=stage_of(draft),
                    position=None if is_new else position,
                )
            except UserError as error:
                messages.error(request, error.message)
                return redirect(self.chain)

            goes_on = is_new and request.POST.get("then") == "next"
            return redirect("chains:add", pk) if goes_on else redirect(self.chain)

        return self.page(request, draft, preview, posted=True)

    def posted(self, request: HttpRequest) -> tuple[Draft, dict[str, Any]]:
        """The form as posted, and what stands against it."""
        state = worker_state()
        draft = draft_read(reader_of(request), self.method, request.POST, state.device_kind)
        self.place(draft)
        return draft, with_missing(self.preview(draft, state), draft)

    def preview(self, draft: Draft, state: WorkerState) -> dict[str, Any]:
        """What stands against the stage. An adapter that is carried on does not exist yet, but what
        it will be is known."""
        choices = draft_choices(draft)
        if self.position == 1 or not draft.continue_adapter:
            return without_risk(train_preview(**choices, state=state))

        refused: dict[str, list[str]] = {}
        stages = [*self.stages[: self.position - 1], stage_of(draft)]
        try:
            choices["parameters"] = stage_parameters(stages, self.position - 1)
        except UserError as refusal:
            refused = {
                "continue_adapter" if name == "start" else name: texts
                for name, texts in refusal.fields.items()
            }

        preview = train_preview(**choices | {"continue_adapter": False}, state=state)
        preview["errors"] = refused | preview["errors"]
        preview["ok"] = preview["ok"] and not refused
        return without_risk(preview)

    def place(self, draft: Draft) -> None:
        """A later stage is checked against the base model of the first."""
        draft.priority = Draft.priority
        draft.after = None
        draft.start_anyway = False
        if self.position > 1:
            draft.missing.pop("base_model", None)
            draft.base_model = None
            ingredients_take(draft, self.stages[0], "first stage", ("base_model",))

    def page(
        self, request: HttpRequest, draft: Draft, preview: dict[str, Any], *, posted: bool = False
    ) -> HttpResponse:
        place = [self.chain.pk, self.position, self.method.slug]
        context = form_context(draft, preview, posted=posted)
        if self.position > 1 and draft.base_model is not None:
            self.offer_adapter(context, draft, draft.base_model)

        context |= {
            "chain": self.chain,
            "number": self.position,
            "previous": self.stages[self.position - 2] if self.position > 1 else None,
            "is_new": self.stage is None,
            "form_url": reverse("chains:stage", args=place),
            "plan_url": reverse("chains:stage_plan", args=place),
            # A stage is tried as a train of its own.
            "try_url": "",
        }
        return render(request, "chains/form.html", context, status=400 if posted else 200)

    def offer_adapter(self, context: dict[str, Any], draft: Draft, base: BaseModel) -> None:
        """What is carried on is the adapter of the stage before, and not that of the model that
        stands for its result."""
        fields = draft.fields if context["carrying_offered"] else {}
        words = adapter_words(self.stages, self.position - 2, fields) if fields else ""
        context["adapter_text"] = words
        context["page"]["models"][str(base.pk)] = model_facts(base, words)


class StagePlanView(StageView):
    """The form's fields as posted -> what training.form.preview says of them."""

    def get(self, request: HttpRequest, pk: int, position: int, slug: str) -> HttpResponse:
        return self.http_method_not_allowed(request)

    def post(self, request: HttpRequest, pk: int, position: int, slug: str) -> JsonResponse:
        _, preview = self.posted(request)
        return JsonResponse(with_forecast_html(preview))


def take_stage(draft: Draft, stage: Stage) -> None:
    """Fill in what a stage has, where this method has it too."""
    fields = method_fields(draft.method)
    values = stage.parameters.items()
    draft.parameters = {
        name: value for name, value in values if name in fields and not fields[name].fixed
    }
    draft.name = stage.name
    draft.base_model = draft.dataset = draft.evaluation_dataset = None
    ingredients_take(draft, stage, "stage")
    draft.system_prompt = stage.system_prompt
    draft.labels = ", ".join(stage.labels)
    draft.launcher = launcher_kept(stage.launcher)
    draft.continue_adapter = stage.start == Stage.Start.ADAPTER
