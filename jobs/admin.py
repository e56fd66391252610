"""Jobs for operators, those of the platform itself included."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from jobs.models import DevicePolicy, Job, Machine, Notice
from jobs.notices import notice_state
from jobs.services import job_stop


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = (
        "number",
        "kind",
        "name",
        "owner",
        "status",
        "lane",
        "attempt",
        "created_at",
        "started_at",
        "finished_at",
        "due_at",
        "host",
        "error",
    )
    list_filter = ("status", "lane", "kind")
    list_select_related = ("owner",)
    search_fields = ("name", "key", "error")
    show_full_result_count = False
    actions = ("stop",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        # An open one would be added again, and a train is deleted with its files.
        if obj is None or not obj.ended or obj.lane == Job.Lane.DEVICE:
            return False

        return super().has_delete_permission(request, obj)

    def has_stop_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("jobs.change_job"))

    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        obj.forget()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        for job in queryset:
            job.forget()

    @admin.action(description="Stop", permissions=["stop"])
    def stop(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        stopped = 0
        for job in jobs.filter(status__in=Job.OPEN):
            job_stop(job=job, by=request.user)  # type: ignore[arg-type]
            stopped += 1

        self.message_user(request, f"{stopped} stopped.")


@admin.register(Notice)
class NoticeAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Who was notified of the end of which job, who was not, and why."""

    list_display = ("job", "status", "way", "state", "tries", "next_at", "sent_at", "error")
    list_filter = ("way", "status")
    list_select_related = ("job",)

    @admin.display(description="state")
    def state(self, notice: Notice) -> str:
        return notice_state(notice)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Notice | None = None) -> bool:
        return False


@admin.register(DevicePolicy)
class DevicePolicyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """How trains and models that answer share a device."""

    list_display = ("rule", "idle_minutes", "models_at_once")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return super().has_add_permission(request) and not DevicePolicy.objects.exists()


@admin.register(Machine)
class MachineAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Machines that have trained. One that will not come back can be deleted: then no train may ask
    for its devices any more."""

    list_display = ("host", "slot", "kind", "devices", "seen_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Machine | None = None) -> bool:
        return False
