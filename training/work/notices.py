"""What a notice of a train's end says."""

from __future__ import annotations

from jobs.durations import run_seconds
from jobs.models import Notice
from jobs.notices import NoticeText, error_of, public_address, subject_of
from training.models import TrainRun


def train_notice(notice: Notice) -> NoticeText:
    run = TrainRun.objects.with_related().get(job=notice.job_id)
    address = public_address(run.get_absolute_url())
    return NoticeText(
        subject=subject_of(run.name, notice),
        paragraphs=_paragraphs(run, address),
        about={
            "train": {
                "id": run.pk,
                "name": run.name,
                "status": notice.status,
                "attempt": notice.attempt,
                "method": run.method.slug,
                "base_model": run.base_model.slug,
                "dataset": run.dataset.slug,
                "owner": run.owner.get_username() if run.owner else None,
                "step": run.step,
                "total_steps": run.total_steps,
                "duration_seconds": run_seconds(run),
                "best_value": run.best_value,
                "error": error_of(run),
                "url": address,
            }
        },
    )


def _paragraphs(run: TrainRun, address: str) -> list[str]:
    paragraphs = [
        f"{run.name} (#{run.pk}), {run.method.name} on {run.base_model.name} with "
        f"{run.dataset.title}"
    ]

    if run.total_steps:
        paragraphs.append(f"Step {run.step:,} of {run.total_steps:,}")
    if run.error:
        paragraphs.append(f"{run.error}\n{run.error_advice}")

    paragraphs.append(address)
    return paragraphs
