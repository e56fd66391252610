"""Trains for operators: to search, stop, copy and compare. Trains are changed only through the
services."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from core.errors import UserError
from core.owned_admin import SHARING_ACTIONS, OwnedAdmin
from core.templatetags.display import duration, loss, share
from jobs.durations import run_seconds
from jobs.models import Job
from training.models import TrainRun
from training.pages.compare import MOST_TRAINS
from training.train.durations import run_progress
from training.train.services import train_delete, train_stop, train_update

EDITABLE = ("name", "notes")


def reader_of(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


@admin.register(TrainRun)
class TrainRunAdmin(OwnedAdmin):
    list_display = (
        "id",
        "name",
        "status",
        "method",
        "base_model",
        "dataset",
        "done",
        "last_loss",
        "ran_for",
        "owner",
        "shared",
    )
    list_display_links = ("id", "name")
    list_filter = ("status", "shared", "method", "base_model", "dataset", "owner", "created_at")
    list_select_related = ("method", "base_model", "dataset", "owner")
    list_per_page = 50
    search_fields = ("=id", "name", "notes", "base_model__name", "dataset__name", "owner__username")
    search_help_text = "Number, name, notes, base model, dataset or owner"
    date_hierarchy = "created_at"
    ordering = ("-id",)
    actions = ("copy_train", "compare_trains", "stop_trains", *SHARING_ACTIONS)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "name",
                    "notes",
                    "owner",
                    "shared",
                    "status",
                    "done",
                    "created_at",
                    "started_at",
                    "finished_at",
                )
            },
        ),
        (
            "What was asked for",
            {
                "fields": (
                    "method",
                    "method_version",
                    "base_model",
                    "dataset",
                    "evaluation_dataset",
                    "parameters",
                    "system_prompt",
                    "copied_from",
                )
            },
        ),
        (
            "Where it stands",
            {
                "fields": (
                    "attempt",
                    "phase",
                    "step",
                    "total_steps",
                    "epoch",
                    "last_metrics",
                    "last_evaluation",
                    "best_value",
                    "best_step",
                    "warnings",
                    "facts",
                    "outcome",
                    "error_code",
                    "error",
                    "error_advice",
                )
            },
        ),
        ("Who runs it", {"fields": ("worker", "host", "process", "heartbeat_at")}),
    )

    @admin.display(description="done")
    def done(self, run: TrainRun) -> str:
        return share(run_progress(run))

    @admin.display(description="last loss")
    def last_loss(self, run: TrainRun) -> str:
        return loss(run.last_metrics.get("loss"))

    @admin.display(description="duration", ordering="started_at")
    def ran_for(self, run: TrainRun) -> str:
        return duration(run_seconds(run))

    def view_on_site(self, run: TrainRun) -> str:
        return run.get_absolute_url()

    def get_readonly_fields(self, request: HttpRequest, obj: TrainRun | None = None) -> list[str]:
        names: list[str] = []
        for _, section in self.fieldsets:
            names += map(str, section["fields"])

        return [name for name in names if name not in EDITABLE]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Trains start from their form, which checks what they need."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: TrainRun | None = None) -> bool:
        """Only of an ended train. Where one of several chosen trains waits or runs, Django's own
        page refuses to delete any."""
        if obj is not None and not obj.ended:
            return False

        return super().has_delete_permission(request, obj)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[Any, Any, set[str], Any]:
        """A train's job goes with it, though none is deleted by itself."""
        to_delete, counts, needed, protected = super().get_deleted_objects(objs, request)
        return to_delete, counts, needed - {Job._meta.verbose_name}, protected

    def save_model(self, request: HttpRequest, obj: TrainRun, form: Any, change: bool) -> None:
        run = TrainRun.objects.get(pk=obj.pk)
        by = reader_of(request)
        try:
            train_update(run=run, by=by, name=obj.name, notes=obj.notes)
        except UserError as error:
            self.message_user(request, error.message, messages.ERROR)

    def delete_model(self, request: HttpRequest, obj: TrainRun) -> None:
        self._delete(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[TrainRun]) -> None:
        for run in queryset:
            self._delete(request, run)

    def _delete(self, request: HttpRequest, run: TrainRun) -> None:
        try:
            train_delete(run=run, by=reader_of(request))
        except UserError as error:
            self.message_user(request, f"{run}: {error.message}", messages.ERROR)

    @admin.action(description="Copy the Train", permissions=["view"])
    def copy_train(self, request: HttpRequest, queryset: QuerySet[TrainRun]) -> HttpResponse | None:
        chosen = list(queryset[:2])
        if len(chosen) != 1:
            self.message_user(request, "Choose one train to copy.", messages.WARNING)
            return None

        return redirect("training:copy", chosen[0].pk)

    @admin.action(description="Compare", permissions=["view"])
    def compare_trains(
        self, request: HttpRequest, queryset: QuerySet[TrainRun]
    ) -> HttpResponse | None:
        ids = queryset.order_by("pk").values_list("pk", flat=True)[: MOST_TRAINS + 1]
        if not 2 <= len(ids) <= MOST_TRAINS:
            message = f"Choose 2 to {MOST_TRAINS} trains to compare."
            self.message_user(request, message, messages.WARNING)
            return None

        chosen = ",".join(map(str, ids))
        return redirect(f"{reverse('training:compare')}?ids={chosen}")

    @admin.action(description="Stop", permissions=["change"])
    def stop_trains(self, request: HttpRequest, queryset: QuerySet[TrainRun]) -> None:
        by = reader_of(request)
        stopped = 0
        for run in queryset:
            if not run.ended:
                train_stop(run=run, by=by)
                stopped += 1

        total = queryset.count()
        self.message_user(request, f"{stopped} of {total} asked to stop; the others had ended.")
