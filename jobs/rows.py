"""Jobs as pages and the API show them: which ones a reader sees, where each waits, and what it is
about. However many there are, the number of queries stays the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ObjectDoesNotExist
from django.utils import timezone

from core.ownership import may_change, may_delete, may_see_all
from core.requests import row_or_404
from jobs.durations import run_seconds
from jobs.kinds import Kind, addresses_of, kind_of, kinds
from jobs.models import Job, JobQuerySet
from jobs.queue import is_due, is_paused

Status = Job.Status
Lane = Job.Lane

# What each lane is called: (in the API, on pages).
LANES: dict[int, tuple[str, str]] = {
    Lane.QUICK: ("short", "Short tasks"),
    Lane.NORMAL: ("medium", "Medium tasks"),
    Lane.LONG: ("long", "Long tasks"),
    Lane.DEVICE: ("training", "Training"),
}


@dataclass(frozen=True)
class JobRow:
    """One job as this reader sees it.

    position: its place among those that wait for the same workers, 1 for the next; 0 for one that
    does not wait, or pauses. address: the page of what it is about, "" for none. after: the
    unfinished job for which it waits, where the reader may see that one (waits_for_another says
    whether there is one).
    """

    job: Job
    kind: Kind
    position: int
    address: str
    after: Job | None
    may_change: bool
    may_delete: bool

    @property
    def train(self) -> Any:
        """The train that it is, None for other kinds."""
        return train_of(self.job)

    @property
    def page(self) -> str:
        """Where its name leads."""
        return self.address or self.job.get_absolute_url()

    @property
    def progress(self) -> float | None:
        train = self.train
        if train is None:
            return self.job.progress

        # It counts its steps itself.
        return min(1.0, train.step / train.total_steps) if train.total_steps else None

    @property
    def lane(self) -> str:
        return LANES[self.job.lane][0]

    @property
    def lane_title(self) -> str:
        return LANES[self.job.lane][1]

    @property
    def waits(self) -> bool:
        return self.job.status == Status.QUEUED

    @property
    def waits_for_another(self) -> bool:
        before = self.job.starts_after
        return self.waits and before is not None and before.status != Status.FINISHED

    @property
    def pauses(self) -> bool:
        """Whether it has failed (`job.error`) or was put off, and is not begun again yet."""
        return is_paused(self.job)

    @property
    def seconds_waited(self) -> float | None:
        """How long it waited for its first start, or waits; None where later attempts have
        overwritten that."""
        job = self.job
        if self.waits:
            return (timezone.now() - job.created_at).total_seconds()
        if job.attempt > 1:
            return None

        begun = job.started_at or job.finished_at
        waited = begun - job.created_at if begun is not None else timedelta()
        return max(0.0, waited.total_seconds())

    @property
    def seconds_run(self) -> float | None:
        return run_seconds(self.job)


def jobs_visible(reader: User | AnonymousUser) -> JobQuerySet[Job]:
    """The jobs that this reader may see, with what a row needs. Errands of the platform itself are
    for those who see everybody's."""
    own_columns = [field.attname for field in Job._meta.concrete_fields]
    visible: JobQuerySet[Job] = Job.objects.visible_to(reader)
    if not may_see_all(Job, reader):
        visible = visible.exclude(kind__in=[kind.name for kind in kinds() if not kind.is_listed])

    return visible.select_related("owner", "starts_after", "trainrun").only(
        *own_columns,
        "owner__username",
        "owner__first_name",
        "owner__last_name",
        "starts_after__status",
        # Of a train, whose rows are wide.
        "trainrun__id",
        "trainrun__step",
        "trainrun__total_steps",
    )


def job_or_404(reader: User, number: int) -> Job:
    """A job that this reader may see. Raises Http404 also for a stranger's."""
    return row_or_404(jobs_visible(reader), number)


def train_of(job: Job) -> Any:
    """The train that a job is, None for other kinds. Its files, the log among them, lie in a folder
    of its own."""
    try:
        return job.trainrun
    except ObjectDoesNotExist:
        return None


def positions() -> dict[int, int]:
    """{number: position} of all jobs that wait for their turn, the next one of each lane at 1. Those
    that a reader may not see are counted too."""
    waiting = Job.objects.filter(is_due(), status=Status.QUEUED)
    order = waiting.order_by("lane", "-priority", "place", "number")
    counts: Counter[int] = Counter()
    found = {}

    for number, lane in order.values_list("number", "lane"):
        counts[lane] += 1
        found[number] = counts[lane]

    return found


def rows_make(jobs: Iterable[Job], reader: User) -> list[JobRow]:
    jobs = list(jobs)
    addresses = addresses_of(jobs, reader)
    places = positions() if any(job.status == Status.QUEUED for job in jobs) else {}

    before = {job.starts_after_id for job in jobs if job.starts_after_id is not None}
    predecessors = jobs_visible(reader).in_bulk(list(before)) if before else {}

    return [
        JobRow(
            job=job,
            kind=kind_of(job),
            position=places.get(job.number, 0),
            address=addresses.get(job.number, ""),
            after=predecessors.get(job.starts_after_id or 0),
            may_change=may_change(job, reader),
            may_delete=may_delete(job, reader),
        )
        for job in jobs
    ]


def row_make(job: Job, reader: User) -> JobRow:
    return rows_make([job], reader)[0]
